"""The thesis's networks: their published parameter counts, Keras's conventions, and codes that no batch changes."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import Acting, digits, weights
from torch import nn

from stage1_vqvae import thesis
from stage1_vqvae.batches import load
from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.encode import encode
from stage1_vqvae.model import VQVAE, build, levels_of, untrained
from stage1_vqvae.train import train
from stage1_vqvae.vae import VAE
from toolkit_datasets.card import Card, card_from, load_card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared

CPU = torch.device("cpu")
IMAGE = {"size": 128, "channels": 1}


def card(objective: str, size: int = 128) -> Card:
    table = "vae" if objective == "vae" else "vqvae"
    tables = {"image": {"size": size, "channels": 1}, "train": {"objective": objective}, table: {"network": "thesis"}}
    return card_from({"title": "test", **tables}, origin="test")


def enlarged(objective: str, **keys: object) -> Prepared:
    """A few real digits as images of 128 px, for a card with the thesis's networks; 2 epochs of 3 steps."""
    sizes = {"unlabelled": 20, "labelled": 4, "test": 4}
    tables = {"vae": {"network": "thesis"}} if objective == "vae" else {}
    vqvae = {"network": "thesis"} if objective == "reconstruct" else {}
    small = digits(
        sizes,
        objective=objective,
        epochs=2,
        batch_size=6,
        vqvae={"stride": 64, "code_dim": 16, **vqvae},
        tables={"image": IMAGE, "encode": {"batch_size": 8}, **tables},
        **keys,
    )
    images = small.images.repeat(16, axis=1).repeat(16, axis=2)
    return Prepared(**{**vars(small), "images": images})


def test_parameters_of_the_vae_encoder_are_the_published_ones() -> None:
    with torch.device("meta"):  # 80 million weights that nobody looks at
        model = untrained(card("vae"))
    assert isinstance(model, VAE)
    assert thesis.count(model.encoder) == (38_061_104, 2_784)
    assert model.encoder.mean.weight.shape == model.encoder.log_variance.weight.shape == (1024, 4 * 4 * 1024)


def test_parameters_of_the_vqvae_encoder_are_the_published_ones() -> None:
    model = untrained(card("reconstruct"))
    assert isinstance(model, VQVAE)
    assert thesis.count(model.encoder) == (248_912, 640)
    assert model.quantizer.codebook.shape == (1, 128, 16)  # 128 codes are our choice


def test_without_biases_the_counts_would_be_others() -> None:
    for objective, published in (("reconstruct", 248_912), ("vae", 38_061_104)):
        with torch.device("meta"):
            encoder = untrained(card(objective)).encoder
        biases = sum(layer.bias.numel() for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
        total, _ = thesis.count(encoder)
        assert total - biases < published


def test_conventions_are_those_of_keras() -> None:
    model = build(card("reconstruct"), seed=0)
    layers = list(model.encoder.modules())
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.3}
    assert {(layer.eps, layer.momentum) for layer in layers if isinstance(layer, nn.BatchNorm2d)} == {(1e-3, 0.01)}
    blocks = [layer for layer in layers if isinstance(layer, nn.Conv2d)][:-1]
    assert len(blocks) == 6
    side = 128
    for block in blocks:
        assert (block.kernel_size, block.stride, block.padding) == ((4, 4), (2, 2), (1, 1))
        assert not block.bias.any()
        limit = (6 / (16 * (block.in_channels + block.out_channels))) ** 0.5  # Glorot & Bengio 2010, eq. 16
        assert 0.9 * limit < float(block.weight.detach().abs().max()) <= limit
        side = block(torch.zeros(1, block.in_channels, side, side)).shape[-1]
    assert side == 2


