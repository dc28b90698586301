"""Images beside their reconstructions: the scores of scores.py, whole by whole, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_training import digits

from stage1_vqvae import scores
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.model import build
from stage1_vqvae.reconstruct import score
from stage1_vqvae.side_by_side import INSIDE, SCORES, Pairs, side_by_side


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    prepared = digits()
    built = build(prepared.card, seed=3).eval()
    built.measure(prepared.images, np.arange(80))
    return built


def gathered(model: Autoencoder, wholes: list[str], batch_size: int) -> list[Pairs]:
    images = digits().images
    rows = np.arange(5, 5 + len(wholes))
    return list(side_by_side(model, images, rows, wholes=np.array(wholes), batch_size=batch_size, foreground=True))


@pytest.mark.parametrize("wholes", ["aaabbbbbcdd", "abcdefghijk", "aaaaaaaaaaa", "aaaabbbbccc"])
def test_every_whole_comes_once_and_together_in_any_batch_size(model: Autoencoder, wholes: str) -> None:
    names = list(wholes)
    whole = gathered(model, names, 32)
    assert [len(each.rows) for each in whole] == [names.count(name) for name in dict.fromkeys(names)]
    for size in (1, 2, 3, 4, 5):
        parts = gathered(model, names, size)
        assert [each.rows.tolist() for each in parts] == [each.rows.tolist() for each in whole]
        for part, each in zip(parts, whole, strict=True):
            assert part.reconstructions == pytest.approx(each.reconstructions, abs=1e-5)
            assert (part.originals == each.originals).all()
            assert part.indices["codes"].shape == (len(each.rows), 1, 2, 2)


def test_scores_are_those_of_the_training_figures_and_of_the_foreground(model: Autoencoder) -> None:
    (found,) = gathered(model, ["a"] * 20, 32)
    assert set(found.scores) == {*SCORES, *INSIDE}
    expected = score(model, digits().images, np.arange(5, 25), batch_size=32)
    for name in ("mse", "psnr", "ssim"):
        assert found.scores[name] == pytest.approx(getattr(expected, name), abs=1e-6)
    errors = np.abs(found.originals / 255 - found.reconstructions)
    assert found.scores["mae"] == pytest.approx(errors.mean((1, 2, 3)), abs=1e-6)
    mask = found.originals[..., 0] > 0
    assert found.scores["foreground"] == pytest.approx(mask.mean((1, 2)))
    inside = [(e[..., 0][m] ** 2).mean() for e, m in zip(errors, mask, strict=True)]
    assert found.scores["mse_foreground"] == pytest.approx(inside, rel=1e-5)
    assert found.scores["psnr_foreground"] == pytest.approx(-10 * np.log10(inside), rel=1e-5)


def test_ssim_inside_is_the_mean_of_the_map_there() -> None:
    a, b = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    similar = scores.ssim_map(a, b)
    assert torch.equal(similar.mean((1, 2, 3)), scores.ssim(a, b))
    mask = torch.zeros(2, 16, 16)
    mask[0, 2:5, 3:9] = 1
    found = scores.within(similar, mask)
    assert found[0].item() == pytest.approx(similar[0, :, 2:5, 3:9].mean().item(), rel=1e-5)
    assert found[1].isnan(), "no foreground, no score"
