"""The coarse level's transform codes: which components a code takes, and how close the codes come."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stage1_vqvae.coarse import Coarse
from stage1_vqvae.patterns import Patterns, even_contrast, some_patches
from stage1_vqvae.quantizer import Quantizer
from stage1_vqvae.transform import next_components, principal_axes
from toolkit_datasets.card import load_card


def points(n: int, seed: int = 0) -> Tensor:
    """(n, 32) of a Gaussian whose principal components have variances that fall by a fifth from one to the next."""
    mixing = torch.randn(32, 32, generator=torch.Generator().manual_seed(7)) * 0.8 ** torch.arange(32)
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed)) @ mixing.t() + 5


def coarse(depth: int, codes: int = 64) -> Coarse:
    """A coarse level whose trunk has 32 channels."""
    sets = [
        f"coarse.depth={depth}",
        f"coarse.codebook_size={codes}",
        "coarse.width=8",
        "coarse.stride=8",
        "coarse.patterns=0",
    ]
    return Coarse(load_card("folder", ["train.objective=agree", *sets]))


def error(level: Coarse, x: Tensor) -> float:
    """Mean squared error of the codes of standardised `x`, as a share of its variance."""
    latents = (x[:, :, None, None] - level.centre) * level.scale
    return float((level.quantizer(latents).vectors - latents).square().mean())


@pytest.mark.parametrize(
    ("variances", "codes", "bits", "expected"),
    [
        ([1.0, 64.0, 16.0, 4.0], 2, 3.0, [1]),  # 6 bits in all: water at 1, so 3 + 2 + 1 bits
        ([1.0, 64.0, 16.0, 4.0], 1, 6.0, [1, 2, 3]),  # the same bits in one code
        ([1.0, 1.0, 1.0, 1.0], 2, 4.0, [0, 1]),  # 2 bits each
        ([4.0, 0.0, 0.0], 3, 2.0, [0]),  # nothing else to code
        ([0.0, 0.0], 1, 2.0, [0, 1]),
    ],
)
def test_a_code_takes_the_components_that_its_bits_can_tell_apart(
    variances: list[float], codes: int, bits: float, expected: list[int]
) -> None:
    assert next_components(torch.tensor(variances), codes=codes, bits=bits).tolist() == expected


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.integers(1, 40), st.floats(1, 16))
def test_any_variances_give_a_code_something_to_do(variances: list[float], codes: int, bits: float) -> None:
    found = next_components(torch.tensor(variances, dtype=torch.float64), codes=codes, bits=bits).tolist()
    assert found
    assert len(set(found)) == len(found)
    assert max(variances) == max(variances[place] for place in found)


def test_the_codes_come_close_to_what_so_many_bits_can_do() -> None:
    """Shannon's limit for a Gaussian is reverse water-filling; a fifth of the bits is what coding in parts may cost."""
    x = points(4000)
    level = coarse(depth=8)
    level.fit(x, generator=torch.Generator().manual_seed(0))
    standard = (x - x.mean(0)) / x.std(0, correction=0)
    variances = torch.linalg.eigvalsh(torch.cov(standard.t(), correction=0)).double().clamp_min(1e-12)
    rate = 8 * math.log2(64)

    def limit(bits: float) -> float:
        low, high = 0.0, float(variances.max())
        for _ in range(100):
            water = (low + high) / 2
            used = float((variances / water).log2().clamp_min(0).sum() / 2)
            low, high = (water, high) if used > bits else (low, water)
        return float(variances.clamp_max(water).mean())

    assert limit(rate) < error(level, x) < limit(0.8 * rate)
    assert error(level, points(2000, seed=1)) < 1.2 * error(level, x)  # on points it has not seen


def test_more_codes_come_closer_and_residual_codes_of_as_many_bits_do_worse() -> None:
    x, unseen = points(2000), points(2000, seed=1)
    errors = []
    for depth in (1, 4, 16):
        level = coarse(depth)
        level.fit(x, generator=torch.Generator().manual_seed(0))
        errors.append(error(level, unseen))
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]
    residual = Quantizer(64, 32, depth=16)
    standard = (x - x.mean(0)) / x.std(0, correction=0)
    residual.start(standard, tokens_per_step=1, generator=torch.Generator().manual_seed(0))
    latents = ((unseen - x.mean(0)) / x.std(0, correction=0))[:, :, None, None]
    assert float((residual(latents).vectors - latents).square().mean()) > 1.3 * errors[2]


