"""The commands of docs/anomaly.md are ones that the program takes."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from toolkit.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "anomaly.md"
COMMANDS = [line[2:] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("$ toolkit")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_can_be_typed(command: str) -> None:
    _, name, *words = shlex.split(command)
    context = main.commands[name].make_context(name, words)
    assert isinstance(context, click.Context)


def test_there_are_some() -> None:
    assert len(COMMANDS) >= 4
