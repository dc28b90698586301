"""Whole commands in this process, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from toolkit.cli import main


def toolkit(*words: object, sets: list[str] | None = None, code: int = 0) -> Result:
    """Run `toolkit WORDS --set … --set …`, which must end with the exit code `code` and without a traceback."""
    arguments = [str(word) for word in words] + [w for s in sets or [] for w in ("--set", s)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, f"toolkit {' '.join(arguments)}\n{result.output}\n{result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit), "an error must not be a traceback"
    return result


NO_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "torch":
            raise ImportError("blocked")
sys.meta_path.insert(0, NoTorch())
from toolkit.cli import main
main()
"""


def toolkit_without_torch(*words: object) -> None:
    """Run `toolkit WORDS`, which must succeed, in a process of its own that cannot import torch."""
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def results(path: Path) -> dict[str, Any]:
    """A results file without what may differ between two runs: times, and the command typed."""
    data: dict[str, Any] = json.loads((path / "results.json").read_text())
    for key in ("command", "created"):
        data.pop(key, None)
    for key in ("train_seconds", "images_per_second", "phases"):
        data.get("stage1", {}).pop(key, None)
    data["probe"].pop("seconds")
    return data
