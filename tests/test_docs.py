"""Pages that quote the program say what the program says."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from toolkit.cli import main

DOCS = Path(__file__).parent.parent / "docs"
BENCHMARKS = DOCS.parent / "benchmarks"
NAMES = ["-h", "--help"]  # a command keeps the ones that it is first asked with


def typed() -> list[str]:
    """The commands of all pages, as they stand there."""
    pages = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    return sorted({line[2:] for line in text.splitlines() if line.startswith("$ toolkit ")})


def loaded(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("command", typed())
def test_a_command_of_a_page_can_be_typed(command: str) -> None:
    _, name, *words = shlex.split(command, comments=True)
    assert isinstance(main.commands[name].make_context(name, words, help_option_names=NAMES), click.Context)


def test_generated_pages_are_up_to_date() -> None:
    generate = loaded(DOCS / "generate.py")
    for name, page in (("cli.md", generate.cli_page()), ("cards.md", generate.cards_page())):
        written = (DOCS / name).read_text(encoding="utf-8")
        assert written.split() == page.split(), f"docs/{name} is out of date: run `make docs`"


def test_tables_of_figures_hold_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # its files import each other
    run, experiments = loaded(BENCHMARKS / "run.py"), loaded(BENCHMARKS / "experiments.py")
    measured = json.loads(run.RECORDS.read_text(encoding="utf-8"))
    assert run.PAGE.read_text(encoding="utf-8") == run.page(measured)
    assert run.headlines(measured) in run.README.read_text(encoding="utf-8")
    tried = json.loads(experiments.RECORDS.read_text(encoding="utf-8"))
    assert experiments.tables(tried) in experiments.PAGE.read_text(encoding="utf-8")


def test_no_page_has_a_gap_left() -> None:
    for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]:
        assert "@@" not in page.read_text(encoding="utf-8"), page
