"""Who learns, who is labelled, who judges.

Rules, in order:

1. Units are groups (subject, or pixel-identical images), else single samples. A unit lies on one side only.
2. Units are ranked by a hash of seed and name, so the split is the same on every machine and in every file order.
3. `unlabelled` takes first the images that have no label, then others by rank; their labels are never looked at.
4. `labelled` (the pool) and `test` take from the rest, in the proportions of the labels there. Labels that are
   numbers are balanced by quantile bins.
5. Where the publisher fixed a test part, `test` comes from it alone and the other splits never touch it.
   A unit that straddles the parts keeps its rows in the test part; the others are `unused`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from .card import Size, Split
from .errors import ToolkitError
from .targets import BINS, Kind, quantile_bins

SPLITS = ("unlabelled", "labelled", "test", "unused")
BIN_UNITS = 10  # a unit is never cut, so a bin of few would lose much of its share to rounding


@dataclass(frozen=True)
class _Unit:
    rank: str
    rows: tuple[int, ...]
    label: str  # of the first labelled row; "" if none has one
    part: bool  # in the publisher's test part


def rank(seed: int, name: str) -> str:
    """Where `name` stands in the seeded order: a hex digest to sort by."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def assign(samples: pd.DataFrame, split: Split, seed: int, *, kind: Kind = "class") -> pd.Series:
    """The split of every sample: `unlabelled`, `labelled`, `test`, `unused`, or "" for skipped ones.

    Args:
        samples: the table after decoding, with columns id, label, group, part, status.
        split: the wanted sizes. Fractions are shares of the labelled images that the split may draw from.
        seed: decides the ranking.
        kind: what the labels are; numbers (which must be finite) are stratified by quantile bins.

    Raises:
        ToolkitError: a split wants more than there is.
    """
    units = _units(samples, split, seed)
    out = np.full(len(samples), "", dtype=object)
    out[(samples["status"] == "ok").to_numpy()] = "unused"
    learners = [unit for unit in units if not unit.part]
    bare = sum(len(unit.rows) for unit in learners if not unit.label)
    shared = sum(len(unit.rows) for unit in learners if unit.label)  # labelled images outside a publisher's test part
    judged = sum(len(unit.rows) for unit in units if unit.part) if split.test_part else shared
    test, pool = _count(split.test, judged), _count(split.labelled, shared)
    if split.unlabelled == "rest" or isinstance(split.unlabelled, float):
        share = 1.0 if split.unlabelled == "rest" else split.unlabelled
        claimed = sum(size for size in (pool, 0 if split.test_part else test) if size is not None)
        wanted = bare + min(round(share * shared), max(0, shared - claimed))
    else:
        wanted = split.unlabelled
    _enough(samples, wanted, bare + shared, "split.unlabelled")
    learners.sort(key=lambda unit: (unit.label != "", unit.rank))
    rest = _take(learners, wanted, out, "unlabelled")
    strata = _binned if kind == "continuous" else list
    rest = strata([unit for unit in rest if unit.label])
    if split.test_part:
        judges = strata([unit for unit in units if unit.part and unit.label])
        _enough(samples, pool or 0, _total(rest), "split.labelled")
        _enough(samples, test or 0, _total(judges), "split.test")
        _take_stratified(judges, test, out, "test")
        _take_stratified(rest, pool, out, "labelled")
        return pd.Series(out, index=samples.index)
    # A share was already counted against all labelled images; what `unlabelled` left may be less.
    _enough(samples, (pool or 0) + (test or 0), _total(rest), "split.labelled + split.test")
    if pool is None and test is not None:
        rest = _take_stratified(rest, test, out, "test")
        _take_stratified(rest, None, out, "labelled")
    else:
        rest = _take_stratified(rest, pool, out, "labelled")
        _take_stratified(rest, test, out, "test")
    return pd.Series(out, index=samples.index)


def scaled(split: Split, factor: float) -> Split:
    """The split with its counts scaled, for a trial with fewer images (`--limit`)."""

    def scale(size: Size) -> Size:
        return max(1, int(size * factor)) if isinstance(size, int) else size

    sizes = {name: scale(getattr(split, name)) for name in ("unlabelled", "labelled", "test")}
    return split.model_copy(update=sizes)


def _units(samples: pd.DataFrame, split: Split, seed: int) -> list[_Unit]:
    members: dict[str, list[int]] = defaultdict(list)
    for row, (identity, group, status) in enumerate(
        zip(samples["id"], samples["group"], samples["status"], strict=True)
    ):
        if status == "ok":
            members[f"group:{group}" if group else f"sample:{identity}"].append(row)
    labels, parts = samples["label"].to_numpy(), samples["part"].to_numpy()
    units = []
    for name, rows in members.items():
        judged = [row for row in rows if split.test_part and parts[row] == split.test_part]
        kept = judged or rows
        label = next((str(labels[row]) for row in kept if labels[row]), "")
        units.append(_Unit(rank=rank(seed, name), rows=tuple(kept), label=label, part=bool(judged)))
    return sorted(units, key=lambda unit: unit.rank)


def _count(size: Size, of: int) -> int | None:
    """How many samples a size stands for; None for all that is left."""
    if size == "rest":
        return None
    return int(size * of) if isinstance(size, float) else size  # rounded down, so that shares of 1 always fit


def _take(units: list[_Unit], wanted: int, out: np.ndarray, name: str) -> list[_Unit]:
    """Give `name` the first units that still fit into `wanted` samples; return the others, in order."""
    left = []
    for unit in units:
        if len(unit.rows) <= wanted:
            out[list(unit.rows)] = name
            wanted -= len(unit.rows)
        else:
            left.append(unit)
    return left


def _take_stratified(units: list[_Unit], wanted: int | None, out: np.ndarray, name: str) -> list[_Unit]:
    """As `_take`, with each label in proportion to its samples (largest remainder)."""
    if wanted is None:
        wanted = _total(units)
    by_label: dict[str, list[_Unit]] = defaultdict(list)
    for unit in units:
        by_label[unit.label].append(unit)
    total = _total(units)
    exact = {label: wanted * _total(members) / total for label, members in sorted(by_label.items())} if total else {}
    quota = {label: int(share) for label, share in exact.items()}
    for label in sorted(exact, key=lambda label: quota[label] - exact[label])[: wanted - sum(quota.values())]:
        quota[label] += 1
    return [unit for label in quota for unit in _take(by_label[label], quota[label], out, name)]


def _binned(units: list[_Unit]) -> list[_Unit]:
    """The same units with the number of a quantile bin for a label, at most `BINS` of at least `BIN_UNITS` units."""
    values = np.array([float(unit.label) for unit in units])
    bins = quantile_bins(values, max(1, min(BINS, len(units) // BIN_UNITS)))
    return [replace(unit, label=str(number)) for unit, number in zip(units, bins, strict=True)]


def _total(units: list[_Unit]) -> int:
    return sum(len(unit.rows) for unit in units)


def _enough(samples: pd.DataFrame, wanted: int, there: int, key: str) -> None:
    if wanted <= there:
        return
    skipped = int((samples["status"] != "ok").sum())
    what = "decoded images" if key == "split.unlabelled" else "labelled images left for it"
    raise ToolkitError(
        f"{key} wants {wanted:,} samples, but there are only {there:,} {what} "
        f"({len(samples):,} files, {skipped:,} skipped). "
        "Ask for fewer with --set split.unlabelled=N, split.labelled=N, split.test=N, "
        "or try a smaller run with --limit N."
    )
