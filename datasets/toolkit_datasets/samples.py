"""The sample table: which images there are, what they are called, and which label each one carries.

A path that matches one of the card's patterns (regular expressions, tried in order on the relative path) gives
its named groups to the sample: `label`, `number`, `part` (the publisher's own split) and the card's grouping key.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .card import Card
from .errors import ToolkitError
from .images import SUFFIXES

# In the order of samples.csv. All are text; "" means "none".
COLUMNS = ("id", "path", "slice", "label", "group", "split", "status", "sha256", "number", "part")
FILE_COLUMNS = ("file", "filename", "path", "id", "image", "name")
LABEL_COLUMNS = ("label", "class", "category", "target")


@dataclass(frozen=True)
class Scan:
    """What a folder holds before anything is decoded."""

    samples: pd.DataFrame  # COLUMNS, in natural order; split "" and status "ok" until decided
    ignored: int  # files that are no images by name, and hidden ones
    notes: tuple[str, ...] = ()  # what a person should know, such as label rows without a file


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which `cat.2` comes before `cat.10`, the same on every system."""
    return [
        (0, int(piece), piece) if piece.isdecimal() else (1, 0, piece)
        for piece in re.split(r"(\d+)", text.casefold())
        if piece
    ] + [(2, 0, text)]


def scan_images(root: Path, card: Card, labels: Path | None = None) -> Scan:
    """Find the images below `root` and what the card or the label table says of them.

    Args:
        root: the data folder; hidden files and folders are ignored and counted.
        card: patterns, label names, grouping key.
        labels: a CSV table with a file or id column and a label column; goes before labels in names and folders.

    Raises:
        ToolkitError: no folder, no images, a table that matches nothing.
    """
    if not root.is_dir():
        raise ToolkitError(f"no folder {root}. {card.source.how_to_get or 'Give the data folder with --data.'}")
    paths, ignored = _image_paths(root)
    if not paths:
        raise ToolkitError(
            f"no images found in {root} ({ignored} other files): known suffixes are {' '.join(sorted(SUFFIXES))}. "
            f"{card.source.how_to_get}"
        )
    samples = table_of(sorted(paths, key=natural_key), card)
    table = labels or (Path(card.labels.table) if card.labels.table else None)
    notes: tuple[str, ...] = ()
    if table:
        samples, notes = join_labels(samples, table)
    return Scan(samples, ignored, notes)


def table_of(paths: list[str], card: Card) -> pd.DataFrame:
    """The sample table of relative paths, with what the card's patterns read from them."""
    patterns = [_compiled(pattern) for pattern in card.source.patterns]
    stems = [path.rpartition(".")[0] if "." in path.rpartition("/")[2] else path for path in paths]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    rows = []
    for path, stem in zip(paths, stems, strict=True):
        found = next((match.groupdict("") for p in patterns if (match := p.fullmatch(path))), {})
        label = found.get("label", "")
        if card.labels.names and label:
            label = card.labels.names.get(label, "")
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
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def join_labels(samples: pd.DataFrame, table: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Replace all labels by those of a CSV table, joined on id, relative path, file name or stem.

    Raises:
        ToolkitError: no such table, columns missing, no row matches, or two rows disagree about one image.
    """
    try:
        data = pd.read_csv(table, dtype=str, keep_default_na=False, sep=None, engine="python", encoding="utf-8-sig")
    except (OSError, ValueError, pd.errors.ParserError, csv.Error) as error:
        raise ToolkitError(f"the label table {table} cannot be read as CSV: {error}") from None
    names = {str(column).strip().casefold(): str(column) for column in data.columns}
    file_column = next((names[name] for name in FILE_COLUMNS if name in names), None)
    label_column = next((names[name] for name in LABEL_COLUMNS if name in names), None)
    if file_column is None or label_column is None:
        raise ToolkitError(
            f"the label table {table} has the columns {', '.join(map(str, data.columns))}; it needs one of "
            f"{', '.join(FILE_COLUMNS)} and one of {', '.join(LABEL_COLUMNS)}"
        )
    places = _places(samples)
    labels: dict[int, str] = {}
    unmatched = 0
    for key, label in zip(data[file_column].str.strip(), data[label_column].str.strip(), strict=True):
        place = places.get(key.replace("\\", "/"))
        if place is None:
            unmatched += 1
        elif labels.setdefault(place, label) != label:
            raise ToolkitError(
                f"the label table {table} calls {key!r} both {labels[place]!r} and {label!r}: keep one row"
            )
    if not labels:
        raise ToolkitError(
            f"no row of the label table {table} matches a file: its {file_column} column begins with "
            f"{', '.join(map(repr, data[file_column].head(3)))}; the files begin with "
            f"{', '.join(map(repr, samples['path'].head(3)))}"
        )
    labelled = samples.assign(label=[labels.get(place, "") for place in range(len(samples))])
    notes = (f"{unmatched} rows of {table.name} match no file",) if unmatched else ()
    return labelled, notes


def _places(samples: pd.DataFrame) -> dict[str, int]:
    """Every unambiguous name of a sample -> its row; the more exact name wins."""
    places: dict[str, int] = {}
    names: list[list[str]] = [
        [path.rpartition("/")[2].rpartition(".")[0] for path in samples["path"]],
        [path.rpartition("/")[2] for path in samples["path"]],
        list(samples["path"]),
        list(samples["id"]),
    ]
    for kind in names:
        counts = Counter(kind)
        places.update({name: place for place, name in enumerate(kind) if counts[name] == 1})
    return places


def _image_paths(root: Path) -> tuple[list[str], int]:
    """Relative paths of the images below `root`, and how many other files there are. Linked folders are followed."""
    paths, ignored, seen = [], 0, set()
    for folder, folders, files in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        if here in seen:  # a link back to a folder already walked would go round for ever
            folders.clear()
            continue
        seen.add(here)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or Path(name).suffix.lower() not in SUFFIXES:
                ignored += 1
            else:
                paths.append((Path(folder) / name).relative_to(root).as_posix())
    return paths, ignored


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ToolkitError(f"source.patterns: {pattern!r} is not a regular expression: {error}") from None
