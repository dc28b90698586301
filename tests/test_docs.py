"""Pages that quote the program say what the program says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


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
