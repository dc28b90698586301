"""The VAE: its bound against the equations, its KL, the scaling errors, resuming, and latents as a code store."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_training import Acting, digits, kill, weights

from stage1_vqvae.batches import load
from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.elbo import Elbo
from stage1_vqvae.encode import encode, random_codes
from stage1_vqvae.model import build
from stage1_vqvae.objectives import divergence, gaussian_error
from stage1_vqvae.reconstruct import decode, reconstruct
from stage1_vqvae.train import train
from stage1_vqvae.vae import VAE, Posterior
from toolkit_datasets.card import card_from, load_card
from toolkit_datasets.codes import open_codes
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Silent

CPU = torch.device("cpu")
PIXELS, LATENTS = 64, 16
STEPS = 15


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latent(splits: dict[str, int] | None = None, *, noise: float = 0.5, seed: int = 0, **keys: object) -> Prepared:
    """The digits, 8x8, with a small VAE; 15 steps."""
    table = {"stride": 4, "width": 16, "blocks": 1, "latent_dim": LATENTS, "noise": noise}
    return digits(*([splits] if splits else []), seed=seed, objective="vae", tables={"vae": table}, **keys)


# The bound


def test_both_terms_equal_the_equations_in_float64() -> None:
    draw = np.random.default_rng(0)
    decoded, target = draw.normal(size=(3, 2, 4, 4)), draw.normal(size=(3, 2, 4, 4))
    mean, log_variance = draw.normal(size=(3, 5)), draw.normal(size=(3, 5))
    noise = 0.3
    log_likelihood = -((target - decoded) ** 2) / (2 * noise**2) - np.log(noise * np.sqrt(2 * np.pi))
    constant = 2 * 4 * 4 * np.log(noise * np.sqrt(2 * np.pi))
    expected = -log_likelihood.sum((1, 2, 3)).mean() - constant
    found = gaussian_error(torch.tensor(decoded), torch.tensor(target, dtype=torch.float32), noise=noise)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    # KL by its definition, E_q[log q(z) - log p(z)], integrated numerically for every latent
    z = np.linspace(-30, 30, 60_001)
    total = 0.0
    for m, v in zip(mean.ravel(), np.exp(log_variance).ravel(), strict=True):
        log_q, log_p = -((z - m) ** 2) / (2 * v) - np.log(2 * np.pi * v) / 2, -(z**2) / 2 - np.log(2 * np.pi) / 2
        total += np.trapezoid(np.exp(log_q) * (log_q - log_p), z)
    assert float(divergence(torch.tensor(mean), torch.tensor(log_variance))) == pytest.approx(total / 3, rel=1e-6)


def test_draws_have_the_mean_and_variance_of_the_posterior_and_carry_gradients() -> None:
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -1.0]])
    many = Posterior(mean.expand(20_000, 2), log_variance.expand(20_000, 2)).draw(generator=generator())
    assert torch.allclose(many.mean(0), mean[0], atol=0.03)
    assert torch.allclose(many.var(0), log_variance.exp()[0], rtol=0.05)
    mean.requires_grad_()
    log_variance.requires_grad_()
    Posterior(mean, log_variance).draw(generator=generator()).sum().backward()
    assert mean.grad is not None
    assert log_variance.grad is not None
    assert (mean.grad == 1).all()
    assert (log_variance.grad != 0).all()


def test_the_loss_is_the_negative_bound_with_the_warm_up_and_a_constant() -> None:
    prepared = latent(epochs=10)
    model = build(prepared.card, seed=0)
    phase = Elbo(model, prepared.card)
    phase.ready(prepared.images, np.arange(64), Silent())  # 10 epochs of 4 steps, a fifth of which warms up
    batch = load(prepared.images, np.arange(8), CPU)
    for step, weight in enumerate([0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1, 1]):
        outcome = phase.loss(batch, np.arange(8), generator=generator(step))
        parts = {name: float(value.detach()) for name, value in outcome.parts.items()}
        assert parts["kl_weight"] == pytest.approx(weight)
        unit = 2 * 0.5**2 / PIXELS
        error = parts["negative_bound"] - parts["kl"]
        assert float(outcome.loss.detach()) == pytest.approx((error + weight * parts["kl"]) * unit, rel=1e-5)
        assert parts["reconstruction"] == pytest.approx(error * unit, rel=1e-5)
        phase.after_step(generator=generator())


def test_bounds_are_the_same_for_any_batch_size() -> None:
    """Summed for each image and averaged over the batch: the batch size is in neither term."""
    mean, log_variance = torch.randn(8, 5, generator=generator()), torch.randn(8, 5, generator=generator(1))
    images = torch.randn(8, 1, 4, 4, generator=generator(2))
    kl = [divergence(mean[i::2], log_variance[i::2]) for i in (0, 1)]
    error = [gaussian_error(images[i::2] * 0.5, images[i::2], noise=0.5) for i in (0, 1)]
    assert torch.allclose(sum(kl) / 2, divergence(mean, log_variance))
    assert torch.allclose(sum(error) / 2, gaussian_error(images * 0.5, images, noise=0.5))


# The scaling errors

PIXEL_MEAN_ERROR, LATENT_MEAN_KL = 0.5 * PIXELS**0.5, 0.5 / LATENTS**0.5
"""`vae.noise` with which the right bound is, but for a constant, each of the two wrong ones."""


def test_averaging_one_term_only_is_another_noise() -> None:
    decoded, target = torch.randn(2, 4, 1, 8, 8, generator=generator())
    mean, log_variance = torch.randn(2, 4, LATENTS, generator=generator(1))
    error, kl = gaussian_error(decoded, target, noise=0.5), divergence(mean, log_variance)
    pixel_mean = error / PIXELS + kl
    assert torch.allclose(pixel_mean, gaussian_error(decoded, target, noise=PIXEL_MEAN_ERROR) + kl)
    latent_mean = error + kl / LATENTS
    assert torch.allclose(latent_mean * LATENTS, gaussian_error(decoded, target, noise=LATENT_MEAN_KL) + kl)


def history(tmp_path: Path, noise: float) -> pd.DataFrame:
    train(latent({"unlabelled": 200}, noise=noise, epochs=50, batch_size=32), tmp_path, device="cpu")
    return pd.read_csv(tmp_path / "history.csv")


def test_the_kl_settles_once_it_counts_in_full(tmp_path: Path) -> None:
    found = history(tmp_path, 0.5)
    assert found["kl_weight"].iloc[0] < 0.2
    assert found["kl_weight"].iloc[-1] == 1
    late = found["kl"].iloc[-15:]
    assert late.max() / late.min() < 1.15
    assert found["kl"].max() < 8
    assert found["validation_kl"].iloc[-1] == pytest.approx(found["kl"].iloc[-1], rel=0.3)
    assert found["reconstruction"].iloc[-1] < 0.5 < found["reconstruction"].iloc[0]  # of the mean image: 1


def test_a_kl_averaged_over_latents_grows_as_long_as_one_trains(tmp_path: Path) -> None:
    found = history(tmp_path, LATENT_MEAN_KL)["kl"]
    thirds = [float(part.mean()) for part in np.array_split(found, 3)]
    assert thirds[0] * 1.2 < thirds[1]
    assert thirds[1] * 1.05 < thirds[2]
    assert found.iloc[-1] > 15  # against less than 8 nats where it is summed


def test_an_error_averaged_over_pixels_kills_every_latent(tmp_path: Path) -> None:
    found = history(tmp_path, PIXEL_MEAN_ERROR)
    assert found["kl"].iloc[-1] < 0.05
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["levels"]["latents"]["active"] == 0
    assert metrics["normalised_mse"] > 0.95 * metrics["references"]["mean"]["normalised_mse"]  # no better than that


# The training


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "stage1"
    train(latent(), folder, device="cpu")
    return folder


def test_what_a_training_leaves_behind(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["model"] == json.loads((run / "model.json").read_text())["architecture"]["name"] == "vae"
    assert metrics["bits_per_pixel"] == 32 * LATENTS / PIXELS
    assert metrics["levels"]["latents"]["numbers"] == LATENTS
    assert "codebook_usage" not in metrics
    assert metrics["code_counts"] == {}
    assert {"kl", "kl_weight", "negative_bound", "validation_kl"} < set(pd.read_csv(run / "history.csv").columns)


@pytest.mark.parametrize("at", [1, 5, 8, STEPS])
def test_interrupted_and_resumed_gives_the_same_bits(at: int, run: Path, tmp_path: Path) -> None:
    acting = Acting(at, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(latent(), tmp_path, device="cpu", progress=acting)
    train(latent(), tmp_path, device="cpu", resume=True)
    assert weights(tmp_path) == weights(run)
    for name in ("kl", "kl_weight", "validation_psnr", "validation_kl"):
        ours, theirs = pd.read_csv(tmp_path / "history.csv"), pd.read_csv(run / "history.csv")
        pd.testing.assert_series_equal(ours[name], theirs[name], check_exact=True)


def test_a_vqvae_is_not_resumed_as_a_vae(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(digits(), tmp_path, device="cpu", progress=Acting(7, kill))
    with pytest.raises(ToolkitError, match=r"train\.objective was 'reconstruct' and is now 'vae'"):
        train(latent(), tmp_path, device="cpu", resume=True)


@pytest.mark.parametrize("size", [8, 24])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_that_the_stride_divides(size: int, channels: int) -> None:
    card = card_from(
        {
            "title": "test",
            "image": {"size": size, "channels": channels},
            "train": {"objective": "vae"},
            "vae": {"stride": 8, "width": 8, "latent_dim": 3},
        },
        origin="test",
    )
    model = build(card, seed=0)
    images = torch.randint(0, 256, (2, channels, size, size), dtype=torch.uint8)
    phase = Elbo(model, card)
    phase.loss(images, np.arange(2), generator=generator()).loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval().decode(model.encode(images)).shape == images.shape


def test_cards_of_a_vae() -> None:
    card = load_card("digits", ["train.objective=vae"])
    assert card.encode.content == "latents"
    assert load_card("digits").encode.content == "vectors"
    assert card_from(card.model_dump(mode="json"), origin="test") == card
    with pytest.raises(ToolkitError, match=r'cannot write encode\.content = "indices": leave it out'):
        load_card("digits", ["train.objective=vae", "encode.content=indices"])
    with pytest.raises(ToolkitError, match=r"image\.size = 20 is not divisible by vae\.stride = 8"):
        load_card("digits", ["train.objective=vae", "image.size=20"])


# Latents as codes


@pytest.mark.parametrize("format", ["npy", "h5"])
def test_latents_are_stored_read_and_decoded(format: str, run: Path, tmp_path: Path) -> None:
    prepared = latent()
    rows = prepared.rows("labelled", "test")
    path = tmp_path / ("codes" if format == "npy" else "codes.h5")
    encode(run, prepared, rows, path, format=format, content="latents", device="cpu")  # type: ignore[arg-type]
    store = open_codes(path)
    (level,) = store.info.levels
    assert (level.name, level.codes, level.dim, level.height, level.width) == ("latents", 0, LATENTS, 1, 1)
    assert store.info.bits_per_pixel == 32 * LATENTS / PIXELS
    model = load_model(run, "cpu").model
    with torch.inference_mode():
        expected, _ = reconstruct(model, load(prepared.images, rows, CPU))
        means = model.encode(load(prepared.images, rows, CPU))["latents"].numpy()
    assert np.allclose(store.vectors("latents"), means, atol=1e-5)
    decoded = np.concatenate([images for _, images in decode(run, store, device="cpu")])
    assert np.abs(decoded / 255 - expected.permute(0, 2, 3, 1).numpy()).max() < 0.01
    if format == "npy":
        assert not (path / "codebook.npy").exists()
        assert len(list(path.glob("*.npy"))) == len(rows)


def test_both_formats_hold_the_same_latents_of_each_image_alone(run: Path, tmp_path: Path) -> None:
    prepared = latent()
    whole = encode(run, prepared, np.arange(100), tmp_path / "codes", format="npy", content="latents", device="cpu")
    part = encode(run, prepared, np.arange(40, 45), tmp_path / "part.h5", format="h5", content="latents", device="cpu")
    assert np.array_equal(whole.vectors("latents")[40:45], part.vectors("latents"))


@pytest.mark.parametrize("content", ["vectors", "indices"])
def test_a_vae_has_no_codes_to_write(content: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=rf"holds a VAE.* no {content} to write: give --content latents"):
        encode(run, latent(), np.arange(4), tmp_path / "c", format="npy", content=content)  # type: ignore[arg-type]


def test_random_latents_come_without_codebooks() -> None:
    prepared = latent()
    latents, codebooks = random_codes(prepared.card, prepared.images, np.arange(30, 50), np.arange(80), device="cpu")
    assert codebooks == {}
    assert latents["latents"].shape == (20, LATENTS, 1, 1)
    assert isinstance(build(prepared.card, seed=0), VAE)
