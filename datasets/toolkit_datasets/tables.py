"""Label tables: a spreadsheet with one row for each file or each subject, joined to the sample table by name.

Two kinds of table, told apart by their id column. One that names *files* is the user's own: a picture without a row
simply has no label, "na" is a class like any other, and two rows that disagree are a slip to be mended. One that names
*subjects* describes a cohort and comes from elsewhere, with all its gaps: whoever gets no label from it is listed
with the reason, and nobody has to mend anything.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .card import Card
from .card_data import Labels
from .errors import ToolkitError
from .targets import number

FILE_COLUMNS = ("file", "filename", "path", "id", "image", "name")
SUBJECT_COLUMNS = ("participant_id", "subject_id", "subject", "ixi_id", "mrid")
LABEL_COLUMNS = ("label", "class", "category", "target")
MISSING = {
    "",
    "n/a",
    "#n/a",
    "na",
    "nan",
    "-",
    ".",
}  # "no value" in a table of subjects (BIDS, Excel, R, SPSS), any case
DESCRIBES = re.compile(r"(age|sex|gender|site|group|diagnosis|batch|scanner|hand)\b", re.IGNORECASE)
SPREADSHEETS = {".xls": "xlrd", ".xlsx": "openpyxl"}  # suffix -> what reads it
NAMED = 10  # subjects named in a note; all of them are in `exclusions`


@dataclass(frozen=True)
class Joined:
    """Samples with their labels from a table."""

    samples: pd.DataFrame
    notes: tuple[str, ...] = ()
    exclusions: tuple[tuple[str, str], ...] = ()  # (subject, why it has no label)
    demographics: Mapping[str, Any] = field(default_factory=dict)  # column -> counts, or {"min", "median", "max"}


def find_table(card: Card, root: Path | None, given: Path | None) -> tuple[Path | None, str]:
    """The table to join, and a note where the card hoped for one in vain.

    Args:
        card: `labels.table` must be there; one of `labels.find` may lie in the data folder.
        root: the data folder.
        given: by the user; goes before all.
    """
    if given or card.labels.table:
        return given or Path(card.labels.table), ""
    for name in card.labels.find if root else ():
        if root and (root / name).is_file():
            return root / name, ""
    if card.labels.find:
        return None, f"no table {' or '.join(card.labels.find)} in {root}: nothing is labelled (give one with --labels)"
    return None, ""


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, TSV, XLS or XLSX file (its first sheet) as text: stripped, "" for empty cells, `7` for a float 7.0.

    Raises:
        ToolkitError: it cannot be read, or the package that reads it is missing.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in SPREADSHEETS:
            sheet = _old_sheet(path) if suffix == ".xls" else pd.read_excel(path, dtype=object, engine="openpyxl")
            data: pd.DataFrame = sheet.map(_text)
        else:
            separator: Any = "\t" if suffix == ".tsv" else None
            data = pd.read_csv(
                path, dtype=str, keep_default_na=False, sep=separator, engine="python", encoding="utf-8-sig"
            )
    except ImportError:
        raise ToolkitError(
            f"reading {path} needs the package {SPREADSHEETS[suffix]}: pip install 'vqvae-toolkit[mri]', "
            "or save the table as CSV"
        ) from None
    except Exception as error:  # the spreadsheet readers raise almost anything on a file that is none
        if suffix not in SPREADSHEETS and not isinstance(error, OSError | ValueError | csv.Error):
            raise
        kind = suffix[1:].upper() if suffix in (*SPREADSHEETS, ".tsv") else "CSV"
        raise ToolkitError(f"the label table {path} cannot be read as {kind}: {error}") from None
    data = data.apply(lambda column: column.fillna("").str.strip())
    return data.set_axis([str(column).strip() for column in data.columns], axis="columns")


def _old_sheet(path: Path) -> pd.DataFrame:
    """The first sheet of an .xls file; by xlrd itself, since pandas is about to forget it."""
    import xlrd

    sheet = xlrd.open_workbook(str(path)).sheet_by_index(0)
    head, *rows = [sheet.row_values(row) for row in range(sheet.nrows)] or [[]]
    return pd.DataFrame(rows, columns=[str(name) for name in head], dtype=object)


def join_table(samples: pd.DataFrame, table: Path, labels: Labels, *, keep_labels: bool = False) -> Joined:
    """Replace all labels by those of a table.

    Rows are joined on the group (the subject), id, relative path, file name or stem of a sample; the more exact wins.

    Args:
        samples: one row for each file.
        table: the file.
        labels: names of its columns, and the format of its ids.
        keep_labels: the labels come from elsewhere; the table only describes the subjects.

    Raises:
        ToolkitError: no such table, columns missing, no row matches, or two rows disagree about one file.
    """
    data = read_table(table)
    id_column = _column(data, labels.id_column, (*FILE_COLUMNS, *SUBJECT_COLUMNS), table, "id_column")
    of_subjects = bool(labels.id_column) or id_column.casefold() in SUBJECT_COLUMNS
    label_column = "" if keep_labels else _column(data, labels.column, LABEL_COLUMNS, table, "column")
    places = _places(samples)
    wanted = [_named(text, labels) for text in data[id_column]]
    rows_of: dict[tuple[int, ...], list[int]] = defaultdict(list)  # rows of `samples` -> rows of the table
    for row, name in enumerate(wanted):
        if place := places.get(name):
            rows_of[place].append(row)
    if not rows_of:
        raise ToolkitError(_nothing_matches(samples, table, id_column, wanted, data[id_column].tolist()))
    described = data.iloc[sorted(row for rows in rows_of.values() for row in rows)]
    demographics = _demographics(described.drop_duplicates(), label_column)
    unmatched = len(data) - len(described)
    notes = [f"{unmatched} rows of {table.name} match no file"] if unmatched else []
    if keep_labels:
        return Joined(samples, tuple(notes), demographics=demographics)
    values = [_label(text, labels, MISSING if of_subjects else {""}) for text in data[label_column]]
    found: dict[int, str] = {}
    why: dict[int, str] = {}
    for place, rows in rows_of.items():
        distinct = _distinct([values[row] for row in rows])
        if len(distinct) > 1 and not of_subjects:
            raise ToolkitError(
                f"the label table {table} calls {data[id_column].iat[rows[0]]!r} both {distinct[0]!r} and "
                f"{distinct[1]!r}: keep one row"
            )
        for row in place:
            if len(distinct) == 1:
                found[row] = distinct[0]
            else:
                several = f"rows in conflict: {label_column} is {' and '.join(distinct)}"
                why[row] = several if distinct else f"no value in {label_column}"
    labelled = samples.assign(label=[found.get(row, "") for row in range(len(samples))])
    if not of_subjects:
        return Joined(labelled, tuple(notes), demographics=demographics)
    exclusions = {
        str(samples["group"].iat[row] or samples["id"].iat[row]): why.get(row, f"no row in {table.name}")
        for row in range(len(samples))
        if row not in found
    }
    notes += _excluded(exclusions, samples, table)
    return Joined(labelled, tuple(notes), tuple(exclusions.items()), demographics)


def _column(data: pd.DataFrame, wanted: str, usual: tuple[str, ...], table: Path, key: str) -> str:
    """The column that a card names, else the first of the usual names; case does not matter.

    A name may also be the beginning of the column's, up to a space: `SEX_ID` finds `SEX_ID (1=m, 2=f)`.
    """
    names: dict[str, str] = {column.casefold(): column for column in data.columns}
    if not wanted:
        if found := next((names[name] for name in usual if name in names), None):
            return found
        raise ToolkitError(
            f"the label table {table} has the columns {', '.join(data.columns)}; it needs one of {', '.join(usual)}, "
            f"or labels.{key} must name one"
        )
    if wanted.casefold() in names:
        return names[wanted.casefold()]
    begins = [column for name, column in names.items() if name.startswith(f"{wanted.casefold()} ")]
    if len(begins) == 1:
        return begins[0]
    raise ToolkitError(
        f"labels.{key} = {wanted!r}, but the label table {table} has the columns {', '.join(data.columns)}: "
        f"name one of them with --set labels.{key}=…"
    )


def _places(samples: pd.DataFrame) -> dict[str, tuple[int, ...]]:
    """Every name by which a row of a table can mean samples -> their rows; the more exact name wins.

    A group means all of its samples; other names count only where they mean a single one.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(samples["group"]):
        if group:
            groups[group].append(row)
    places = {group: tuple(rows) for group, rows in groups.items()}
    files = [path.rpartition("/")[2] for path in samples["path"]]
    stems = [re.sub(r"(?i)(\.nii\.gz|\.[^.]*)$", "", name) for name in files]
    for kind in (stems, files, list(samples["path"]), list(samples["id"])):
        counts = Counter(kind)
        places.update({name: (row,) for row, name in enumerate(kind) if counts[name] == 1})
    return places


