"""The objective `agree`: views, the loss, the frozen trunk, the coarse level, and the training as a whole."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_training import Acting, digits, kill, weights
from torch import Tensor, nn

from stage1_vqvae.batches import load
from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.coarse import shrink
from stage1_vqvae.encode import encode, random_codes
from stage1_vqvae.networks import fold, trunk
from stage1_vqvae.objectives import agreement, corrupted
from stage1_vqvae.phases import Reconstruct
from stage1_vqvae.reconstruct import decode, reconstruct
from stage1_vqvae.train import train
from stage1_vqvae.views import Draw, apply, draw
from toolkit_datasets.card import load_card
from toolkit_datasets.card_stages import Corrupt, Views
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Silent

AGREE_STEPS, STEPS = 6, 6 + 15
LEVELS = ("fine", "coarse", "patterns")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agreeing(vqvae: dict[str, object] | None = None, **tables: object) -> Prepared:
    """The digits with a coarse level: 6 steps of agreement, then 15 of reconstruction."""
    own = {
        "coarse": {"stride": 4, "width": 8, "patterns": 3, "grid": 2, "codebook_size": 8, "depth": 3},
        "agree": {"epochs": 2, "batch_size": 30, "hidden": 16, "projection": 8},
    }
    return digits(objective="agree", vqvae=vqvae, tables=own | tables)


def placed(images: Tensor, matrix: list[list[float]], size: int) -> Tensor:
    """The view of `images` that an affine map alone gives."""
    one, n = torch.ones(len(images)), len(images)
    return apply(
        images, Draw(torch.tensor([matrix] * n).float(), one, one, one, torch.zeros(n, images.shape[1])), size=size
    )


def test_flip_crop_and_turn_land_where_they_should() -> None:
    images = torch.rand(4, 3, 8, 8, generator=generator())
    assert torch.allclose(placed(images, [[1, 0, 0], [0, 1, 0]], 8), images, atol=1e-6)
    assert torch.allclose(placed(images, [[-1, 0, 0], [0, 1, 0]], 8), images.flip(3), atol=1e-6)
    assert torch.allclose(placed(images, [[0.5, 0, -0.5], [0, 0.5, 0.5]], 4), images[:, :, 4:, :4], atol=1e-6)
    assert torch.allclose(placed(images, [[0, -1, 0], [1, 0, 0]], 8), images.transpose(2, 3).flip(2), atol=1e-5)


def test_colour_changes_do_what_their_names_say() -> None:
    images = torch.rand(2, 3, 8, 8, generator=generator()) * 0.4 + 0.3
    same = Draw(torch.eye(2, 3).expand(2, 2, 3), *[torch.ones(2)] * 3, torch.zeros(2, 3))
    half = torch.full((2,), 0.5)
    view = apply(images, replace(same, brightness=half), size=8)
    assert torch.allclose(view, images / 2, atol=1e-6)
    view = apply(images, replace(same, contrast=half), size=8)
    assert torch.allclose(view.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-6)
    assert torch.allclose(view.std((1, 2, 3)), images.std((1, 2, 3)) / 2, atol=1e-5)
    view = apply(images, replace(same, saturation=torch.zeros(2)), size=8)
    assert torch.allclose(view, images.mean(1, keepdim=True).expand_as(images), atol=1e-6)
    view = apply(images, replace(same, tint=torch.tensor([[0.1, 0, 0]] * 2)), size=8)
    assert torch.allclose(view[:, 0], images[:, 0] + 0.1, atol=1e-6)
    assert torch.allclose(view[:, 1:], images[:, 1:], atol=1e-6)


def test_draws_keep_to_their_settings_and_replay() -> None:
    settings = Views(area=(0.25, 0.81), aspect=1.0, brightness=0.2, grey=0.5, saturation=0.1)
    drawn = draw(4000, 3, settings, generator=generator())
    side = drawn.place[:, 1, 1]
    assert side.min() >= 0.5
    assert side.max() <= 0.9
    assert (drawn.place[:, 0, 2].abs() + side <= 1 + 1e-5).all()  # a view never leaves the image
    assert 0.45 < (drawn.place[:, 0, 0] < 0).float().mean() < 0.55
    assert 0.8 <= drawn.brightness.min() < drawn.brightness.max() <= 1.2
    assert 0.45 < (drawn.saturation == 0).float().mean() < 0.55
    again = draw(4000, 3, settings, generator=generator())
    assert all(torch.equal(a, b) for a, b in zip(vars(drawn).values(), vars(again).values(), strict=True))
    still = draw(50, 1, Views(area=(1, 1), flip=False, aspect=1), generator=generator())
    assert torch.allclose(still.place, torch.eye(2, 3).expand(50, 2, 3), atol=1e-6)


def test_agreement_equals_the_equation() -> None:
    first, second = torch.randn(5, 7, generator=generator()), torch.randn(5, 7, generator=generator(1))
    loss, found = agreement(first, second, temperature=0.5)
    views = np.concatenate([first.numpy(), second.numpy()]).astype(np.float64)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    losses, right = [], []
    for i in range(10):
        similar = np.exp(views @ views[i] / 0.5)
        others = np.delete(similar, i)
        losses.append(-np.log(similar[(i + 5) % 10] / others.sum()))
        right.append(similar[(i + 5) % 10] == others.max())
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(found) == pytest.approx(np.mean(right))
    loss, found = agreement(first, 3 * first, temperature=0.05)  # lengths do not matter
    assert float(found) == 1
    assert float(loss) < 0.1


def test_corruption_hides_whole_cells_and_adds_noise() -> None:
    images = torch.ones(50, 3, 16, 16)
    assert corrupted(images, Corrupt(), generator=generator()) is images
    masked = corrupted(images, Corrupt(mask=0.3, cell=4), generator=generator())
    cells = masked.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)  # (B, C, 4, 4, 16)
    assert ((cells == 0).all(-1) | (cells == 1).all(-1)).all()
    assert torch.equal(masked[:, 0], masked[:, 2])
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=0.05)
    noisy = corrupted(images, Corrupt(noise=0.5), generator=generator())
    assert float((noisy - images).std()) == pytest.approx(0.5, rel=0.02)
    odd = corrupted(torch.ones(2, 1, 10, 10), Corrupt(mask=0.5, cell=4), generator=generator())
    assert odd.shape == (2, 1, 10, 10)


def test_a_folded_trunk_computes_what_the_trained_one_does() -> None:
    learned = trunk(channels=3, stride=8, width=8, normed=True)
    frozen = trunk(channels=3, stride=8, width=8, normed=False)
    for module in learned.modules():
        if isinstance(module, nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2, generator=generator())
            torch.nn.init.normal_(module.bias, generator=generator(1))
    images = torch.randn(16, 3, 16, 16, generator=generator())
    for _ in range(20):
        learned(images)  # running averages of its own
    fold(learned.eval(), frozen)
    expected = learned(images)
    assert expected.shape == (16, 32, 2, 2)
    assert torch.allclose(frozen(images), expected, atol=1e-4)
    assert torch.allclose(frozen(images[:1]), expected[:1], atol=1e-4)


def test_large_images_are_seen_small() -> None:
    images = torch.rand(2, 3, 32, 32, generator=generator())
    assert shrink(images, 32) is images
    assert shrink(images, 64) is images
    small = shrink(images, 16)
    assert small.shape == (2, 3, 16, 16)
    assert float(small.mean()) == pytest.approx(float(images.mean()), abs=0.01)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agree") / "stage1"
    train(agreeing(), folder, device="cpu")
    return folder


def test_what_an_agreeing_training_leaves_behind(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert [(phase["name"], phase["epochs"], phase["steps"]) for phase in metrics["phases"]] == [
        ("agree", 2, AGREE_STEPS),
        ("train", 3, 15),
    ]
    assert metrics["bits_per_pixel"] == pytest.approx((4 * 4 + 2 * 3 * 4 * 3) / 64)
    assert metrics["levels"]["coarse"]["bits_per_pixel"] == pytest.approx(3 * 4 * 3 / 64)
    assert np.array(metrics["code_counts"]["coarse"]).shape == (3, 8)
    assert metrics["codebook_usage"] == min(level["usage"] for level in metrics["levels"].values())
    history = pd.read_csv(run / "history-agree.csv")
    assert {"loss", "agreement", "validation_loss", "validation_agreement"} < set(history.columns)
    assert history["step"].tolist() == [3, 6]


def test_coarse_latents_are_standard_and_depend_on_one_image_alone(run: Path) -> None:
    prepared = agreeing()
    model = load_model(run, "cpu").model
    with torch.inference_mode():
        latents = model.encode(load(prepared.images, prepared.rows("unlabelled"), torch.device("cpu")))["coarse"]
        alone = model.encode(load(prepared.images, np.array([3]), torch.device("cpu")))["coarse"]
    assert latents.shape == (80, 16, 2, 2)
    assert torch.allclose(latents[3], alone[0], atol=1e-4)
    deviation, mean = torch.std_mean(latents, (0, 2, 3))  # 72 of these 80 images were fitted
    assert mean.abs().max() < 0.2
    assert ((deviation - 1).abs() < 0.2).all()


def test_an_image_and_its_mirror_image_have_mirrored_latents(run: Path) -> None:
    prepared, model = agreeing(), load_model(run, "cpu").model
    images = load(prepared.images, np.arange(8), torch.device("cpu"))
    with torch.inference_mode():
        here, there = model.encode(images), model.encode(images.flip(3))
        assert torch.allclose(here["coarse"], there["coarse"].flip(3), atol=1e-4)
        assert not torch.allclose(here["patterns"], there["patterns"].flip(3), atol=1e-2)
        assert model.coarse is not None
        model.coarse.mirrored = False
        assert not torch.allclose(here["coarse"], model.encode(images)["coarse"], atol=1e-2)


def test_the_decoder_sees_every_level(run: Path) -> None:
    prepared, model = agreeing(), load_model(run, "cpu").model
    images = load(prepared.images, np.arange(4), torch.device("cpu"))
    with torch.inference_mode():
        vectors = {name: each.vectors for name, each in model.quantize(model.encode(images)).items()}
        whole = model.decode(vectors)
        for name in LEVELS:
            swapped = vectors | {name: vectors[name].flip(0)}
            assert not torch.allclose(model.decode(swapped), whole, atol=1e-4), name


@pytest.mark.parametrize("at", [2, AGREE_STEPS, AGREE_STEPS + 1, AGREE_STEPS + 8])
def test_interrupted_in_either_phase_resumes_to_the_same_bits(at: int, run: Path, tmp_path: Path) -> None:
    acting = Acting(at, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(agreeing(), tmp_path, device="cpu", progress=acting)
    assert acting.seen == at
    train(agreeing(), tmp_path, device="cpu", resume=True)
    assert weights(tmp_path) == weights(run)
    for name, exact in (("history-agree.csv", "validation_loss"), ("history.csv", "validation_psnr")):
        ours, theirs = pd.read_csv(tmp_path / name), pd.read_csv(run / name)
        pd.testing.assert_series_equal(ours[exact], theirs[exact], check_exact=True)


def test_killed_between_the_phases_resumes_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(agreeing(), tmp_path, device="cpu", progress=Acting(AGREE_STEPS + 1, kill))
    train(agreeing(), tmp_path, device="cpu", resume=True)
    assert weights(tmp_path) == weights(run)


def test_a_plain_training_does_not_belong_to_an_agreeing_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(digits(), tmp_path, device="cpu", progress=Acting(7, kill))
    with pytest.raises(ToolkitError, match=r"train\.objective was 'reconstruct' and is now 'agree'"):
        train(agreeing(), tmp_path, device="cpu", resume=True)


def test_labels_and_test_images_do_not_change_the_weights(run: Path, tmp_path: Path) -> None:
    prepared = agreeing()
    images = prepared.images.copy()
    images[prepared.rows("labelled", "test", "unused")] = 0
    prepared.samples["label"] = [str(i % 7) for i in range(len(prepared.samples))]
    train(Prepared(**{**vars(prepared), "images": images}), tmp_path, device="cpu")
    assert weights(tmp_path) == weights(run)


@pytest.mark.parametrize("content", ["vectors", "indices", "latents"])
@pytest.mark.parametrize("format", ["npy", "h5"])
def test_all_levels_are_stored_and_decode_to_what_the_model_gives(
    content: str, format: str, run: Path, tmp_path: Path
) -> None:
    prepared = agreeing()
    rows = prepared.rows("labelled", "test")
    store = encode(
        run, prepared, rows, tmp_path / ("codes" if format == "npy" else "c.h5"), format=format, content=content
    )  # type: ignore[arg-type]
    assert [level.name for level in store.info.levels] == list(LEVELS)
    if format == "npy":
        for name in LEVELS:
            assert len(list((tmp_path / "codes" / name).rglob("*.npy"))) == len(rows) + 1  # and the codebook
    model = load_model(run, "cpu").model
    with torch.inference_mode():
        images = load(prepared.images, rows[:32], torch.device("cpu"))
        expected, quantized = reconstruct(model, images)
    for name in LEVELS:
        if content != "latents":
            assert np.array_equal(store.vectors(name, np.arange(32)), quantized[name].vectors.numpy())
    decoded = np.concatenate([images for _, images in decode(run, store, device="cpu")])[:32]
    assert np.abs(decoded / 255 - expected.permute(0, 2, 3, 1).numpy()).max() < 0.01


def large() -> Prepared:
    """Colour images of 16 px, of which the coarse level sees 8; two fine codes at each place."""
    prepared = agreeing(
        vqvae={"depth": 2},
        image={"size": 16, "channels": 3},
        coarse={"size": 8, "stride": 4, "width": 8, "patterns": 0, "codebook_size": 8, "depth": 3},
    )
    grey = prepared.images.repeat(2, axis=1).repeat(2, axis=2)
    colours = np.concatenate([grey, 255 - grey, grey // 2], axis=-1)
    return Prepared(**{**vars(prepared), "images": colours})


def test_colour_images_larger_than_the_coarse_level_sees(tmp_path: Path) -> None:
    prepared = large()
    metrics = train(prepared, tmp_path / "stage1", device="cpu")
    assert metrics["bits_per_pixel"] == pytest.approx((16 * 4 * 2 + 3 * 3) / 256)
    store = encode(tmp_path / "stage1", prepared, np.arange(100), tmp_path / "c.h5", format="h5", content="vectors")
    assert store.vectors("fine").shape == (100, 4, 4, 4)
    assert store.vectors("coarse").shape == (100, 16, 1, 1)
    decoded = np.concatenate([images for _, images in decode(tmp_path / "stage1", store, device="cpu")])
    assert decoded.shape == (100, 16, 16, 3)


def test_the_decoder_learns_from_the_codes_that_it_will_get(run: Path) -> None:
    """Training computes in bfloat16 where it can, but the coarse codes are those of encoding, in float32."""
    prepared, model = agreeing(), load_model(run, "cpu").model
    phase, rows = Reconstruct(model, prepared.card), np.arange(60)
    phase.ready(prepared.images, rows, Silent())
    batch = load(prepared.images, rows, torch.device("cpu"))
    seen = {}
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.setdefault("joined", inputs[0]))
    joined = model.joined
    model.joined = lambda vectors: joined(seen.setdefault("vectors", vectors))  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        phase.loss(batch, rows, generator=generator())
    with torch.inference_mode():
        expected = model.quantize(model.encode(batch))
    for name in ("coarse", "patterns"):
        assert torch.equal(seen["vectors"][name], expected[name].vectors)


def test_views_and_similarities_are_float32_under_autocast() -> None:
    first, second = torch.randn(40, 8, generator=generator()), torch.randn(40, 8, generator=generator(1))
    expected = agreement(first, second, temperature=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        found = agreement(first, second, temperature=0.2)
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("count", [2, 3])
def test_very_few_images_still_give_a_model(count: int, tmp_path: Path) -> None:
    few = digits(
        {"unlabelled": count},
        objective="agree",
        tables={
            "coarse": {"stride": 8, "width": 8, "patterns": 4},
            "agree": {"epochs": 2},
            "vqvae": {"stride": 8, "width": 8},
        },
    )
    metrics = train(few, tmp_path, device="cpu")
    assert np.isfinite(metrics["psnr"])


def test_large_sets_take_fewer_epochs(tmp_path: Path) -> None:
    prepared = agreeing(agree={"epochs": 50, "most_images": 150, "batch_size": 30, "hidden": 16, "projection": 8})
    metrics = train(prepared, tmp_path, device="cpu")
    assert metrics["phases"][0]["epochs"] == 3  # 72 images to train on, 150 to be seen


def test_random_codes_have_all_levels() -> None:
    prepared = agreeing()
    indices, codebooks = random_codes(prepared.card, prepared.images, np.arange(80, 100), np.arange(80), device="cpu")
    assert indices["fine"].shape == (20, 1, 2, 2)
    assert indices["coarse"].shape == (20, 3, 2, 2)
    assert codebooks["coarse"].shape == (3, 8, 16)
    assert codebooks["patterns"].shape == (3, 8, 12)


def test_a_coarse_stride_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ToolkitError, match=r"coarse\.stride = 16 does not divide"):
        load_card("folder", ["image.size=40", "train.objective=agree"])
    with pytest.raises(ToolkitError, match=r"coarse\.grid = 5 is finer than .*: set it to 4 or less"):
        load_card("folder", ["train.objective=agree", "coarse.grid=5"])
    with pytest.raises(ToolkitError, match=r"views\.area.*smallest first"):
        load_card("folder", ["views.area=[0.9, 0.2]"])