def test_each_codebook_lies_on_principal_components() -> None:
    x = points(1000)
    level = coarse(depth=4)
    level.fit(x, generator=torch.Generator().manual_seed(0))
    axes = principal_axes((x - x.mean(0)) / x.std(0, correction=0))
    assert torch.allclose(axes.t() @ axes, torch.eye(32), atol=1e-5)
    used = [(codebook @ axes).abs().amax(0) > 1e-4 for codebook in level.quantizer.codebook]
    assert used[0].nonzero().flatten().tolist() == list(range(int(used[0].sum())))  # the first ones
    assert all(0 < int(places.sum()) < 16 for places in used)


def test_channels_that_never_fire_are_left_out() -> None:
    x = points(200)
    x[:, 3:] = 2.0
    level = coarse(depth=4)
    level.fit(x, generator=torch.Generator().manual_seed(0))
    assert level.scale.isfinite().all()
    assert (level.scale[3:] == 0).all()
    assert (level.quantizer.codebook[:, :, 3:] == 0).all()
    assert error(level, x) < 0.01


def photographs() -> Tensor:
    """Two real photographs, in 80 crops of 32 px with mean 0 and variance 1: (80, 3, 32, 32)."""
    from sklearn.datasets import load_sample_images

    found = []
    for image in load_sample_images().images:
        whole = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
        found.append(whole[:, :160, :256].unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).flatten(0, 1))
    crops = torch.cat(found)
    return (crops - crops.mean()) / crops.std()


def fitted(count: int = 16) -> tuple[Patterns, Tensor]:
    images = photographs()
    patterns, random = Patterns(3, count), torch.Generator().manual_seed(0)
    patches = some_patches(images, 40, generator=random)
    patterns.fit(patches.flatten(2).transpose(1, 2).flatten(0, 1), generator=random)
    return patterns, images


def test_patterns_answer_as_their_definition_says() -> None:
    patterns, images = fitted()
    white = (even_contrast(F.unfold(images, 6, stride=2).transpose(1, 2)) - patterns.centre) @ patterns.whitener
    distances = torch.cdist(white, patterns.patterns.expand(len(white), -1, -1))
    expected = (distances.mean(2, keepdim=True) - distances).clamp_min(0).transpose(1, 2).unflatten(2, (14, 14))
    # The variance of a patch is its mean square less its squared mean: 2e-5 lost where patches are flat, by processor.
    assert torch.allclose(patterns(images, grid=2), F.adaptive_avg_pool2d(expected, 2), atol=1e-4)


def test_patterns_do_not_see_brightness_and_hardly_contrast() -> None:
    patterns, images = fitted()
    here = patterns(images, grid=1)
    assert torch.allclose(patterns(images + 0.5, grid=1), here, atol=1e-4)
    assert (patterns(images * 2, grid=1) - here).abs().mean() < 0.2 * here.std()
    stripes = torch.sin(torch.arange(32.0) * 1.5).expand(1, 3, 32, 32)
    lying, standing = patterns(stripes, grid=1).flatten(), patterns(stripes.transpose(2, 3), grid=1).flatten()
    assert lying.argmax() != standing.argmax()


def test_whitened_patches_are_uncorrelated() -> None:
    patterns, images = fitted()
    patches = even_contrast(F.unfold(images, 6).transpose(1, 2).flatten(0, 1))
    spread = torch.linalg.eigvalsh(torch.cov((patches @ patterns.whitener).t()))
    before = torch.linalg.eigvalsh(torch.cov(patches.t()))
    assert spread.max() < 1.5
    assert before.max() > 20


def test_patches_are_those_of_the_image() -> None:
    image = torch.arange(3 * 8 * 8).view(1, 3, 8, 8).float()
    every = F.unfold(image, 6).squeeze(0).t()
    for patch in some_patches(image, 5, generator=torch.Generator().manual_seed(0))[0, :, 0].t():
        assert (every == patch).all(1).any()
