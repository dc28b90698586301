"""Training: what it leaves behind, that it repeats itself to the bit, and that it goes on as if never interrupted."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import SPLITS, Acting, digits, kill, weights

import stage1_vqvae.train as training
from stage1_vqvae.batches import epoch_batches
from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.codebook_start import start_codebook
from stage1_vqvae.holdout import split_validation
from stage1_vqvae.interrupt import Interrupt
from stage1_vqvae.reconstruct import evaluate
from stage1_vqvae.train import learning_rate, train
from toolkit_datasets.card_stages import Train
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "stage1"
    train(digits(), folder, device="cpu")
    return folder


def test_what_a_training_leaves_behind(uninterrupted: Path) -> None:
    assert sorted(path.name for path in uninterrupted.iterdir()) == [
        "examples.npz",
        "history.csv",
        "last.training.safetensors",
        "metrics.json",
        "model.json",
        "model.safetensors",
    ]
    metrics = json.loads((uninterrupted / "metrics.json").read_text())
    assert metrics["figures_on"] == "test"
    assert {split: scores["n"] for split, scores in metrics["splits"].items()} == {
        "test": 20,
        "labelled": 12,
        "validation": 8,
    }
    for name in ("psnr", "ssim", "normalised_mse"):
        assert metrics[name] == metrics["splits"]["test"][name]
    assert metrics["bits_per_pixel"] == pytest.approx(4 * 4 / 64)
    counts = np.array(metrics["code_counts"]["codes"])
    assert counts.shape == (1, 16)
    assert counts.sum() == (80 + 12 + 20) * 4  # unused images count for nothing
    assert metrics["codebook_usage"] == metrics["levels"]["codes"]["usage"] == np.mean(counts > 0)
    assert 1 <= metrics["perplexity"] <= 16
    assert (metrics["epochs"], metrics["steps"]) == (3, 15)
    assert metrics["precision"] in ("bfloat16", "float32")
    for key in ("train_seconds", "images_per_second", "parameters", "device", "threads"):
        assert metrics[key]

    history = pd.read_csv(uninterrupted / "history.csv")
    assert list(history.columns) == [
        *("epoch", "step", "seconds", "images_per_second", "learning_rate", "loss", "reconstruction", "commitment"),
        *("psnr", "validation_psnr", "validation_mse", "usage", "perplexity", "restarted"),
    ]
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["step"].tolist() == [5, 10, 15]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["seconds"].is_monotonic_increasing

    with np.load(uninterrupted / "examples.npz", allow_pickle=False) as examples:
        assert examples["originals"].shape == examples["reconstructions"].shape == (8, 8, 8, 1)
        assert examples["originals"].dtype == examples["reconstructions"].dtype == np.uint8
        assert set(examples["split"]) == {"test"}
        rows = [int(identity[1:]) for identity in examples["id"]]
        assert np.array_equal(examples["originals"], digits().images[rows])
        error = (examples["originals"] / 255 - examples["reconstructions"] / 255) ** 2
        assert np.allclose(-10 * np.log10(error.mean((1, 2, 3))), examples["psnr"], atol=0.05)


def test_of_a_large_split_so_many_are_judged_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stage1_vqvae.assessment.MOST", 10)
    prepared = digits()
    metrics = train(prepared, tmp_path, device="cpu")
    judged = {split: figures["n"] for split, figures in metrics["splits"].items()}
    assert judged.pop("validation") < 10
    assert set(judged.values()) == {10}
    model = load_model(tmp_path).model
    rows = prepared.rows("test")
    chosen = rows[np.linspace(0, len(rows) - 1, 10).astype(int)]
    expected = evaluate(model, prepared.images, chosen, batch_size=32)["psnr"]
    assert metrics["splits"]["test"]["psnr"] == pytest.approx(expected, abs=1e-4)
    tokens = sum(map(sum, metrics["code_counts"]["codes"])) / 4  # 2x2 codes an image
    assert tokens == sum(figures["n"] for figures in metrics["splits"].values()) + 10  # and of training images


def test_same_seed_same_bits_and_another_seed_others(uninterrupted: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the caller's random state neither matters nor changes
    before = torch.get_rng_state()
    metrics = train(digits(), tmp_path / "a", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert weights(tmp_path / "a") == weights(uninterrupted)
    first = json.loads((uninterrupted / "metrics.json").read_text())
    assert metrics["psnr"] == first["psnr"]
    assert metrics["code_counts"] == first["code_counts"]
    train(digits(seed=1), tmp_path / "b", device="cpu")
    assert weights(tmp_path / "b") != weights(uninterrupted)


@pytest.mark.parametrize("at", [6, 8, 15])  # right after an epoch, within one, at the very last batch
def test_killed_and_resumed_equals_uninterrupted(at: int, uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(digits(), tmp_path, device="cpu", progress=Acting(at, kill))
    assert not (tmp_path / "model.json").exists()
    train(digits(), tmp_path, device="cpu", resume=True)
    assert weights(tmp_path) == weights(uninterrupted)


@pytest.mark.parametrize("at", [2, 5, 8, 15])  # before the first epoch ends, at its end, within the second, at the end
def test_ctrl_c_saves_and_resumes_to_the_same_bits(at: int, uninterrupted: Path, tmp_path: Path) -> None:
    acting = Acting(at, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(digits(), tmp_path, device="cpu", progress=acting)
    assert acting.seen == at  # it stopped at the next step's end, not later
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    counted = Acting(-1, kill)
    metrics = train(digits(), tmp_path, device="cpu", resume=True, progress=counted)
    assert counted.seen <= 15 - at + 1  # nothing was done twice; the first update is the earlier work
    assert weights(tmp_path) == weights(uninterrupted)
    assert metrics["psnr"] == json.loads((uninterrupted / "metrics.json").read_text())["psnr"]
    exact = ["epoch", "step", "learning_rate", "loss", "reconstruction", "commitment", "psnr", "validation_psnr"]
    exact += ["validation_mse", "usage", "perplexity", "restarted"]
    a, b = (pd.read_csv(folder / "history.csv")[exact] for folder in (tmp_path, uninterrupted))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        signal.raise_signal(signal.SIGINT)


def test_finished_training_is_returned_and_not_repeated(uninterrupted: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.iterdir()}
    metrics = train(digits(), uninterrupted, device="cpu", resume=True, progress=Acting(1, kill))
    assert metrics == json.loads((uninterrupted / "metrics.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.iterdir()} == before


def test_other_settings_are_refused_by_name(uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"train\.epochs was 3 and is now 5"):
        train(digits(epochs=5), uninterrupted, resume=True)
    with pytest.raises(RuntimeError, match="killed"):
        train(digits(), tmp_path, device="cpu", progress=Acting(7, kill))
    with pytest.raises(ToolkitError, match=r"train\.epochs was 3 and is now 2") as failure:
        train(digits(epochs=2), tmp_path, device="cpu", resume=True)
    assert "batch_size" not in str(failure.value)
    with pytest.raises(ToolkitError, match=r"vqvae\.codebook_size was 16 and is now 8.*--overwrite"):
        train(digits(vqvae={"codebook_size": 8}), tmp_path, device="cpu", resume=True)
    with pytest.raises(ToolkitError, match="unlabelled images"):
        train(digits({**SPLITS, "unlabelled": 79}), tmp_path, device="cpu", resume=True)


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(digits(), tmp_path, device="cpu", progress=Acting(7, kill))
    state = tmp_path / "last.training.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ToolkitError, match=r"damaged.*--overwrite"):
        train(digits(), tmp_path, device="cpu", resume=True)
    state.write_bytes((tmp_path / "history.csv").read_bytes())
    with pytest.raises(ToolkitError, match="damaged"):
        train(digits(), tmp_path, device="cpu", resume=True)
    torch.save({"model": 1}, state)  # a pickle is not even looked into
    with pytest.raises(ToolkitError, match="damaged"):
        train(digits(), tmp_path, device="cpu", resume=True)


def test_a_fresh_training_removes_the_old_one_first(uninterrupted: Path, tmp_path: Path) -> None:
    for path in uninterrupted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(RuntimeError, match="killed"):
        train(digits(seed=3), tmp_path, device="cpu", progress=Acting(2, kill))
    assert list(tmp_path.iterdir()) == []  # or resuming would return the old model


def test_divergence_names_quantity_and_step_and_spares_the_state(tmp_path: Path) -> None:
    with pytest.raises(
        ToolkitError,
        match=r"(loss|reconstruction|gradient norm) is (nan|inf) at step \d+ of train \(epoch 1.*train.learning_rate",
    ):
        train(digits(learning_rate=1e30, warmup=0.0), tmp_path, device="cpu")
    assert not (tmp_path / "model.json").exists()


def test_a_nan_gradient_never_reaches_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("the optimizer stepped"))
    with pytest.raises(ToolkitError, match="gradient norm is nan at step 1 of train"):
        train(digits(), tmp_path, device="cpu")


@pytest.mark.parametrize("count", [2, 20])
def test_very_few_images(count: int, tmp_path: Path) -> None:
    prepared = digits({"unlabelled": count}, epochs=2, batch_size=64, vqvae={"codebook_size": 300})
    metrics = train(prepared, tmp_path, device="cpu")
    assert metrics["figures_on"] == "validation"
    assert metrics["steps"] == 2
    assert np.isfinite(metrics["psnr"])
    with np.load(tmp_path / "examples.npz") as examples:
        assert set(examples["split"]) == {"unlabelled"}


def test_too_few_images_and_wrong_shapes(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"at least 2 unlabelled images.*there are 1"):
        train(digits({"unlabelled": 1, "test": 5}), tmp_path)
    prepared = digits()
    wrong = Prepared(**{**vars(prepared), "images": np.zeros((116, 16, 16, 1), np.uint8)})
    with pytest.raises(ToolkitError, match=r"\(16, 16, 1\).*\(8, 8, 1\)"):
        train(wrong, tmp_path)
    with pytest.raises(ToolkitError, match="choose auto"):
        train(prepared, tmp_path, device="quantum")


def test_float32_and_progress_postfix(tmp_path: Path) -> None:
    watching = Acting(-1, kill)
    metrics = train(digits(precision="float32", epochs=1), tmp_path, device="cpu", progress=watching)
    assert metrics["precision"] == "float32"
    for word in ("epoch 1/1", "loss", "PSNR", "dB", "/16"):
        assert word in watching.postfix


def test_stage_1_never_reads_labels(tmp_path: Path, uninterrupted: Path) -> None:
    prepared = digits()
    prepared.samples["label"] = [str(i % 7) for i in range(len(prepared.samples))]
    train(prepared, tmp_path, device="cpu")
    assert weights(tmp_path) == weights(uninterrupted)


def test_test_images_do_not_change_the_weights(tmp_path: Path, uninterrupted: Path) -> None:
    prepared = digits()
    images = prepared.images.copy()
    images[prepared.rows("labelled", "test", "unused")] = 0
    train(Prepared(**{**vars(prepared), "images": images}), tmp_path, device="cpu")
    assert weights(tmp_path) == weights(uninterrupted)


def test_loaded_model_is_the_trained_one(uninterrupted: Path) -> None:
    loaded = load_model(uninterrupted, "cpu")
    assert loaded.card == digits().card
    assert loaded.metrics == json.loads((uninterrupted / "metrics.json").read_text())
    stored = load_file(uninterrupted / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in loaded.model.state_dict().items())
    assert not loaded.model.training


def test_validation_keeps_groups_whole_and_is_stable() -> None:
    samples = pd.DataFrame(
        {"id": [f"s{i}" for i in range(100)], "slice": "", "group": [f"g{i // 5}" for i in range(100)]}
    )
    rows = np.arange(10, 100)
    learns, validates = split_validation(samples, rows, share=0.2, seed=0)
    assert sorted([*learns, *validates]) == rows.tolist()
    assert not set(samples["group"].iloc[learns]) & set(samples["group"].iloc[validates])
    assert 18 <= len(validates) < 18 + 5
    shuffled = samples.sample(frac=1, random_state=0).reset_index(drop=True)
    _, again = split_validation(
        shuffled, np.flatnonzero(shuffled["id"].isin(samples["id"].iloc[rows])), share=0.2, seed=0
    )
    assert set(shuffled["id"].iloc[again]) == set(samples["id"].iloc[validates])
    _, other = split_validation(samples, rows, share=0.2, seed=1)
    assert set(other) != set(validates)


def test_validation_of_single_images_and_of_one_subject() -> None:
    samples = pd.DataFrame({"id": [f"s{i}" for i in range(10)], "slice": "", "group": ""})
    learns, validates = split_validation(samples, np.arange(10), share=0.01, seed=0)
    assert (len(learns), len(validates)) == (9, 1)
    one = pd.DataFrame({"id": "volume", "slice": [str(i) for i in range(10)], "group": "subject"})
    learns, validates = split_validation(one, np.arange(10), share=0.3, seed=0)
    assert (len(learns), len(validates)) == (7, 3)


def test_epoch_batches_are_seeded_sorted_and_complete() -> None:
    rows = np.arange(100, 203)
    first = epoch_batches(rows, 16, seed=0, epoch=0)
    assert sorted(np.concatenate(first)) == rows.tolist()
    assert {len(batch) for batch in first} <= {14, 15}
    assert all((np.diff(batch) > 0).all() for batch in first)
    again, other = epoch_batches(rows, 16, seed=0, epoch=0), epoch_batches(rows, 16, seed=0, epoch=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(np.concatenate(first), np.concatenate(other))


def test_learning_rate_warms_up_and_comes_down() -> None:
    settings = Train(learning_rate=0.5, warmup=0.2)
    rates = [learning_rate(step, 50, settings) for step in range(50)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[9] == 0.5
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01
    assert learning_rate(0, 1, Train(warmup=0.0)) == 1e-3


def test_codebook_start_uses_several_images_and_no_global_state() -> None:
    prepared = digits()
    model = training.build(prepared.card, seed=0)
    before = torch.get_rng_state()
    start_codebook(model, prepared.images, np.arange(80), batch_size=16, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(torch.unique(model.quantizer.codebook[0], dim=0)) == 16
    assert float(model.quantizer.counts.sum()) == pytest.approx(16 * 4, rel=0.3)


def test_a_setting_that_did_not_exist_at_the_time_stood_at_its_default(uninterrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "stage1"))
    about = json.loads((folder / "model.json").read_text())
    assert about["settings"].pop("vqvae.network") == "default"
    (folder / "model.json").write_text(json.dumps(about))
    train(digits(), folder, device="cpu", resume=True)
    about["settings"].pop("vqvae.width")  # the card's default is not what this training has
    (folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(ToolkitError, match=r"vqvae\.width was 64 and is now 8"):
        train(digits(), folder, device="cpu", resume=True)
