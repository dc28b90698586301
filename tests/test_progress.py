import sys

import pytest

from toolkit_datasets import progress
from toolkit_datasets.progress import SILENT, Terminal


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Terminal(bars=False).bar("train", 100, "images") as bar:
        for _ in range(10):
            bar.set_postfix_str("loss 0.5")
            bar.update(10)
    captured = capsys.readouterr()
    assert captured.out == "", "stdout is for data"
    lines = captured.err.splitlines()
    assert lines[0] == "train: 30 of 100 images, 1/s, 70 s left; loss 0.5"
    assert len(lines) == 3


def test_work_of_an_earlier_sitting_does_not_hurry_the_clock(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Terminal(bars=False).bar("train", 1000, "images", done=900) as bar:
        for _ in range(3):
            bar.update(10)
    assert capsys.readouterr().err == "train: 930 of 1,000 images, 1/s, 70 s left\n"


def test_someone_who_watches_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    terminal = Terminal()
    assert terminal.bars
    with terminal.bar("encode", 4, "images") as bar:
        bar.update(4)
    assert "encode: 100%" in capsys.readouterr().err


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT.bar("x", 1, "y") as bar:
        bar.update()
        bar.set_postfix_str("z")
    SILENT.say("nothing")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
