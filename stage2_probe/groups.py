"""One decision for each group: what a learner says of the samples of a subject, pooled.

A card's labels are of people, so people are to be judged: slices of one head say nearly the same, and counting each of
them would make thirty right answers of one. `Learner.pooled` says how answers become one, and `by_group` is the task in
which every test group is a single case.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from .selection import unit_means
from .task import AnyTask, ClassTask, holds_several, names_of_groups


def group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean of each group's samples: (..., T, A) and (T,) group numbers -> (..., G, A), groups in ascending order."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    sums = np.add.reduceat(values[..., order, :], np.cumsum(sizes) - sizes, axis=-2)
    means: np.ndarray = sums / sizes[:, None]
    return means


def by_group(task: AnyTask) -> AnyTask:
    """The same task with one test case for each group, in the order of `group_means`.

    The group's first row stands for it, and its label or mean target is the truth.
    """
    _, first, group = np.unique(task.test_groups, return_index=True, return_inverse=True)
    truth = task.test_y[first] if isinstance(task, ClassTask) else unit_means(task.test_y, group)
    return replace(task, test=task.test[first], test_y=truth, test_groups=np.arange(len(first)))


def group_table(manifest: pd.DataFrame, groups: np.ndarray) -> pd.DataFrame:
    """Who the groups of some rows of a manifest are: columns group and samples, in the order of `group_means`.

    A row without a group stands for itself, under its id.
    """
    _, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    named = manifest["group"].where(manifest["group"] != "", manifest["id"])
    return pd.DataFrame({"group": named.to_numpy()[first], "samples": sizes})


def groups_of(manifest: pd.DataFrame) -> np.ndarray | None:
    """(N,) group numbers of the rows; None where most groups are a single sample, so that there is nothing to pool."""
    groups = np.unique(names_of_groups(manifest), return_inverse=True)[1]
    return groups if holds_several(groups) else None