@pytest.mark.parametrize(("objective", "size"), [("reconstruct", 128), ("reconstruct", 192), ("vae", 64)])
def test_decoders_mirror_the_encoders(objective: str, size: int) -> None:
    model = build(card(objective, size), seed=0).eval()
    images = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    latents = model.encode(images)
    (level,) = model.levels
    assert latents[level.name].shape == (2, level.dim, level.height, level.width)
    assert model.decode(model.vectors(latents)).shape == images.shape

    def channels(network: nn.Module, kind: type[nn.Module]) -> list[tuple[int, int]]:
        layers = [layer for layer in network.modules() if isinstance(layer, kind) and layer.stride == (2, 2)]
        return [(layer.in_channels, layer.out_channels) for layer in layers]

    there, back = channels(model.encoder, nn.Conv2d), channels(model.decoder, nn.ConvTranspose2d)
    assert back == [(after, before) for before, after in reversed(there)]


def test_levels_need_no_weights() -> None:
    assert levels_of(card("vae"))[0].dim == 1024
    assert levels_of(card("reconstruct")) == untrained(card("reconstruct")).levels


def test_a_preset_refuses_what_contradicts_it_and_survives_its_own_card() -> None:
    with pytest.raises(ToolkitError, match=r"'thesis' has vqvae\.stride = 64, not 8: leave it out, set it to 64"):
        load_card("folder", ["image.size=128", "vqvae.network=thesis", "vqvae.stride=8"])
    with pytest.raises(ToolkitError, match=r"image\.size = 64 .*vqvae\.stride = 64: .*at least 128, such as 128"):
        load_card("folder", ["vqvae.network=thesis"])
    with pytest.raises(ToolkitError, match=r"image\.size = 100 .*vae\.stride = 32: .*at least 64, such as 96"):
        load_card("folder", ["image.size=100", "train.objective=vae", "vae.network=thesis"])
    resolved = load_card("folder", ["image.size=128", "vqvae.network=thesis", "vqvae.codebook_size=64"])
    assert (resolved.vqvae.stride, resolved.vqvae.code_dim, resolved.vqvae.codebook_size) == (64, 16, 64)
    assert card_from(resolved.model_dump(mode="json"), origin="test") == resolved


def test_the_card_of_the_thesis_has_its_networks() -> None:
    for objective, published in (("reconstruct", 248_912), ("vae", 38_061_104)):
        with torch.device("meta"):
            model = untrained(load_card("ixi-thesis", [f"train.objective={objective}"]))
        assert thesis.count(model.encoder)[0] == published


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thesis") / "stage1"
    train(enlarged("reconstruct"), folder, device="cpu")
    return folder


def test_no_batch_changes_a_code(run: Path, tmp_path: Path) -> None:
    prepared, loaded = enlarged("reconstruct"), load_model(run, "cpu")
    model, images = loaded.model, load(prepared.images, np.arange(8), CPU)
    with torch.inference_mode():
        together = model.encode(images)["codes"]
        alone = torch.cat([model.encode(image[None])["codes"] for image in images])
        assert torch.allclose(together, alone, atol=1e-4)
        assert not torch.allclose(model.train().encode(images)["codes"], together, atol=1e-2), "in training it would"
    many = encode(run, prepared, np.arange(20), tmp_path / "many.h5", format="h5", content="latents", device="cpu")
    few = encode(run, prepared, np.arange(10, 13), tmp_path / "few.h5", format="h5", content="latents", device="cpu")
    assert np.array_equal(many.vectors("codes")[10:13], few.vectors("codes"))


def test_running_averages_resume_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    acting = Acting(4, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(enlarged("reconstruct"), tmp_path, device="cpu", progress=acting)
    train(enlarged("reconstruct"), tmp_path, device="cpu", resume=True)
    assert weights(tmp_path) == weights(run)


def test_the_thesis_vae_trains_at_a_small_size(tmp_path: Path) -> None:
    large = enlarged("vae")
    settings = large.card.model_copy(update={"image": large.card.image.model_copy(update={"size": 64})})
    prepared = Prepared(**{**vars(large), "card": settings, "images": np.ascontiguousarray(large.images[:, ::2, ::2])})
    metrics = train(prepared, tmp_path, device="cpu")
    assert np.isfinite(metrics["psnr"])
    assert metrics["levels"]["latents"]["numbers"] == 1024
