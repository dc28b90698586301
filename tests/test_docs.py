"""Pages that quote the program say what the program says."""

import importlib.util
import shlex
from pathlib import Path

import click
import pytest

from toolkit.cli import main

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ["-h", "--help"]  # a command keeps the ones that it is first asked with


def typed() -> list[str]:
    """The commands of all pages, as they stand there."""
    pages = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    return sorted({line[2:] for line in text.splitlines() if line.startswith("$ toolkit ")})


@pytest.mark.parametrize("command", typed())
def test_a_command_of_a_page_can_be_typed(command: str) -> None:
    _, name, *words = shlex.split(command, comments=True)
    assert isinstance(main.commands[name].make_context(name, words, help_option_names=NAMES), click.Context)


def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, page in (("cli.md", generate.cli_page()), ("cards.md", generate.cards_page())):
        written = (DOCS / name).read_text(encoding="utf-8")
        assert written.split() == page.split(), f"docs/{name} is out of date: run `make docs`"


def test_no_page_has_a_gap_left() -> None:
    for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]:
        assert "@@" not in page.read_text(encoding="utf-8"), page
