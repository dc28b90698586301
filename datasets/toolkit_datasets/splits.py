"""Who learns, who is labelled, who judges.

Rules, in order:

1. Units are groups (subject, pixel-identical images, with `split.near_duplicates` those that are alike), else single
   samples. A unit lies on one side only.
2. Units are ranked by a hash of seed and name, so the split is the same on every machine and in every file order.
3. `unlabelled` takes first the images that have no label, then others by rank; their labels are never looked at.
4. `labelled` (the pool) and `test` take from the rest, in the proportions of the labels there. Labels that are
   numbers are balanced by quantile bins.
5. Where the publisher fixed a test part, `test` comes from it alone and the other splits never touch it.
   A unit that straddles the parts keeps its rows in the test part; the others are `unused`.
6. Where groups are counted (slices of volumes), subjects without a label may judge stage 1: see `assign_groups`.
7. Where `split.labelled = "unlabelled"` there is no split of that name: stage 1's is the pool, whatever labels are
   in it. It is still chosen without a look at them, and `test` stays unseen by both stages.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from .card_data import Pool, Split
from .errors import ToolkitError
from .targets import BINS, Kind, quantile_bins

SPLITS = ("unlabelled", "labelled", "test", "unused")
BIN_UNITS = 10  # a unit is never cut, so a bin of few would lose much of its share to rounding


@dataclass(frozen=True, slots=True)  # one for each sample while splitting: slots save 300 bytes of it
class _Unit:
    rank: str
    rows: tuple[int, ...]
    label: str  # of the first labelled row; "" if none has one
    part: bool  # in the publisher's test part
    site: str = ""  # balanced as labels are
    size: int = 0  # what it counts for: its rows, or 1 where groups are counted


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


def assign_groups(samples: pd.DataFrame, split: Split, seed: int, *, kind: Kind = "class") -> pd.Series:
    """As `assign`, but sizes count groups (subjects), and fractions are shares of all of them.

    Rules that differ, since each subject is precious and the same trained model should serve every target:

    * `unlabelled` takes groups by rank and site, whether or not they have a label: so training is the same for sex,
      age, and no table at all.
    * `labelled` takes labelled groups from the rest; `test` too, and then any: unseen people can judge reconstructions
      without a label. Both are stratified by label and site. Where labels are scarce, the pool gets its share of them.

    Raises:
        ToolkitError: a split wants more than there is.
    """
    units = [replace(unit, size=1) for unit in _units(samples, split, seed)]
    out = np.full(len(samples), "", dtype=object)
    out[(samples["status"] == "ok").to_numpy()] = "unused"
    learners = [unit for unit in units if not unit.part]
    judges = [unit for unit in units if unit.part]
    total = len(learners)
    test = _count(split.test, len(judges) if split.test_part else total)
    pool = _count(split.labelled, total)
    if split.unlabelled == "rest":
        wanted = max(0, total - (pool or 0) - (0 if split.test_part else test or 0))
    else:
        wanted = _count(split.unlabelled, total) or 0
    _enough(samples, wanted, total, "split.unlabelled", unit="groups")
    rest = _take_stratified([replace(unit, label="") for unit in learners], wanted, out, "unlabelled")
    left = {unit.rank for unit in rest}
    rest = [unit for unit in learners if unit.rank in left]
    named = [unit for unit in rest if unit.label]
    strata = _binned if kind == "continuous" else list
    if isinstance(split.labelled, float) and pool:
        judging = 0 if split.test_part else len(rest) - pool if test is None else test
        pool = min(pool, len(named) * pool // max(1, pool + judging))
    if pool is None and not split.test_part:
        pool = max(0, len(named) - (test or 0))
    _enough(samples, pool or 0, len(named), "split.labelled", unit="labelled groups")
    if split.test_part:
        _enough(samples, test or 0, len(judges), "split.test", unit="groups")
        _take_stratified(strata(named), pool, out, "labelled")
        _take_stratified(strata(judges), test, out, "test")
        return pd.Series(out, index=samples.index)
    _enough(samples, (pool or 0) + (test or 0), len(rest), "split.labelled + split.test", unit="groups")
    judges = _take_stratified(strata(named), pool, out, "labelled")
    wanted = len(rest) if test is None else test
    _take_stratified(judges, min(wanted, len(judges)), out, "test")
    _take_stratified([unit for unit in rest if not unit.label], max(0, wanted - len(judges)), out, "test")
    return pd.Series(out, index=samples.index)


def leakage(samples: pd.DataFrame) -> dict[str, int] | None:
    """How many groups of the test split stage 1 or the pool has seen too; None where there is none.

    Args:
        samples: a sample table, or the manifest of a code store: columns group and split.
    """
    grouped = samples[samples["group"] != ""]
    tested = set(grouped["group"][grouped["split"] == "test"])
    seen = tested & set(grouped["group"][grouped["split"].isin(["unlabelled", "labelled"])])
    return {"groups": len(seen), "of": len(tested)} if seen else None


def scaled(split: Split, factor: float) -> Split:
    """The split with its counts scaled, for a trial with fewer images (`--limit`)."""

    def scale(size: Pool) -> Pool:
        return max(1, int(size * factor)) if isinstance(size, int) else size

    sizes = {name: scale(getattr(split, name)) for name in ("unlabelled", "labelled", "test")}
    return split.model_copy(update=sizes)


def _units(samples: pd.DataFrame, split: Split, seed: int) -> list[_Unit]:
    members: dict[str, list[int]] = defaultdict(list)
    whole = split.by == "group"
    slices = samples["slice"] if "slice" in samples else [""] * len(samples)
    for row, (identity, piece, group, status) in enumerate(
        zip(samples["id"], slices, samples["group"], samples["status"], strict=True)
    ):
        if status == "ok":
            own = f"sample:{identity}#{piece}" if piece else f"sample:{identity}"
            members[f"group:{group}" if group and whole else own].append(row)
    sites = samples["site"].to_numpy() if "site" in samples else [""] * len(samples)
    labels, parts = samples["label"].to_numpy(), samples["part"].to_numpy()
    units = []
    for name, rows in members.items():
        judged = [row for row in rows if split.test_part and parts[row] == split.test_part]
        kept = judged or rows
        label = next((str(labels[row]) for row in kept if labels[row]), "")
        site = str(sites[kept[0]])
        units.append(_Unit(rank(seed, name), tuple(kept), label, bool(judged), site, len(kept)))
    return sorted(units, key=lambda unit: unit.rank)


def _count(size: Pool, of: int) -> int | None:
    """How many samples a size stands for; None for all that is left."""
    if size == "rest":
        return None
    if size == "unlabelled":
        return 0
    return int(size * of) if isinstance(size, float) else size  # rounded down, so that shares of 1 always fit


def _take(units: list[_Unit], wanted: int, out: np.ndarray, name: str) -> list[_Unit]:
    """Give `name` the first units that still fit into `wanted` samples; return the others, in order."""
    left = []
    for unit in units:
        if unit.size <= wanted:
            out[list(unit.rows)] = name
            wanted -= unit.size
        else:
            left.append(unit)
    return left


def _take_stratified(units: list[_Unit], wanted: int | None, out: np.ndarray, name: str) -> list[_Unit]:
    """As `_take`, with each label at each site in proportion to its samples (largest remainder)."""
    if wanted is None:
        wanted = _total(units)
    strata: dict[tuple[str, str], list[_Unit]] = defaultdict(list)
    for unit in units:
        strata[unit.label, unit.site].append(unit)
    total = _total(units)
    exact = {key: wanted * _total(members) / total for key, members in sorted(strata.items())} if total else {}
    quota = {key: int(share) for key, share in exact.items()}
    for key in sorted(exact, key=lambda key: quota[key] - exact[key])[: wanted - sum(quota.values())]:
        quota[key] += 1
    return [unit for key in quota for unit in _take(strata[key], quota[key], out, name)]


def _binned(units: list[_Unit]) -> list[_Unit]:
    """The same units with the number of a quantile bin for a label, at most `BINS` of at least `BIN_UNITS` units."""
    named = [unit for unit in units if unit.label]
    values = np.array([float(unit.label) for unit in named])
    bins = quantile_bins(values, max(1, min(BINS, len(named) // BIN_UNITS)))
    binned = [replace(unit, label=str(number)) for unit, number in zip(named, bins, strict=True)]
    return binned + [unit for unit in units if not unit.label]


def _total(units: list[_Unit]) -> int:
    return sum(unit.size for unit in units)


def _enough(samples: pd.DataFrame, wanted: int, there: int, key: str, *, unit: str = "") -> None:
    if wanted <= there:
        return
    skipped = int((samples["status"] != "ok").sum())
    what = unit or ("decoded images" if key == "split.unlabelled" else "labelled images left for it")
    raise ToolkitError(
        f"{key} wants {wanted:,} {unit or 'samples'}, but there are only {there:,} {what} "
        f"({len(samples):,} {'samples' if unit else 'files'}, {skipped:,} skipped). "
        "Ask for fewer with --set split.unlabelled=N, split.labelled=N, split.test=N, "
        "or try a smaller run with --limit N."
    )
