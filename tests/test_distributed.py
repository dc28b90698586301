"""Several processes train one model: the same steps as one process, stopped and resumed with any number of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_training import Acting
from together import CUT, TRAININGS, prepared

from stage1_vqvae.distributed import World
from stage1_vqvae.train import train
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.processes import Process

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-5  # of weights after ten steps: sums are rounded in another order; measured 1e-6 and less
ROTATED = 5e-5  # the same: Adam makes a whole step of a gradient near zero; measured 1.4e-5, in one weight


def torchrun(*words: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Start `words` as a user would."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "datasets"), str(ROOT / "tests")])
    return subprocess.run(
        [*start, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainings in this process."""
    folder = tmp_path_factory.mktemp("one")
    for name in TRAININGS:
        train(prepared(name), folder / name, device="cpu")
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in two processes; and one that this process began, and one that is interrupted there."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(KeyboardInterrupt):
        stop = Acting(CUT, lambda: signal.raise_signal(signal.SIGTERM))
        train(prepared("reconstruct"), folder / "one, then two", device="cpu", progress=stop)
    done = torchrun(ROOT / "tests" / "together.py", folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same(ours: Path, theirs: Path, tolerance: float = TOLERANCE) -> None:
    """Weights, codebooks and histories agree to the tolerance."""
    a, b = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert a.keys() == b.keys()
    for name, value in a.items():
        scale = max(1.0, float(value.double().abs().max()))
        assert torch.allclose(value.double(), b[name].double(), atol=tolerance * scale, rtol=0), name
    for history in ours.glob("history*.csv"):
        mine, other = pd.read_csv(history), pd.read_csv(theirs / history.name)
        assert mine.columns.tolist() == other.columns.tolist()
        for column in set(mine) - {"seconds", "images_per_second"}:
            wide = 0.01 if "psnr" in column else 10 * tolerance  # a batch's PSNR is the mean of its shares'
            assert np.allclose(mine[column], other[column], rtol=10 * tolerance, atol=wide), column


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_take_the_steps_of_one(name: str, one: Path, two: Path) -> None:
    assert_same(one / name, two / name, ROTATED if name == "rotated" else TOLERANCE)
    metrics = [json.loads((folder / name / "metrics.json").read_text()) for folder in (one, two)]
    assert metrics[1]["processes"] == 2
    assert "processes" not in metrics[0]
    assert metrics[0]["steps"] == metrics[1]["steps"]
    assert metrics[0]["psnr"] == pytest.approx(metrics[1]["psnr"], abs=0.001)
    if name == "reconstruct":
        restarts = pd.read_csv(one / name / "history.csv")["restarted"]
        assert restarts.sum() > 0, "or nothing says that restarts agree"


def test_a_training_goes_on_with_another_number_of_processes(one: Path, two: Path) -> None:
    assert_same(one / "reconstruct", two / "one, then two")
    folder = two / "two, then one"
    assert not (folder / "model.json").exists()
    assert sorted(path.name for path in two.glob("stopped *")) == ["stopped 0", "stopped 1"], "one was told, both stop"
    counted = Acting(-1, lambda: None)
    train(prepared("reconstruct"), folder, device="cpu", resume=True, progress=counted)
    assert counted.seen == 10 - CUT, "it stopped right after that step, and only what was left was done"
    assert_same(one / "reconstruct", folder)


def test_processes_that_would_train_different_things_stop(two: Path) -> None:
    for rank in (0, 1):
        assert "what is trained, or whether it is finished, differs" in (two / f"refused {rank}").read_text()


def test_no_thread_of_the_group_outlives_it(two: Path) -> None:
    for rank in (0, 1):
        assert "gloo" not in (two / f"threads {rank}").read_text(), "it may abort the process when Python ends"


def test_the_command_under_torchrun_writes_and_prints_once(tmp_path: Path) -> None:
    sizes = ["split.unlabelled=100", "split.labelled=60", "split.test=40", "train.epochs=1", "train.batch_size=20"]
    sets = [word for size in sizes for word in ("--set", size)]
    words = ["train", "digits", "--objective", "reconstruct", "--out", tmp_path / "run", "--json", *sets]
    done = torchrun("-m", "toolkit.cli", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processes"] == 2
    assert done.stderr.count("stage 1: 100 unlabelled images") == 1
    made = {path.name for path in (tmp_path / "run" / "stage1").iterdir()}
    assert {"model.safetensors", "model.json", "history.csv", "reconstructions.png"} <= made


@given(total=st.integers(1, 300), size=st.integers(1, 9))
def test_shares_cover_a_batch_and_their_weights_average_to_one(total: int, size: int) -> None:
    worlds = [World(Process(rank, size)) for rank in range(size)]
    if total < size:
        with pytest.raises(ToolkitError, match=rf"batch of {total} images cannot be shared by {size} processes"):
            worlds[0].share(total)
        return
    shares = [world.share(total) for world in worlds]
    assert [row for share in shares for row in range(share.start, share.stop)] == list(range(total))
    assert min(map(len, shares)) >= 1
    mean = np.mean([share.weight * np.mean(range(share.start, share.stop)) for share in shares])
    assert mean == pytest.approx((total - 1) / 2)
