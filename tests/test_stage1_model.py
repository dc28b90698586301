"""Networks of every shape, the model around them, the objective, and the scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from stage1_vqvae import scores
from stage1_vqvae.assessment import perplexity, usage
from stage1_vqvae.device import choose_device, training_dtype
from stage1_vqvae.model import VQVAE, build
from stage1_vqvae.networks import norm
from stage1_vqvae.phases import Reconstruct
from toolkit_datasets.card import Card, card_from
from toolkit_datasets.errors import ToolkitError


def card(size: int = 16, channels: int = 3, **vqvae: object) -> Card:
    settings = {"stride": 4, "width": 16, "blocks": 1, "codebook_size": 16, "code_dim": 8, **vqvae}
    image = {"size": size, "channels": channels}
    return card_from({"title": "test", "image": image, "vqvae": settings}, origin="test")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(b: int, size: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (b, channels, size, size), dtype=torch.uint8, generator=generator(seed))


@pytest.mark.parametrize("stride", [2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("times", [1, 3])  # a single code, and an odd grid
def test_every_stride_size_and_channel_count(stride: int, channels: int, times: int) -> None:
    size = max(8, stride) * times
    model = VQVAE(card(size, channels, stride=stride)).eval()
    images = noise(2, size, channels)
    quantized = model.quantize(model.encode(images))["codes"]
    assert quantized.latents.shape == (2, 8, size // stride, size // stride)
    decoded = model.decode({"codes": quantized.vectors})
    assert decoded.shape == images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert model.grid == size // stride
    assert model.levels[0].height == model.grid


@pytest.mark.parametrize("width", [8, 13, 64])
@pytest.mark.parametrize("blocks", [0, 2])
def test_any_width_and_number_of_blocks(width: int, blocks: int) -> None:
    settings = card(16, 1, stride=16, width=width, blocks=blocks)
    model = VQVAE(settings)
    one = noise(1, 16, 1)  # one image, one code
    outcome = Reconstruct(model, settings).loss(one, np.arange(1), generator=generator())
    outcome.loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("channels", [1, 4, 6, 26, 32, 128])
def test_groups_divide_the_channels(channels: int) -> None:
    assert channels % norm(channels).num_groups == 0
    assert norm(128).num_groups == 8


def test_no_layer_mixes_images_of_a_batch() -> None:
    model = VQVAE(card(16, 3)).train()
    images = noise(4, 16, 3)
    alone = torch.cat([model.encode(image[None])["codes"] for image in images])
    assert torch.allclose(model.encode(images)["codes"], alone, atol=1e-5)


def test_build_depends_on_the_seed_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = build(card(), seed=1), build(card(), seed=1), build(card(), seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.encoder[0].weight, c.encoder[0].weight)


def test_measure_takes_exact_brightness() -> None:
    images = np.random.default_rng(0).integers(0, 200, (50, 8, 8, 3), dtype=np.uint8)
    rows = np.arange(10, 50)
    model = VQVAE(card(8, 3, stride=2))
    model.measure(images, rows)
    plain = images[rows] / 255
    mean = plain.mean((0, 1, 2))
    assert np.allclose(model.mean.flatten(), mean, atol=1e-6)
    assert float(model.deviation) == pytest.approx(np.sqrt(((plain - mean) ** 2).mean()), rel=1e-5)
    normal = model.normalise(torch.from_numpy(images[rows]).permute(0, 3, 1, 2))
    assert float(normal.var(unbiased=False)) == pytest.approx(1, rel=1e-3)
    assert torch.allclose(model.pixels(normal), torch.from_numpy(plain).permute(0, 3, 1, 2).float(), atol=1e-5)


def test_measure_of_constant_images_stays_finite() -> None:
    model = VQVAE(card(8, 1, stride=2))
    model.measure(np.full((4, 8, 8, 1), 7, np.uint8), np.arange(4))
    assert float(model.deviation) == pytest.approx(1 / 255)


def test_bits_per_pixel_and_levels() -> None:
    model = VQVAE(card(64, 3, stride=8, codebook_size=512))
    assert model.bits_per_pixel == pytest.approx(9 / 64)
    assert model.codebooks["codes"].shape == (1, 512, 8)


def test_tiny_model_overfits_one_batch() -> None:
    settings = card(16, 1, stride=4, width=32, codebook_size=32)
    model = build(settings, seed=0)
    images = torch.nn.functional.interpolate(noise(4, 4, 1).float(), 16, mode="bilinear").to(torch.uint8)
    model.measure(images.permute(0, 2, 3, 1).numpy(), np.arange(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    errors = []
    phase = Reconstruct(model, settings)
    for step in range(250):
        outcome = phase.loss(images, np.arange(4), generator=generator(step))
        optimizer.zero_grad()
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        phase.after_step(generator=generator(step))
        errors.append(float(outcome.parts["reconstruction"].detach()))
    assert errors[-1] < 0.02 < 0.5 < errors[0]


def test_loss_is_error_plus_beta_commitment_and_each_reaches_what_it_should() -> None:
    settings = card(16, 3, commitment=0.25)
    model = VQVAE(settings)
    outcome = Reconstruct(model, settings).loss(noise(2, 16, 3), np.arange(2), generator=generator())
    parts = outcome.parts
    assert torch.allclose(outcome.loss, parts["reconstruction"] + 0.25 * parts["commitment"])
    coded = model.quantize(model.encode(noise(2, 16, 3)))["codes"]
    assert torch.allclose(parts["commitment"], (coded.latents - coded.vectors).square().mean(), rtol=1e-5)
    parts["commitment"].backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in model.decoder.parameters())
    assert model.encoder[0].weight.grad.abs().sum() > 0
    model.zero_grad()
    parts["reconstruction"].backward()  # type: ignore[no-untyped-call]
    assert model.encoder[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(3, 3, 64, 64), (2, 1, 33, 20), (2, 3, 8, 8)])
def test_ssim_equals_torchmetrics(shape: tuple[int, ...]) -> None:
    a = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    b = (a + 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    theirs = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    assert torch.allclose(scores.ssim(a, b), theirs, atol=1e-5)
    assert torch.allclose(scores.ssim(a, a), torch.ones(len(a)))


def test_psnr_of_known_errors() -> None:
    a = torch.zeros(2, 1, 8, 8)
    b = torch.stack([torch.full((1, 8, 8), 0.1), torch.zeros(1, 8, 8)])
    assert scores.psnr(a, b).tolist() == pytest.approx([20.0, 100.0], abs=1e-4)
    assert scores.mse(a, b).tolist() == pytest.approx([0.01, 0.0])


def test_usage_and_perplexity() -> None:
    counts = np.array([4, 4, 0, 0])
    assert usage(counts) == 0.5
    assert perplexity(counts) == pytest.approx(2.0)
    assert perplexity(np.array([7, 0])) == pytest.approx(1.0)
    assert perplexity(np.array([[7, 0], [4, 4]])) == pytest.approx(1.5)  # mean over residual depths


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ToolkitError, match="choose auto"):
            choose_device(name)
    cpu = torch.device("cpu")
    assert training_dtype(cpu, "float32") is torch.float32
    assert training_dtype(cpu, "bfloat16") is torch.bfloat16
    assert training_dtype(cpu) in (torch.float32, torch.bfloat16)


def test_bfloat16_only_where_the_cpu_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert training_dtype(torch.device("cpu")) is (torch.bfloat16 if has else torch.float32)
