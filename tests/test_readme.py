"""The README's commands run as they stand there, on small data under the names that it uses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli import main

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/workflows/cats-vs-dogs.md"]
EPOCHS = ["train.epochs=1", "agree.epochs=1"]
# What makes the long commands short: the sizes, nothing else.
SMALL = {
    "train": ["split.unlabelled=40", "split.labelled=40", "split.test=20", "image.size=16", *EPOCHS],
    "probe": ["probe.draws=2", "probe.labels=10", "probe.curve=[6]"],
}
SMALL["run"] = SMALL["train"] + SMALL["probe"]
SMALL["datasets"] = SMALL["prepare"] = SMALL["train"]


def commands(page: str) -> list[list[str]]:
    """The `toolkit` commands of a page's console blocks, in order, comments and continuation lines resolved."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ toolkit")]
    return [found[1:] for found in words]


def shortened(command: list[str]) -> list[str]:
    sets = SMALL.get(command[0], [])
    own = {command[i + 1].partition("=")[0] for i, word in enumerate(command) if word == "--set"}
    kept = [s for s in sets if s.partition("=")[0] not in own - {"probe.labels", "probe.draws"}]
    if command[0] in ("datasets", "prepare") and "--data" not in command:
        return command
    if "folder" in command:  # its splits are shares already
        kept = [s for s in kept if not s.startswith("split.")]
    return [*command, *(word for s in kept for word in ("--set", s))]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_pictures: Callable[[Path, list[str]], Path]
) -> None:
    found = commands(page)
    assert len(found) > 5
    names = [f"{label}.{i}.jpg" for i in range(100) for label in ("cat", "dog")]
    write_pictures(tmp_path / "train", names)
    write_pictures(tmp_path / "my-images", [f"{label}/{i}.png" for i in range(60) for label in ("oak", "elm")])
    write_pictures(tmp_path / "flat-images", [f"{i}.png" for i in range(120)])
    write_pictures(tmp_path / "new-images", [f"{i}.png" for i in range(7)])
    rows = "".join(f"{i}.png,{'oak' if i % 2 else 'elm'}\n" for i in range(100))
    (tmp_path / "labels.csv").write_text("file,label\n" + rows)
    ages = "".join(f"{i}.png,{20 + i / 2}\n" for i in range(100))
    (tmp_path / "ages.csv").write_text("file,label\n" + ages)
    monkeypatch.chdir(tmp_path)
    for command in found:
        result = CliRunner().invoke(main, shortened(command))
        assert result.exit_code == 0, f"toolkit {shlex.join(command)}:\n{result.output}"


def test_the_readme_script_reaches_the_accuracy_of_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (script,) = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "np.load" in block]
    monkeypatch.chdir(tmp_path)
    probe = [*map("--set={}".format, ("probe.draws=2", "probe.curve=[]"))]
    train = [*map("--set={}".format, ("agree.epochs=2", "train.epochs=2"))]
    mean = ["--set=probe.features=mean", '--set=probe.levels=["coarse"]', "--out", "runs/cats-mean"]
    for command in (
        ["run", "digits", "--out", "runs/cats", "--objective", "agree", *train, *probe],
        ["probe", "runs/cats/codes", *mean, *probe],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    values: dict[str, float] = {}
    exec(compile(script, "README.md", "exec"), values)  # the user's own script, as printed
    import json

    per_draw = json.loads(Path("runs/cats-mean/results.json").read_text())["probe"]["per_draw"]
    assert values["accuracy"] == pytest.approx(per_draw[0]["accuracy"], abs=0.003)
