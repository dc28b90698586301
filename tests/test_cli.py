"""Whole commands, as a user types them, on small real images."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from commands import results, toolkit, toolkit_without_torch

from toolkit.cli import main
from toolkit_datasets.codes import open_codes

Write = Callable[[Path, list[str]], Path]
SIZES = ["split.unlabelled=120", "split.labelled=200", "split.test=150"]
SIZES += ["train.objective=reconstruct", "train.epochs=2"]
PROBE = ["probe.labels=40", "probe.draws=3", "probe.curve=[20]"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished `toolkit run digits`."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    toolkit("run", "digits", "--out", out, sets=SIZES + PROBE)
    return out


def test_run_writes_everything_and_names_the_report(done: Path) -> None:
    assert {path.name for path in done.iterdir()} >= {
        "card.toml", "run.json", "samples.csv", "stage1", "codes", "probe", "results.json", "report.html",
    }  # fmt: skip
    found = results(done)
    assert set(found["probe"]["accuracy"]) == {"mean", "sd", "ci95"}
    assert (found["probe"]["n_labelled"], found["probe"]["n_test"], found["probe"]["draws"]) == (40, 150, 3)
    assert set(found["baselines"]) == {"majority", "pixels", "hog", "random"}
    stage1 = {"psnr", "ssim", "codebook_usage", "perplexity", "bits_per_pixel"}
    assert stage1 <= found["stage1"].keys()
    assert found["card"] == "digits"
    assert found["seed"] == 0
    assert "torch" in found["versions"]
    assert found["samples"]["splits"]["test"]
    assert "<html" in (done / "report.html").read_text(encoding="utf-8")


def test_separate_steps_hdf5_and_a_second_run_give_the_same_numbers(done: Path, tmp_path: Path) -> None:
    toolkit("train", "digits", "--out", tmp_path / "run", sets=SIZES + PROBE)
    weights = "stage1/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (done / weights).read_bytes()
    toolkit("encode", tmp_path / "run", "--out", tmp_path / "npy")
    toolkit("encode", tmp_path / "run", "--out", tmp_path / "codes.h5")
    whole = results(done)
    for store in ("npy", "codes.h5"):
        toolkit("probe", tmp_path / store, "--out", tmp_path / f"{store}-probe")
        steps = results(tmp_path / f"{store}-probe")
        for part in ("probe", "baselines", "curve"):
            assert steps[part] == whole[part], (store, part)
    files = sorted(path.name for path in (tmp_path / "npy").glob("*.npy"))
    assert files == sorted(path.name for path in (done / "codes").glob("*.npy"))
    assert all((tmp_path / "npy" / name).read_bytes() == (done / "codes" / name).read_bytes() for name in files)


def test_an_existing_run_is_neither_overwritten_nor_confused(done: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done, tmp_path / "run"))
    (copy / "notes.txt").write_text("mine")
    error = toolkit("run", "digits", "--out", copy, sets=SIZES + PROBE, code=1)
    assert "--resume" in error.output
    assert "--overwrite" in error.output
    toolkit("run", "digits", "--out", copy, "--resume", sets=SIZES + PROBE)
    assert results(copy) == results(done)
    toolkit("run", "digits", "--out", copy, "--overwrite", "--seed", 1, sets=SIZES + PROBE)
    assert results(copy)["seed"] == 1
    assert (copy / "notes.txt").read_text() == "mine"


def test_other_seeds_draw_other_labels(done: Path, tmp_path: Path) -> None:
    toolkit("probe", done / "codes", "--out", tmp_path / "p", "--seed", 5, sets=PROBE)
    assert results(tmp_path / "p")["probe"]["per_draw"] != results(done)["probe"]["per_draw"]


def test_json_is_data_on_stdout_and_nothing_else(done: Path, tmp_path: Path) -> None:
    printed = toolkit("probe", done / "codes", "--out", tmp_path / "p", "--json").stdout
    assert json.loads(printed) == json.loads((tmp_path / "p" / "results.json").read_text())
    assert json.loads(toolkit("info", done, "--json").stdout)["kind"] == "run"
    assert json.loads(toolkit("datasets", "digits", "--json").stdout)["labels"]["3"] == 183
    assert toolkit("datasets", "digits", "-q").output == ""


def test_info_counts_some_files_of_a_large_folder(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.summaries.COUNTED", 50)
    assert "(in 50 of the samples)" in toolkit("info", done / "codes").output


def test_info_explains_runs_models_stores_and_probes(done: Path, tmp_path: Path) -> None:
    assert "bits per pixel" in toolkit("info", done).output
    assert "parameters" in toolkit("info", done / "stage1").output
    store = toolkit("info", done / "codes").output
    assert "4x4 grid, 64 codes of 16 dimensions" in store
    assert "of the samples" not in store
    assert "accuracy" in toolkit("info", done / "probe").output
    assert "no run folder" in toolkit("info", tmp_path, code=1).output


@pytest.mark.parametrize("content", ["vectors", "indices", "latents"])
def test_every_content_is_encoded_decoded_and_probed(content: str, done: Path, tmp_path: Path) -> None:
    toolkit("encode", done, "--out", tmp_path / "codes", "--content", content)
    toolkit("decode", tmp_path / "codes", "--run", done, "--out", tmp_path / "images", "--limit", 3)
    assert len(list((tmp_path / "images").glob("*.png"))) == 3
    features = "vectors" if content == "latents" else "histogram"
    toolkit("probe", tmp_path / "codes", sets=[f"probe.features={features}", "probe.baselines=[]"])
    assert (tmp_path / "codes-probe" / "results.json").is_file()


def test_new_images_are_encoded_and_labelled(done: Path, tmp_path: Path, write_pictures: Write) -> None:
    new = write_pictures(tmp_path / "new", [f"{i}.png" for i in range(40)])
    toolkit("encode", done, "--data", new, "--out", tmp_path / "codes")
    assert set(open_codes(tmp_path / "codes").manifest["split"]) == {"new"}
    toolkit("predict", done / "probe", tmp_path / "codes", "--out", tmp_path / "labels.csv")
    table = pd.read_csv(tmp_path / "labels.csv", dtype={"id": str})
    assert table["id"].tolist() == [str(i) for i in range(40)]
    assert np.allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-5)
    truth = [str(i % 10) for i in range(40)]  # the first digits of the bundled set are 0 to 9, over and over
    assert (table["predicted"].astype(str) == truth).mean() > 0.3, "chance is 0.1"


def test_codes_of_another_model_are_not_labelled(done: Path, tmp_path: Path) -> None:
    toolkit("train", "digits", "--out", tmp_path / "run", "--seed", 1, sets=SIZES)
    toolkit("encode", tmp_path / "run")
    error = toolkit("predict", done / "probe", tmp_path / "run" / "codes", code=1)
    assert "model" in error.output


_TINY = ["image.size=16", "train.epochs=1", "agree.epochs=1", "probe.labels=20", "probe.draws=2", "probe.curve=[]"]


def _labelled(root: Path, write: Write) -> Path:
    return write(root / "mine", [f"{label}/{i}.png" for i in range(60) for label in ("oak", "elm")])


def test_only_a_code_store_is_ever_replaced(done: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("precious")
    for place in (tmp_path / "photos", done):
        error = toolkit("encode", done, "--out", place, "--overwrite", code=1)
        assert "no code store" in error.output
    assert (tmp_path / "photos" / "mine.jpg").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    toolkit("encode", done, "--out", tmp_path / "empty")
    toolkit("probe", done / "codes", "--out", done, code=1)
    assert "stage1" in results(done)
    assert f"its codes are in {done / 'codes'}" in toolkit("probe", done, "--out", tmp_path / "p", code=1).output


def test_codes_of_changed_data_are_refused(tmp_path: Path, write_pictures: Write) -> None:
    data = _labelled(tmp_path, write_pictures)
    toolkit("train", "folder", "--data", data, "--out", tmp_path / "run", sets=_TINY)
    record = (tmp_path / "run" / "card.toml").read_text()
    toolkit("train", "folder", "--data", data, "--out", tmp_path / "run", "--resume", "--seed", 1, sets=_TINY, code=1)
    toolkit("prepare", "folder", "--data", data, "--out", tmp_path / "run", "--seed", 1, code=1)
    assert (tmp_path / "run" / "card.toml").read_text() == record, "a refused command changes nothing"
    toolkit("encode", tmp_path / "run", "--out", tmp_path / "codes")
    shutil.copy(data / "oak" / "3.png", data / "oak" / "4.png")
    assert "not the ones that were encoded" in toolkit("probe", tmp_path / "codes", "--data", data, code=1).output
    for i in range(20):
        (data / "oak" / f"{i}.png").unlink()
    assert "changed since the training" in toolkit("encode", tmp_path / "run", code=1).output


def test_a_resumed_run_takes_new_settings_of_the_probe(done: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done, tmp_path / "run"))
    toolkit("run", "digits", "--out", copy, "--resume", sets=[*SIZES, *PROBE, "probe.features=mean"])
    assert results(copy)["probe"]["features"] == "mean of codes"


def test_prepare_then_train_into_the_same_folder(tmp_path: Path, write_pictures: Write) -> None:
    data = _labelled(tmp_path, write_pictures)
    toolkit("prepare", "folder", "--data", data, "--out", tmp_path / "run")
    toolkit("train", "folder", "--data", data, "--out", tmp_path / "run", sets=_TINY)


def test_what_cannot_be_split_is_described_all_the_same(tmp_path: Path, write_pictures: Write) -> None:
    data = write_pictures(tmp_path / "few", [f"{label}.{i}.jpg" for i in range(9) for label in ("cat", "dog")])
    output = toolkit("datasets", "cats-vs-dogs", "--data", data, code=1).output
    assert "cat 9, dog 9" in output
    assert "split.unlabelled wants 5,000" in output


def test_the_probe_does_without_torch(done: Path, tmp_path: Path) -> None:
    toolkit_without_torch("probe", done / "codes", "--out", tmp_path / "p")
    found, whole = results(tmp_path / "p"), results(done)
    assert set(found["baselines"]) == {"majority", "pixels", "hog"}
    assert found["probe"] == whole["probe"]


def test_the_probe_never_imports_torch_of_itself(done: Path, tmp_path: Path) -> None:
    """Nothing but the untrained encoder, a baseline, needs it; nor is it there to be noticed at the start of `info`."""
    commands = (
        ["probe", done / "codes", "--out", tmp_path / "p", "--set", "probe.baselines=[]"],
        ["predict", done / "probe", done / "codes", "--out", tmp_path / "labels.csv"],
        ["info", done / "codes"],
    )
    script = (
        "import json, sys; from toolkit.cli import main\n"
        "for words in json.loads(sys.argv[1]): main(words, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    words = json.dumps([[str(word) for word in command] for command in commands])
    subprocess.run([sys.executable, "-c", script, words], check=True, capture_output=True)
    assert (tmp_path / "labels.csv").is_file()


def test_images_without_labels_train_stage_1_and_still_give_a_report(tmp_path: Path, write_pictures: Write) -> None:
    data = write_pictures(tmp_path / "flat", [f"{i}.png" for i in range(60)])
    shown = toolkit("run", "folder", "--data", data, "--out", tmp_path / "run", sets=_TINY)
    assert "no image of the pool or the test split carries a label" in shown.output
    assert (tmp_path / "run" / "report.html").is_file()
    assert len(open_codes(tmp_path / "run" / "codes")) == 60
    assert "label" in toolkit("probe", tmp_path / "run" / "codes", code=1).output


def test_one_class_is_an_error_of_the_probe_and_not_of_training(tmp_path: Path, write_pictures: Write) -> None:
    data = write_pictures(tmp_path / "one", [f"oak/{i}.png" for i in range(60)])
    shown = toolkit("run", "folder", "--data", data, "--out", tmp_path / "run", sets=_TINY)
    assert "'oak'" in shown.output
    assert "oak" in toolkit("probe", tmp_path / "run" / "codes", code=1).output


def test_unreadable_pictures_are_listed_and_the_exit_code_is_3(tmp_path: Path, write_pictures: Write) -> None:
    data = _labelled(tmp_path, write_pictures)
    (data / "oak" / "broken.png").write_bytes(b"no picture")
    shown = toolkit("run", "folder", "--data", data, "--out", tmp_path / "run", sets=_TINY, code=3)
    assert "oak/broken.png: not an image" in shown.output
    samples = pd.read_csv(tmp_path / "run" / "samples.csv", keep_default_na=False)
    assert samples.set_index("path")["status"]["oak/broken.png"].startswith("not an image")
    error = toolkit("train", "folder", "--data", data, "--out", tmp_path / "x", "--fail-fast", sets=_TINY, code=1)
    assert "oak/broken.png" in error.output
    described = toolkit("datasets", "folder", "--data", data, "--sheet", tmp_path / "sheet.png")
    assert "oak/broken.png: not an image" in described.output
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_prepare_decodes_and_a_dry_run_only_talks(tmp_path: Path, write_pictures: Write) -> None:
    data = _labelled(tmp_path, write_pictures)
    toolkit("prepare", "folder", "--data", data, "--out", tmp_path / "run")
    assert len(pd.read_csv(tmp_path / "run" / "samples.csv")) == 120
    for command in ("train", "run"):
        shown = toolkit(command, "folder", "--data", data, "--out", tmp_path / "dry", "--dry-run", sets=_TINY)
        assert "would" in shown.output
    assert not (tmp_path / "dry").exists()
    limited = toolkit("datasets", "folder", "--data", data, "--limit", 30, "--json").stdout
    assert json.loads(limited)["images"] == 30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "cats-vs-dogs"], ["--data", "Kaggle"]),
        (["run", "cats-vs-dogs", "--data", "nowhere"], ["no folder nowhere"]),
        (["run", "cat-vs-dog"], ["cat-vs-dog", "cats-vs-dogs"]),
        (["run", "digits", "--set", "vqvae.codes=3"], ["vqvae.codes", "codebook_size"]),
        (["run", "digits", "--set", "split.test=5000"], ["5,400", "--limit"]),
        (["run", "digits", "--set", "probe.labels=390"], ["probe.labels = 390", "390 need 39"]),
        (["train", "digits", "--out", "x", "--device", "cuda:77"], ["cuda:77"]),
        (["encode", "nowhere"], ["nowhere", "toolkit train"]),
        (["probe", "nowhere"], ["nowhere", "toolkit encode"]),
        (["predict", "nowhere", "nowhere"], ["nowhere"]),
        (["decode", "nowhere", "--out", "x"], ["nowhere"]),
        (["datasets", "digits", "--sheet", "/proc/nowhere/x.png"], ["/proc/nowhere"]),
    ],
)
def test_mistakes_get_one_clear_line(
    words: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = toolkit(*words, code=1).output
    for word in said:
        assert word in output
    assert output.strip().splitlines()[-1].startswith("Error: ")


def test_an_unwritable_output_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert (
        "cannot write to the output folder"
        in toolkit("run", "digits", "--out", tmp_path / "file" / "run", code=1).output
    )


@pytest.mark.parametrize(("name", "limit"), [("codes", 1000), ("codes.h5", 20_000), ("codes.h5", 300_000)])
def test_a_full_disk_is_said_and_the_run_goes_on_afterwards(name: str, limit: int, done: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of file size are a POSIX thing")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # no file may grow beyond: as on a full disk
        output = toolkit("encode", done, "--out", tmp_path / name, "--content", "latents", code=1).output
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "no room left on the disk" in output
    toolkit("encode", done, "--out", tmp_path / name, "--content", "latents")
    assert len(open_codes(tmp_path / name)) == 470


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(main, ["--debug", "info", "nowhere"])
    assert result.exit_code == 1
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)
