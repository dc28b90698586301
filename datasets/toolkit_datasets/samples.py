"""The sample table: which images there are, what they are called, and which label each one carries.

A path that matches one of the card's patterns (regular expressions, tried in order on the relative path) gives
its named groups to the sample: `label`, `number`, `part` (the publisher's own split), `site` and the card's grouping
key.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from .card import Card
from .errors import ToolkitError
from .images import SUFFIXES
from .tables import find_table, join_table

# In the order of samples.csv. All are text; "" means "none".
COLUMNS = ("id", "path", "slice", "label", "group", "split", "status", "sha256", "number", "part", "site", "position")


@dataclass(frozen=True)
class Scan:
    """What a folder holds before anything is decoded."""

    samples: pd.DataFrame  # COLUMNS, in natural order; split "" and status "ok" until decided
    ignored: int  # files that are no images by name, and hidden ones
    notes: tuple[str, ...] = ()  # what a person should know, such as label rows without a file
    table: Path | None = None  # that labels or describes the samples
    exclusions: tuple[tuple[str, str], ...] = ()  # (subject, why the table gives it no label)
    demographics: Mapping[str, Any] = field(default_factory=dict)  # see tables.py
    volumes: pd.DataFrame | None = None  # volumes.FACTS, one row for each file, where the samples are slices


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which `cat.2` comes before `cat.10`, the same on every system."""
    return [
        (0, int(piece), piece) if piece.isdecimal() else (1, 0, piece)
        for piece in re.split(r"(\d+)", text.casefold())
        if piece
    ] + [(2, 0, text)]


def scan_images(root: Path, card: Card, labels: Path | None = None, *, files: Collection[str] | None = None) -> Scan:
    """Find the images below `root` and what the card or the label table says of them.

    Args:
        root: the data folder; hidden files and folders are ignored and counted.
        card: patterns, label names, grouping key.
        labels: a table with a file or id column and a label column; goes before labels in names and folders.
        files: relative paths to take instead of looking for any.

    Raises:
        ToolkitError: no folder, no images, a table that matches nothing.
    """
    paths, ignored = (list(files), 0) if files is not None else find_files(root, SUFFIXES, card, what="images")
    return replace(file_table(sorted(paths, key=natural_key), card, root, labels), ignored=ignored)


def file_table(paths: list[str], card: Card, root: Path | None, labels: Path | None) -> Scan:
    """The sample table of relative paths, one row for each, with the labels of the card's or the user's table.

    Args:
        paths: in their order.
        card: patterns, label names, where the table is.
        root: the data folder, in which a table may lie.
        labels: a table given by the user.

    Raises:
        ToolkitError: a table that cannot be read or matches nothing.
    """
    samples = table_of(paths, card)
    table, note = find_table(card, root, labels)
    if table is None:
        return Scan(samples, 0, (note,) if note else ())
    from_names = card.labels.column in _groups_of(card)  # such as the site: the table only describes then
    joined = join_table(samples, table, card.labels, keep_labels=from_names)
    return Scan(joined.samples, 0, joined.notes, table, joined.exclusions, joined.demographics)


def table_of(paths: list[str], card: Card) -> pd.DataFrame:
    """The sample table of relative paths, with what the card's patterns read from them."""
    patterns = [_compiled(pattern) for pattern in card.source.patterns]
    label_group = card.labels.column if card.labels.column in _groups_of(card) else "label"
    stems = [stem_of(path) for path in paths]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    rows = []
    for path, stem in zip(paths, stems, strict=True):
        found = next((match.groupdict("") for p in patterns if (match := p.fullmatch(path))), {})
        label = found.get(label_group, "")
        if card.labels.names and label:
            label = card.labels.names.get(label, "") if label_group == "label" else label
        group = found.get(card.split.group, "") if card.split.group else ""
        rows.append(
            {
                "id": path if stem in shared else stem,
                "path": path,
                "slice": "",
                "label": "" if label in card.labels.none else label,
                "group": group,
                "split": "",
                "status": "ok",
                "sha256": "",
                "number": found.get("number", ""),
                "part": found.get("part", ""),
                "site": found.get("site", ""),
                "position": "",
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def stem_of(path: str) -> str:
    """A path without its suffix; `.nii.gz` counts as one.

    >>> stem_of("a.b/c.png"), stem_of("sub-02_T1w.nii.gz"), stem_of("a.b/README")
    ('a.b/c', 'sub-02_T1w', 'a.b/README')
    """
    folder, slash, name = path.rpartition("/")
    bare = name[: -len(".gz")] if name.lower().endswith(".nii.gz") else name
    return folder + slash + (bare.rpartition(".")[0] or bare)


def find_files(root: Path, suffixes: Collection[str], card: Card, *, what: str) -> tuple[list[str], int]:
    """Relative paths of the files below `root` that end in one of `suffixes`, and how many other files there are.

    Linked folders are followed. Where the card says so its patterns also choose: a folder of scans often holds other
    contrasts, which must not be mixed in.

    Raises:
        ToolkitError: no folder, or nothing in it.
    """
    if not root.is_dir():
        raise ToolkitError(f"no folder {root}. {card.source.how_to_get or 'Give the data folder with --data.'}")
    paths, ignored, seen = [], 0, set()
    endings = tuple(suffixes)
    for folder, folders, files in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        if here in seen:  # a link back to a folder already walked would go round for ever
            folders.clear()
            continue
        seen.add(here)
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for name in files:
            if name.startswith(".") or not name.lower().endswith(endings):
                ignored += 1
            else:
                paths.append(prefix + name)  # a `Path` for each of a million files takes seconds
    named = paths
    if card.source.only_matching:
        patterns = [_compiled(pattern) for pattern in card.source.patterns]
        named = [path for path in paths if any(pattern.fullmatch(path) for pattern in patterns)]
    if not named:
        seen_names = f"; there are {len(paths)} others, such as {min(paths, key=natural_key)}" if paths else ""
        raise ToolkitError(
            f"no {what} found in {root} ({ignored} other files): known suffixes are {' '.join(sorted(suffixes))}"
            + (f", and names must fit the card's source.patterns{seen_names}" if named is not paths else "")
            + f". {card.source.how_to_get}"
        )
    return named, ignored + len(paths) - len(named)


def _groups_of(card: Card) -> set[str]:
    """Names of the groups of the card's patterns."""
    return {name for pattern in card.source.patterns for name in _compiled(pattern).groupindex}


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ToolkitError(f"source.patterns: {pattern!r} is not a regular expression: {error}") from None
