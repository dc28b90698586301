"""Codes of a frozen model: independent of company, resumable, and back to images; checkpoints that are not trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from stage1_vqvae import encode as encoding
from stage1_vqvae.batches import padded
from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.encode import encode, random_codes
from stage1_vqvae.reconstruct import decode, evaluate
from stage1_vqvae.train import train
from toolkit_datasets.card import card_from
from toolkit_datasets.codes import Codes, CodeWriter, open_codes
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared

N = 90


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    from sklearn.datasets import load_digits

    images = (load_digits().images[:N] * 15.9).astype(np.uint8)[..., None].repeat(2, 1).repeat(2, 2)
    samples = pd.DataFrame({"id": [f"d{i:03d}" for i in range(N)]})
    for column in ("path", "slice", "label", "group", "sha256", "number"):
        samples[column] = ""
    samples["split"] = ["unlabelled"] * 50 + ["test"] * (N - 50)
    samples["status"] = "ok"
    card = card_from(
        {
            "title": "digits",
            "image": {"size": 16, "channels": 1},
            "train": {"epochs": 2, "batch_size": 16},
            "vqvae": {"stride": 4, "width": 16, "blocks": 1, "codebook_size": 16, "code_dim": 4},
            "encode": {"batch_size": 16},
        },
        origin="test",
    )
    return Prepared(card=card, samples=samples, images=images, details=samples[[]], origin="test", ignored=0)


@pytest.fixture(scope="module")
def run(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "stage1"
    train(prepared, folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def everything(run: Path, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Codes:
    out = tmp_path_factory.mktemp("codes") / "all"
    return encode(run, prepared, np.arange(N), out, format="npy", content="indices", device="cpu")


def test_store_tells_where_it_comes_from(run: Path, prepared: Prepared, everything: Codes) -> None:
    loaded = load_model(run, "cpu")
    info = everything.info
    assert info.model_hash == loaded.model_hash
    assert info.card == prepared.card.model_dump(mode="json")
    assert info.bits_per_pixel == pytest.approx(4 / 16)
    assert info.stage1["encode_batch_size"] == 16
    assert info.stage1["psnr"] == loaded.metrics["psnr"]
    assert "code_counts" not in info.stage1
    assert everything.indices("codes").shape == (N, 1, 4, 4)
    assert everything.indices("codes").dtype == np.uint8
    assert np.array_equal(everything.codebook("codes"), loaded.model.codebooks["codes"])
    assert everything.manifest["id"].tolist() == prepared.samples["id"].tolist()


def test_codes_are_the_nearest_in_float64_of_the_latents(
    run: Path, prepared: Prepared, everything: Codes, tmp_path: Path
) -> None:
    latents = encode(run, prepared, np.arange(N), tmp_path / "z.h5", format="h5", content="latents", device="cpu")
    z = np.moveaxis(latents.vectors("codes"), 1, -1).astype(np.float64)  # (N, h, w, D)
    book = everything.codebook("codes")[0].astype(np.float64)
    table = ((z[..., None, :] - book) ** 2).sum(-1)
    found = everything.indices("codes")[:, 0].astype(int)
    regret = np.take_along_axis(table, found[..., None], -1)[..., 0] - table.min(-1)
    assert regret.max() < 1e-5


def test_metrics_count_exactly_the_codes_of_the_store(run: Path, everything: Codes) -> None:
    counts = np.bincount(everything.indices("codes").ravel(), minlength=16)
    assert counts.tolist() == json.loads((run / "metrics.json").read_text())["code_counts"]["codes"][0]


@pytest.mark.parametrize("rows", [[7], [3, 4, 5], list(range(0, N, 2)), list(range(N))[::-1]], ids=len)
def test_codes_do_not_depend_on_the_company(
    run: Path, prepared: Prepared, everything: Codes, tmp_path: Path, rows: list[int]
) -> None:
    codes = encode(run, prepared, np.array(rows), tmp_path / "c", format="npy", content="latents", device="cpu")
    whole = encode(run, prepared, np.arange(N), tmp_path / "w", format="npy", content="latents", device="cpu")
    assert np.array_equal(codes.vectors("codes"), whole.vectors("codes")[rows])
    few = encode(run, prepared, np.array(rows), tmp_path / "i", format="npy", content="indices", device="cpu")
    assert np.array_equal(few.indices("codes"), everything.indices("codes")[rows])


def test_batches_are_padded_to_one_shape(prepared: Prepared) -> None:
    seen = list(padded(prepared.images, np.arange(10, 45), 16, torch.device("cpu")))
    assert [len(rows) for rows, _ in seen] == [16, 16, 3]
    assert {batch.shape for _, batch in seen} == {(16, 1, 16, 16)}
    assert seen[0][1].dtype == torch.uint8
    assert np.array_equal(seen[2][1][2, 0].numpy(), prepared.images[44, ..., 0])
    assert [rows[0] for rows, _ in padded(prepared.images, np.arange(40), 16, torch.device("cpu"), first=2)] == [32]


def test_a_pass_over_a_memory_map_does_not_stay_in_memory(tmp_path: Path) -> None:
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("resident pages are counted through /proc")
    path = tmp_path / "images.npy"
    written = np.random.default_rng(0).integers(0, 256, (500, 64, 64, 1), dtype=np.uint8)  # 2 MB
    np.save(path, written)
    images = np.load(path, mmap_mode="r")
    for rows, batch in padded(images, np.arange(500), 50, torch.device("cpu")):
        assert np.array_equal(batch[:, 0].numpy(), written[rows, ..., 0])
    mapped = smaps.read_text().split(str(path), 1)[1]
    resident = next(line for line in mapped.splitlines() if line.startswith("Rss:"))
    assert int(resident.split()[1]) < 500  # kB


@pytest.mark.parametrize("format", ["npy", "h5"])
@pytest.mark.parametrize("content", ["vectors", "indices", "latents"])
@pytest.mark.parametrize("stop", [1, 3])
def test_interrupted_encoding_goes_on(
    run: Path, prepared: Prepared, tmp_path: Path, format: str, content: str, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"format": format, "content": content, "device": "cpu"}
    rows = np.arange(N)
    whole = encode(run, prepared, rows, tmp_path / "whole", **options)

    original, calls = CodeWriter.write, []

    def counted(self: CodeWriter, arrays: dict[str, np.ndarray]) -> None:
        calls.append(len(arrays["codes"]))
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        original(self, arrays)

    monkeypatch.setattr(CodeWriter, "write", counted)
    with pytest.raises(KeyboardInterrupt):
        encode(run, prepared, rows, tmp_path / "part", **options)
    calls.clear()
    calls.append(0)  # so that it does not stop again
    monkeypatch.setattr(
        CodeWriter, "write", lambda self, arrays: (calls.append(len(arrays["codes"])), original(self, arrays))[1]
    )
    resumed = encode(run, prepared, rows, tmp_path / "part", **options)
    assert sum(calls) == N - 16 * stop
    assert np.array_equal(resumed.vectors("codes"), whole.vectors("codes"))
    assert resumed.manifest.equals(whole.manifest)


def test_going_on_within_a_batch(
    run: Path, prepared: Prepared, everything: Codes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Started:
        """A writer that was left in the middle of a batch."""

        rows_done = 21

        def __init__(self, *args: object, **options: object) -> None:
            self.rows: list[np.ndarray] = []
            Started.last = self

        def __enter__(self) -> Started:
            return self

        def __exit__(self, *error: object) -> None: ...

        def write(self, arrays: dict[str, np.ndarray]) -> None:
            self.rows.append(arrays["codes"])

    monkeypatch.setattr(encoding, "CodeWriter", Started)
    monkeypatch.setattr(encoding, "open_codes", lambda path: None)
    encode(run, prepared, np.arange(N), tmp_path / "x", format="npy", content="indices", device="cpu")
    assert np.array_equal(np.concatenate(Started.last.rows), everything.indices("codes")[21:])


def test_encoding_a_finished_store_again_does_no_work(
    run: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"format": "npy", "content": "vectors", "device": "cpu"}
    encode(run, prepared, np.arange(20), tmp_path / "c", **options)
    monkeypatch.setattr("stage1_vqvae.model.VQVAE.encode", lambda *_: pytest.fail("encoded again"))
    assert len(encode(run, prepared, np.arange(20), tmp_path / "c", **options)) == 20


def test_images_of_another_shape_are_refused(run: Path, prepared: Prepared, tmp_path: Path) -> None:
    other = Prepared(**{**vars(prepared), "images": np.zeros((N, 8, 8, 3), np.uint8)})
    with pytest.raises(ToolkitError, match=r"\(8, 8, 3\).*\(16, 16, 1\).*card of the run"):
        encode(run, other, np.arange(3), tmp_path / "c", format="npy", content="vectors", device="cpu")


def test_every_content_decodes_to_the_same_images(run: Path, prepared: Prepared, tmp_path: Path) -> None:
    pictures = {}
    rows = np.arange(5, 40)
    for format in ("npy", "h5"):
        for content in ("vectors", "indices", "latents"):
            codes = encode(
                run, prepared, rows, tmp_path / f"{content}.{format}", format=format, content=content, device="cpu"
            )
            parts = list(decode(run, codes, device="cpu"))
            assert np.array_equal(np.concatenate([part for part, _ in parts]), np.arange(35))
            pictures[format, content] = np.concatenate([images for _, images in parts])
    first = pictures["npy", "vectors"]
    assert first.shape == (35, 16, 16, 1)
    assert first.dtype == np.uint8
    assert all(np.array_equal(images, first) for images in pictures.values())
    truth = prepared.images[rows].astype(float) / 255
    psnr = -10 * np.log10(((first / 255 - truth) ** 2).mean((1, 2, 3)))
    scores = evaluate(load_model(run, "cpu").model, prepared.images, rows)
    assert psnr.mean() == pytest.approx(scores["psnr"], abs=0.05)  # uint8 rounding
    ((chosen, some),) = decode(run, open_codes(tmp_path / "vectors.npy"), np.array([9, 2]), device="cpu")
    assert chosen.tolist() == [9, 2]
    assert np.array_equal(some, first[[9, 2]])


def test_decoding_with_another_model_is_refused(
    run: Path, prepared: Prepared, everything: Codes, tmp_path: Path
) -> None:
    other = Prepared(**{**vars(prepared), "card": prepared.card.model_copy(update={"seed": 9})})
    train(other, tmp_path, device="cpu")
    with pytest.raises(ToolkitError, match="made by the model"):
        next(decode(tmp_path, everything, device="cpu"))


def test_evaluate_by_hand(run: Path, prepared: Prepared) -> None:
    model = load_model(run, "cpu").model
    rows = np.arange(50, 70)
    scores = evaluate(model, prepared.images, rows, batch_size=7)
    with torch.inference_mode():
        images = torch.from_numpy(prepared.images[rows]).permute(0, 3, 1, 2)
        quantized = model.quantize(model.encode(images))
        decoded = model.decode({"codes": quantized["codes"].vectors})
        mse = (decoded - images / 255).square().mean((1, 2, 3))
    assert scores["n"] == 20
    assert scores["mse"] == pytest.approx(float(mse.mean()), rel=1e-4)
    assert scores["psnr"] == pytest.approx(float((-10 * mse.log10()).mean()), abs=1e-3)
    assert scores["normalised_mse"] == pytest.approx(float(mse.mean() / model.deviation**2), rel=1e-4)


def test_random_codes_are_of_an_untrained_encoder_with_a_fitted_codebook(
    run: Path, prepared: Prepared, everything: Codes
) -> None:
    arguments = (prepared.card, prepared.images, np.arange(40, 90), np.arange(40))
    indices, codebooks = random_codes(*arguments, device="cpu")
    again, _ = random_codes(*arguments, device="cpu")
    assert indices["codes"].shape == (50, 1, 4, 4)
    assert indices["codes"].dtype == np.uint8
    assert codebooks["codes"].shape == (1, 16, 4)
    assert np.array_equal(indices["codes"], again["codes"])
    assert len(np.unique(indices["codes"])) > 8  # the codebook lies where the latents are
    assert not np.array_equal(codebooks["codes"], everything.codebook("codes"))


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_checkpoint_errors_say_what_to_do(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"no trained model in .*nowhere.*--resume"):
        load_model(tmp_path / "nowhere")
    description = (copied / "model.json").read_text()

    def edited(**changes: object) -> None:
        (copied / "model.json").write_text(json.dumps({**json.loads(description), **changes}))

    edited(format_version=99)
    with pytest.raises(ToolkitError, match=r"format version 99; this toolkit reads 2"):
        load_model(copied)
    edited(card={"title": "x", "colour": 1})
    with pytest.raises(ToolkitError, match=r"model\.json.*unknown key 'colour'"):
        load_model(copied)
    card = json.loads(description)["card"]
    edited(card={**card, "vqvae": {**card["vqvae"], "code_dim": 5}})
    with pytest.raises(ToolkitError, match=r"does not hold the model"):
        load_model(copied)
    partial = {key: value for key, value in json.loads(description).items() if key != "metrics"}
    (copied / "model.json").write_text(json.dumps(partial))
    with pytest.raises(ToolkitError, match="lacks metrics"):
        load_model(copied)
    for broken in ("{", "[]"):
        (copied / "model.json").write_text(broken)
        with pytest.raises(ToolkitError, match=r"model\.json"):
            load_model(copied)


def test_damaged_missing_or_exchanged_weights(copied: Path) -> None:
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ToolkitError, match=r"has the hash .* but model\.json describes"):
        load_model(copied)
    save_file({"a": torch.zeros(2)}, weights)
    with pytest.raises(ToolkitError, match="has the hash"):
        load_model(copied)
    weights.unlink()
    with pytest.raises(ToolkitError, match=r"model\.safetensors is missing"):
        load_model(copied)


def test_no_pickle_is_written_or_read() -> None:
    source = "\n".join(path.read_text() for path in Path(encoding.__file__).parent.glob("*.py"))
    for call in ("torch.save", "torch.load", "import pickle", "allow_pickle=True", "joblib"):
        assert call not in source
