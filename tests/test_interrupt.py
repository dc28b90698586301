"""Long work may be stopped at any moment: the same command with --resume ends at the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETS = ["split.unlabelled=400", "split.labelled=100", "split.test=100"]
SETS += ["train.objective=reconstruct", "train.epochs=12", "train.batch_size=8"]


def command(out: Path, *words: str) -> list[str]:
    sets = [word for s in SETS for word in ("--set", s)]
    return [sys.executable, "-m", "toolkit.cli", "train", "digits", "--out", str(out), *sets, *words]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_training_goes_on_to_the_same_bits(how: signal.Signals, tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    process = subprocess.Popen(command(tmp_path / "cut"), stderr=subprocess.PIPE, text=True)
    history = tmp_path / "cut" / "stage1" / "history.csv"
    deadline = time.monotonic() + 120
    while not (history.exists() and len(history.read_text().splitlines()) >= 3):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert not (tmp_path / "cut" / "stage1" / "model.json").exists(), "it was stopped in the middle"
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "--resume" in said
        assert "Traceback" not in said
    subprocess.run(command(tmp_path / "cut", "--resume"), check=True, capture_output=True)
    weights = [(tmp_path / name / "stage1" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    whole, cut = ((tmp_path / name / "stage1" / "history.csv").read_text().splitlines() for name in ("whole", "cut"))
    assert len(whole) == len(cut) == 13
