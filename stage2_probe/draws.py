"""The task that a store's manifest poses, and the draws of labels from its pool.

A draw is n labels, as equally many of each class as n allows; the remainder goes to classes chosen by the seed.
Where the data are grouped (several samples of one subject) n counts groups and every drawn group comes whole. Draws
depend on the seed, n and the draw's number alone, so every feature set sees the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from toolkit_datasets.errors import ToolkitError

from .selection import majority

POOL, TEST, UNLABELLED = "labelled", "test", "unlabelled"
FEW = 5  # draws of a curve size above `MANY` labels: they differ little there, and each costs most
MANY = 100


@dataclass(frozen=True)
class Task:
    """Who may teach and who judges. Rows are rows of the store; classes are numbered in sorted order of their names.

    Attributes:
        classes: names, C of them.
        pool, test: (P,) and (T,) rows.
        pool_y, test_y: their classes, integers.
        pool_units: (P,) what a draw counts and keeps whole: the group where `grouped`, else each sample.
        pool_groups, test_groups: (P,) and (T,) group numbers, singletons where a sample has no group; cross-validation
            and the bootstrap keep them whole even where draws count samples (such as pixel-identical pictures).
        grouped: whether most groups of the pool hold several samples.
    """

    classes: tuple[str, ...]
    pool: np.ndarray
    test: np.ndarray
    pool_y: np.ndarray
    test_y: np.ndarray
    pool_units: np.ndarray
    pool_groups: np.ndarray
    test_groups: np.ndarray
    grouped: bool

    @property
    def unit(self) -> str:
        """What n counts, in the plural."""
        return "groups" if self.grouped else "images"

    @property
    def n_pool(self) -> int:
        """Units in the pool."""
        return len(np.unique(self.pool_units))

    def unit_classes(self) -> np.ndarray:
        """(U,) the class of each unit of the pool, in the order of `np.unique(pool_units)`."""
        _, unit = np.unique(self.pool_units, return_inverse=True)
        return majority(self.pool_y, unit, int(unit.max()) + 1)


def task_of(manifest: pd.DataFrame) -> Task:
    """Read the task from a store's manifest.

    Raises:
        ToolkitError: no labelled or no test samples, or a single class.
    """
    labelled = (manifest["label"] != "").to_numpy()
    pool = np.flatnonzero((manifest["split"] == POOL).to_numpy() & labelled)
    test = np.flatnonzero((manifest["split"] == TEST).to_numpy() & labelled)
    for rows, split, key in ((pool, POOL, "split.labelled"), (test, TEST, "split.test")):
        if len(rows) == 0:
            present = manifest["split"].value_counts()
            counts = ", ".join(f"{count} {name}" for name, count in present.items()) or "nothing"
            raise ToolkitError(
                f"the probe needs labelled images in the split {split!r}, and these codes have none (they have "
                f"{counts}; {int(labelled.sum())} images carry a label): give labels (--labels table.csv) and set "
                f"{key} above 0, then encode again"
            )
    labels = manifest["label"].to_numpy(dtype=str)
    classes = sorted({str(label) for label in np.concatenate([labels[pool], labels[test]])})
    if len(classes) < 2:
        raise ToolkitError(
            f"the probe needs at least two classes, but every labelled image is {classes[0]!r}: "
            "check the label pattern of the card or the label table"
        )
    number = {name: i for i, name in enumerate(classes)}
    groups = np.unique(_groups(manifest), return_inverse=True)[1]
    sizes = np.unique(groups[pool], return_counts=True)[1]
    grouped = bool(np.median(sizes) > 1)
    return Task(
        classes=tuple(classes),
        pool=pool,
        test=test,
        pool_y=np.array([number[label] for label in labels[pool]]),
        test_y=np.array([number[label] for label in labels[test]]),
        pool_units=groups[pool] if grouped else np.arange(len(pool)),
        pool_groups=groups[pool],
        test_groups=groups[test],
        grouped=grouped,
    )


def draw(task: Task, n: int, number: int, *, seed: int) -> np.ndarray:
    """Draw `number` of n units: ascending positions in `task.pool` (not rows of the store).

    n equal to the pool takes all of it, balanced or not.

    Raises:
        ToolkitError: n is above the pool, below the number of classes, or a class has too few units.
    """
    check_size(task, n)
    if n == task.n_pool:
        return np.arange(len(task.pool))
    rng = np.random.default_rng([seed, n, number])
    units, unit = np.unique(task.pool_units, return_inverse=True)
    label = task.unit_classes()
    wanted = np.full(len(task.classes), n // len(task.classes))
    wanted[rng.permutation(len(task.classes))[: n % len(task.classes)]] += 1
    chosen = np.zeros(len(units), dtype=bool)
    for cls, count in enumerate(wanted):
        chosen[rng.permutation(np.flatnonzero(label == cls))[:count]] = True
    return np.flatnonzero(chosen[unit])


def check_size(task: Task, n: int) -> None:
    """Raise a ToolkitError where draws of n units cannot be had from the pool."""
    pool, unit = task.n_pool, task.unit
    if n > pool:
        raise ToolkitError(
            f"probe.labels = {n}, but the labelled pool holds only {pool} {unit}: "
            f"set probe.labels to {pool} or less, or raise split.labelled"
        )
    if n < len(task.classes):
        raise ToolkitError(
            f"probe.labels = {n} is fewer than one for each of the {len(task.classes)} classes: "
            f"set probe.labels to {len(task.classes)} or more"
        )
    have = np.bincount(task.unit_classes(), minlength=len(task.classes))
    need = -(-n // len(task.classes))  # a class may get the remainder
    rare = int(have.argmin())
    if have[rare] == 0 or (n < pool and have[rare] < need):
        largest = int(have[rare]) * len(task.classes)
        raise ToolkitError(
            f"draws of probe.labels = {n} need {need} {unit} of each class, but the labelled pool of {pool} {unit} "
            f"has {have[rare]} of {task.classes[rare]!r}: "
            + (
                f"set probe.labels to {largest} or less, or raise split.labelled"
                if largest
                else "raise split.labelled, or leave that class out of the labels"
            )
        )


def plan(task: Task, *, labels: int, draws: int, curve: tuple[int, ...], seed: int) -> dict[int, list[np.ndarray]]:
    """All draws of a probe: size -> draws (positions in the pool), sizes ascending, `labels` among them.

    `labels` has `draws` draws; a size of the curve has at most `FEW` where it is above `MANY`; a size equal to the
    pool has one. Curve sizes that the pool cannot give are dropped.
    """
    check_size(task, labels)
    sizes = {labels: draws}
    for size in curve:
        if size in sizes:
            continue
        try:
            check_size(task, size)
        except ToolkitError:
            continue
        sizes[size] = draws if size <= MANY else min(FEW, draws)
    return {
        size: [draw(task, size, number, seed=seed) for number in range(1 if size == task.n_pool else count)]
        for size, count in sorted(sizes.items())
    }


def _groups(manifest: pd.DataFrame) -> np.ndarray:
    """(N,) a name of each row's group; rows without one get a name of their own."""
    own = pd.Series([f"\0{row}" for row in range(len(manifest))], index=manifest.index)
    names: np.ndarray = manifest["group"].where(manifest["group"] != "", own).to_numpy(dtype=str)
    return names
