"""What stands beside the model's figures: the mean image, a blur, and principal components at equal bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from tiny_training import digits

from stage1_vqvae import references as module
from stage1_vqvae import scores
from stage1_vqvae.model import build
from stage1_vqvae.references import allocate, fit, references, uniform, widths
from toolkit_datasets.progress import Silent

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Real digits, (600, 8, 8, 1) uint8."""
    return (load_digits().images[:600] * 15.9).astype(np.uint8)[..., None]


def found(
    images: np.ndarray, codebook_size: int, stride: int = 4, *, foreground: bool = False
) -> dict[str, dict[str, float]]:
    prepared = digits(vqvae={"codebook_size": codebook_size, "stride": stride})
    model = build(prepared.card, seed=0)
    model.measure(images, np.arange(400))
    rows = np.arange(400), np.arange(400, 600)
    return references(model, images, *rows, batch_size=64, foreground=foreground, progress=Silent())


def test_the_mean_image_scores_about_one_and_more_bits_are_better(images: np.ndarray) -> None:
    few, many = found(images, 16, stride=8), found(images, 256)
    assert few["mean"] == many["mean"]
    errors = [many["mean"], few["pca"], many["pca"]]
    assert [row["normalised_mse"] for row in errors] == sorted((row["normalised_mse"] for row in errors), reverse=True)
    assert [row["psnr"] for row in errors] == sorted(row["psnr"] for row in errors)
    assert [row["ssim"] for row in errors] == sorted(row["ssim"] for row in errors)
    assert many["blurred"]["normalised_mse"] < many["mean"]["normalised_mse"]
    assert few["pca"]["bits_per_pixel"] * 64 == 4
    assert many["pca"]["bits_per_pixel"] * 64 == 4 * 8
    assert many["blurred"]["sigma"] == 8 / 32
    assert many["pca"]["fitted_on"] == 400


def test_the_mean_image_is_that_of_the_training_images(images: np.ndarray) -> None:
    plain = images / 255
    mean = plain[:400].mean(0)
    errors = ((plain[400:] - mean) ** 2).mean((1, 2, 3))
    deviation = np.sqrt(((plain[:400] - plain[:400].mean()) ** 2).mean())
    row = found(images, 16)["mean"]
    assert row["normalised_mse"] == pytest.approx(errors.mean() / deviation**2, rel=1e-4)
    assert row["psnr"] == pytest.approx((-10 * np.log10(errors)).mean(), rel=1e-4)


def test_inside_the_foreground_black_pixels_do_not_count_and_black_images_have_none(images: np.ndarray) -> None:
    images = images.copy()
    images[400:410] = 0
    rows = found(images, 16, foreground=True)
    original = torch.from_numpy(images[400:]).permute(0, 3, 1, 2).float() / 255
    mean = torch.from_numpy(images[:400] / 255).float().mean(0).permute(2, 0, 1).expand_as(original)
    similar = scores.ssim_map(original, mean)[:, 0]
    each = [of[seen].mean().item() for of, seen in zip(similar, images[400:, ..., 0] > 0, strict=True)][10:]
    assert rows["mean"]["ssim_foreground"] == pytest.approx(np.mean(each), rel=1e-4)
    plain = found(images, 16)
    assert all("ssim_foreground" not in row for row in plain.values())
    assert {name: row["ssim"] for name, row in rows.items()} == {name: row["ssim"] for name, row in plain.items()}


def test_without_quantisation_it_is_principal_component_analysis(images: np.ndarray) -> None:
    code = fit(images, np.arange(400), bits=32 * 10, quantised=False, device=CPU)
    assert (code.axes.shape, code.bits, code.images) == ((64, 10), 320, 400)
    plain = images.astype(np.float64).reshape(600, -1) / 255
    theirs = PCA(10, svd_solver="full").fit(plain[:400])
    expected = theirs.inverse_transform(theirs.transform(plain[400:]))
    ours = code(torch.from_numpy(images[400:]).permute(0, 3, 1, 2).float() / 255)
    assert np.allclose(ours.reshape(200, -1), expected.clip(0, 1), atol=1e-4)


def test_quantising_costs_little_more_than_theory_says(images: np.ndarray) -> None:
    """At a high rate a uniform quantiser of a Gaussian loses at most 2.5 dB to the bound aimed at."""
    code = fit(images, np.arange(600), bits=60, quantised=True, device=CPU)
    points = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    error = float((code(points) - points).square().sum() / 600)
    centred = (points - points.mean(0)).flatten(1).double()
    variances = torch.linalg.eigvalsh(centred.t() @ centred / 600).flip(0)
    ideal = sum(v / 4**share for v, share in zip(variances.tolist(), allocate(variances.tolist(), 60), strict=True))
    assert ideal * 0.9 < error < ideal * 1.8
    assert code.bits == int(code.levels.log2().sum()) == 60


def test_bits_go_where_most_is_to_gain_and_never_beyond_sixteen() -> None:
    assert allocate([16.0, 4.0, 1.0, 0.1], 6) == [3, 2, 1, 0]
    assert allocate([1.0], 40) == [16]
    assert allocate([], 5) == []


def test_the_step_of_a_normal_distribution_is_the_known_one() -> None:
    """Optimum uniform quantisers of a standard normal (Max, "Quantizing for minimum distortion", 1960, table II)."""
    points = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 3).contiguous()
    found = widths(points, torch.tensor([2.0, 4.0, 8.0]))
    assert found.tolist() == pytest.approx([1.596, 0.9957, 0.5860], rel=0.08)


def test_a_uniform_quantiser_has_as_many_values_as_levels() -> None:
    values = torch.linspace(-3, 3, 1001)[:, None]
    for levels in (2, 4, 16):
        decoded = uniform(values, torch.tensor([0.3]), torch.tensor([float(levels)]))
        assert len(decoded.unique()) == min(levels, 20)
    inside = values[values.abs() < 0.6][:, None]
    assert float((uniform(inside, torch.tensor([0.3]), torch.tensor([4.0])) - inside).abs().max()) <= 0.1501


def test_the_blur_is_a_gaussian(images: np.ndarray) -> None:
    plain = images[:5, :, :, 0].astype(np.float64) / 255
    ours = scores.blurred(torch.from_numpy(plain)[:, None].float(), 1.0)[:, 0]
    expected = np.stack([gaussian_filter(image, 1.0, mode="mirror", radius=3) for image in plain])
    assert np.allclose(ours, expected, atol=1e-5)
    assert torch.allclose(scores.blurred(torch.ones(1, 3, 8, 8), 4.0), torch.ones(1, 3, 8, 8), atol=1e-5)


def test_memory_bounds_how_many_images_are_looked_at(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 50 * 64 * 4)
    code = fit(images, np.arange(400), bits=2000, quantised=True, device=CPU)
    assert code.images == 50
    assert code.axes.shape[1] <= 49


def test_images_without_any_variance_give_figures_too() -> None:
    flat = np.full((20, 8, 8, 1), 90, np.uint8)
    assert np.isfinite([row["psnr"] for row in found(np.tile(flat, (30, 1, 1, 1)), 16).values()]).all()