def _named(text: str, labels: Labels) -> str:
    """An id of the table as it stands in the files: `2` by "IXI{:03d}" becomes IXI002, `IXI002-Guys-0828` by
    "IXI\\d{3}" too.
    """
    if labels.id_format and re.fullmatch(r"\d+(\.0*)?", text):
        return labels.id_format.format(int(float(text)))
    part = re.search(labels.id_pattern, text) if labels.id_pattern else None
    return part[0] if part else text.replace("\\", "/")


def _label(text: str, labels: Labels, missing: Collection[str]) -> str:
    """A cell of the label column as a label; "" where it has none."""
    if text.casefold() in missing or text in labels.none:
        return ""
    return text if labels.kind == "continuous" else labels.names.get(text, text)


def _distinct(values: list[str]) -> list[str]:
    """The different labels among those of one subject, in order; 46.7 and 46.70 are the same."""
    return list({(value if (read := number(value)) is None else read): value for value in values if value}.values())


def _nothing_matches(samples: pd.DataFrame, table: Path, column: str, wanted: list[str], cells: list[str]) -> str:
    as_written = [repr(cell) + (f" (read as {name!r})" if cell != name else "") for cell, name in zip(cells, wanted)]  # noqa: B905
    groups = sorted({group for group in samples["group"] if group})[:3]
    return (
        f"no row of the label table {table} matches a file: its {column} column begins with "
        f"{', '.join(as_written[:3])}; the files begin with {', '.join(map(repr, samples['path'].head(3)))}"
        + (f", the subjects with {', '.join(map(repr, groups))}" if groups else "")
        + ". Name the right column with --set labels.id_column=…, and how a number in it becomes a name with "
        "--set labels.id_format=…"
    )


