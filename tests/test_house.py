"""The shape of the house: who may import whom, what is packaged, how fast it answers, what the help says."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from toolkit.cli import main

ROOT = Path(__file__).parent.parent
FLOORS = {"toolkit_datasets": 0, "stage1_vqvae": 1, "stage2_probe": 1, "toolkit": 2}
FOLDERS = {"toolkit_datasets": ROOT / "datasets" / "toolkit_datasets"} | {
    name: ROOT / name for name in ("stage1_vqvae", "stage2_probe", "toolkit")
}


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports anywhere in a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FLOORS)
def test_every_import_points_down(package: str) -> None:
    files = sorted(FOLDERS[package].rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path) & FLOORS.keys() - {package}:
            assert FLOORS[name] < FLOORS[package], f"{path} imports {name}"


def test_datasets_is_a_source_root_and_no_package() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_nothing_is_ever_unpickled() -> None:
    for folder in FOLDERS.values():
        for path in folder.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for word in ("allow_pickle=True", "weights_only=False", "pickle.load", "torch.load", "joblib"):
                assert word not in text, f"{path}: {word}"


def commands() -> dict[str, click.Command]:
    return dict(main.commands)


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Example:  toolkit {name}" in result.output or (name == "predict" and "toolkit predict" in result.output)
    for option in commands()[name].params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts} has no help"


def test_help_and_probe_do_without_heavy_imports() -> None:
    code = "import sys, toolkit.cli; print(sorted({'torch', 'pandas', 'sklearn', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_wheel_holds_our_packages_only_and_works_elsewhere(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"
    files = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, files):  # a copy, so that no build folder is left in the checkout
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "-w", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("vqvae_toolkit-*.whl")
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == FLOORS.keys()
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = "import toolkit, sys; print(toolkit.__file__); from toolkit.cli import main; main()"
    sizes = ["split.unlabelled=60", "split.labelled=60", "split.test=40", "agree.epochs=1", "train.epochs=1"]
    sizes += ["probe.labels=20", "probe.draws=2", "probe.curve=[]"]
    small = [word for size in sizes for word in ("--set", size)]
    result = subprocess.run(
        [sys.executable, "-c", code, "run", "digits", "--out", "elsewhere", *small],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(site))
    assert (tmp_path / "elsewhere" / "report.html").is_file()
