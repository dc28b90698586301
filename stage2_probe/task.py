"""The task that a store's manifest poses: which rows teach, which rows judge, and what is to be told of them.

Two kinds: classes, and continuous targets (numbers). They share everything but the meaning of the labels and the
strata over which draws are balanced: the classes, or quantile bins of the pool's targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import pandas as pd

from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.targets import BINS, Kind, number, quantile_bins

from .selection import majority, unit_means

HALVES = 2**31  # second part of the random seed of the pool's halves, apart from every draw's size
POOL, TEST, UNLABELLED = "labelled", "test", "unlabelled"


@dataclass(frozen=True)
class Task(ABC):
    """Who teaches and who judges. Rows are rows of the store.

    Attributes:
        pool, test: (P,) and (T,) rows.
        pool_y, test_y: their labels: integer classes, or targets in float64.
        pool_units: (P,) what a draw counts and keeps whole: the group where `grouped`, else each sample.
        pool_groups, test_groups: (P,) and (T,) group numbers, singletons where a sample has no group; cross-validation
            and the bootstrap keep them whole even where draws count samples (such as pixel-identical pictures).
        grouped: whether draws count groups: by default where most groups of the pool hold several samples.
        by_group: whether a decision is about a whole test group, so that scores are of groups; needs `grouped`.
        pool_split: name of the split that the pool is.
    """

    pool: np.ndarray
    test: np.ndarray
    pool_y: np.ndarray
    test_y: np.ndarray
    pool_units: np.ndarray
    pool_groups: np.ndarray
    test_groups: np.ndarray
    grouped: bool
    by_group: bool
    pool_split: str

    @property
    def unit(self) -> str:
        """What n counts, in the plural."""
        return "groups" if self.grouped else "images"

    @property
    def n_pool(self) -> int:
        """Units in the pool."""
        return int(self.pool_unit.max(initial=-1)) + 1

    @cached_property  # every draw asks for it, and a pool may hold millions
    def pool_unit(self) -> np.ndarray:
        """(P,) the unit of each sample of the pool, as its place in `np.unique(pool_units)`."""
        return np.unique(self.pool_units, return_inverse=True)[1]

    def size(self, labels: int | Literal["all"]) -> int:
        """How many units a draw has, for the card's `probe.labels`."""
        return self.n_pool if labels == "all" else labels

    def check_size(self, n: int) -> None:
        """Raise a ToolkitError where draws of n units cannot be had from the pool."""
        if n > self.n_pool:
            raise ToolkitError(
                f"probe.labels = {n}, but the labelled pool holds only {self.n_pool} {self.unit}: "
                f'set probe.labels to {self.n_pool} or less, or to "all" for one draw of the whole pool, '
                f"or raise split.{self.pool_split}"
            )
        self._check_strata(n)

    @abstractmethod
    def strata(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """The stratum of each unit of the pool, in the order of `np.unique(pool_units)`, and how many strata there are.

        Args:
            n: units of the draw.
            rng: breaks ties, where there can be any.
        """

    @abstractmethod
    def _check_strata(self, n: int) -> None:
        """Refuse what n units of the strata cannot give."""


@dataclass(frozen=True)
class ClassTask(Task):
    """Labels are classes, numbered in sorted order of their names; draws are balanced by class."""

    classes: tuple[str, ...]

    def strata(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """See `Task.strata`: the class of most of a unit's samples."""
        return self._unit_class, len(self.classes)

    @cached_property
    def _unit_class(self) -> np.ndarray:
        return majority(self.pool_y, self.pool_unit, self.n_pool)

    def _check_strata(self, n: int) -> None:
        classes, pool, unit = self.classes, self.n_pool, self.unit
        if n < len(classes):
            raise ToolkitError(
                f"probe.labels = {n} is fewer than one for each of the {len(classes)} classes: "
                f"set probe.labels to {len(classes)} or more"
            )
        have = np.bincount(self.strata(n, np.random.default_rng(0))[0], minlength=len(classes))
        need = -(-n // len(classes))  # a class may get the remainder
        rare = int(have.argmin())
        if have[rare] == 0 or (n < pool and have[rare] < need):
            largest = int(have[rare]) * len(classes)
            raise ToolkitError(
                f"draws of probe.labels = {n} need {need} {unit} of each class, but the labelled pool of {pool} "
                f"{unit} has {have[rare]} of {classes[rare]!r}: "
                + (
                    f"set probe.labels to {largest} or less, or raise split.{self.pool_split}"
                    if largest
                    else f"raise split.{self.pool_split}, or leave that class out of the labels"
                )
            )


@dataclass(frozen=True)
class ContinuousTask(Task):
    """Labels are numbers; draws are balanced over quantile bins of the pool's targets."""

    def strata(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """See `Task.strata`: bins by rank of the units' mean targets, at most `BINS` and at most n of them."""
        means = unit_means(self.pool_y, self.pool_unit)
        count = min(BINS, n)
        shuffled = rng.permutation(len(means))  # equal targets at the edge of a bin fall to either side
        bins = np.empty(len(means), dtype=np.int64)
        bins[shuffled] = quantile_bins(means[shuffled], count)
        return bins, count

    def _check_strata(self, n: int) -> None:
        if n < 2:
            raise ToolkitError(f"probe.labels = {n}: a fit needs 2 {self.unit} or more")


AnyTask = TypeVar("AnyTask", bound=Task)


def task_of(
    manifest: pd.DataFrame,
    kind: Kind = "class",
    *,
    judge: Literal["test", "pool"] = "test",
    unit: Literal["auto", "sample", "group"] = "auto",
    pool_split: str = POOL,
    seed: int = 0,
) -> ClassTask | ContinuousTask:
    """Read the task from a store's manifest.

    Args:
        manifest: of the store.
        kind: what the labels are.
        judge: `pool` leaves the test set alone: half of the pool judges what the other half teaches.
        unit: what draws count and decisions are about. `auto`: groups where most hold several samples; of test groups
            whose samples are labelled differently (slices with and without a tumour) each sample is decided by itself.
        pool_split: the split that the pool is, the card's `split.pool`.
        seed: decides the halves.

    Raises:
        ToolkitError: no labelled or no test samples; a single class; a target that is no number, or one for all; one
            decision wanted for a group of two classes.
    """
    labelled = (manifest["label"] != "").to_numpy()
    groups = np.unique(names_of_groups(manifest), return_inverse=True)[1]
    pool = np.flatnonzero((manifest["split"] == pool_split).to_numpy() & labelled)
    test = np.flatnonzero((manifest["split"] == TEST).to_numpy() & labelled)
    for rows, split, key in ((pool, pool_split, f"split.{pool_split}"), (test, TEST, "split.test")):
        if len(rows) == 0:
            present = manifest["split"].value_counts()
            counts = ", ".join(f"{count} {name}" for name, count in present.items()) or "nothing"
            raise ToolkitError(
                f"the probe needs labelled images in the split {split!r}, and these codes have none (they have "
                f"{counts}; {int(labelled.sum())} images carry a label): give labels (--labels table.csv) and set "
                f"{key} above 0, then encode again"
            )
    if judge == "pool":
        pool, test = _halves(pool, groups, seed)
    names, pool_y, test_y = (_targets if kind == "continuous" else _classes)(manifest, pool, test)
    grouped = unit == "group" or (unit == "auto" and holds_several(groups[pool]))
    mixed = _mixed(groups[test], test_y) if grouped else None
    if mixed is not None and unit == "group" and kind == "class":
        raise ToolkitError(
            f"probe.unit = 'group' wants one decision for each group, but {manifest['group'].iat[test[mixed]]!r} holds "
            "samples of several classes: set probe.unit=sample"
        )
    by_group = grouped and (mixed is None or unit == "group")
    units = groups[pool] if grouped else np.arange(len(pool))
    shared = (pool, test, pool_y, test_y, units, groups[pool], groups[test], grouped, by_group, pool_split)
    return ContinuousTask(*shared) if kind == "continuous" else ClassTask(*shared, classes=names)


def _halves(pool: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that teach and rows that judge, ascending: half of the pool's groups each, by chance."""
    names = np.unique(groups[pool])
    if len(names) < 2:
        raise ToolkitError("probe.judge = 'pool' needs a labelled pool of two groups or more: set probe.judge=test")
    teaching = np.random.default_rng([seed, HALVES]).permutation(names)[: len(names) // 2]
    teaches = np.isin(groups[pool], teaching)
    return pool[teaches], pool[~teaches]


Labels = tuple[tuple[str, ...], np.ndarray, np.ndarray]  # names of the classes, labels of pool and test


def _classes(manifest: pd.DataFrame, pool: np.ndarray, test: np.ndarray) -> Labels:
    labels = manifest["label"].to_numpy(dtype=str)
    classes = sorted({str(label) for label in np.concatenate([labels[pool], labels[test]])})
    if len(classes) < 2:
        raise ToolkitError(
            f"the probe needs at least two classes, but every labelled image is {classes[0]!r}: "
            "check the label pattern of the card or the label table"
        )
    place = {name: i for i, name in enumerate(classes)}
    return (
        tuple(classes),
        np.array([place[label] for label in labels[pool]]),
        np.array([place[label] for label in labels[test]]),
    )


def _targets(manifest: pd.DataFrame, pool: np.ndarray, test: np.ndarray) -> Labels:
    values = {}
    for row in np.concatenate([pool, test]):
        label = str(manifest["label"].iat[row])
        value = number(label)
        if value is None:
            raise ToolkitError(
                f"labels.kind = 'continuous', but the label of {manifest['id'].iat[row]} is {label!r}, which is no "
                "finite number: set labels.kind=class, or encode again with a label table of numbers"
            )
        values[int(row)] = value
    if len(set(values.values())) < 2:
        raise ToolkitError(
            f"the probe needs targets that differ, but every labelled image has {next(iter(values.values())):g}: "
            "check the label pattern of the card or the label table"
        )
    return (), np.array([values[int(row)] for row in pool]), np.array([values[int(row)] for row in test])


def _mixed(groups: np.ndarray, y: np.ndarray) -> int | None:
    """A position whose label is not that of its group's first sample; None where every group has one label."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    differ = np.flatnonzero(y != y[first][group])
    return int(differ[0]) if len(differ) else None


def holds_several(groups: np.ndarray) -> bool:
    """Whether most groups hold several samples: slices of subjects do, a few identical pictures do not."""
    return bool(np.median(np.unique(groups, return_counts=True)[1]) > 1)


def names_of_groups(manifest: pd.DataFrame) -> np.ndarray:
    """(N,) a name of each row's group; rows without one get a name of their own."""
    own = pd.Series([f"\0{row}" for row in range(len(manifest))], index=manifest.index)
    names: np.ndarray = manifest["group"].where(manifest["group"] != "", own).to_numpy(dtype=str)
    return names