def _excluded(exclusions: Mapping[str, str], samples: pd.DataFrame, table: Path) -> list[str]:
    """A note that says how many subjects have no label, why, and who the first ones are."""
    if not exclusions:
        return []
    everyone = len({group or name for group, name in zip(samples["group"], samples["id"], strict=True)})
    by_reason: dict[str, list[str]] = defaultdict(list)
    for subject, reason in exclusions.items():
        kind, _, detail = reason.partition(": ")
        by_reason[kind].append(f"{subject} ({detail})" if detail else subject)
    parts = [
        f"{len(names)} with {reason} ({', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})"
        for reason, names in by_reason.items()
    ]
    return [f"{len(exclusions)} of {everyone} subjects have no label in {table.name}: {'; '.join(parts)}"]


def _demographics(data: pd.DataFrame, label_column: str) -> dict[str, Any]:
    """Of the label and the columns that usually describe people: counts, or the range where values are numbers."""
    found: dict[str, Any] = {}
    for column in data.columns:
        if column != label_column and not DESCRIBES.match(column):
            continue
        values = [value for value in data[column] if value.casefold() not in MISSING]
        numbers = [read for value in values if (read := number(value)) is not None]
        if len(numbers) == len(values) and len(set(numbers)) > 8:
            found[column] = {"min": min(numbers), "median": float(np.median(numbers)), "max": max(numbers)}
        elif values:
            found[column] = dict(Counter(values).most_common(8))
    return found


def _text(cell: object) -> str:
    """A cell of a spreadsheet as text."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)) or cell is pd.NaT:
        return ""
    if isinstance(cell, float) and cell == int(cell):
        return str(int(cell))
    return str(cell)
