"""Draws of labels from a task's pool.

A draw is n labels, as equally many of each stratum (class, or quantile bin of the targets) as n allows; the remainder
goes to strata chosen by the seed. Where the data are grouped (several samples of one subject) n counts groups and every
drawn group comes whole. Draws depend on the seed, n and the draw's number alone, so every feature set sees the same
ones.
"""

from __future__ import annotations

import numpy as np

from toolkit_datasets.errors import ToolkitError

from .task import Task

FEW = 5  # draws of a curve size above `MANY` labels: they differ little there, and each costs most
MANY = 100


def draw(task: Task, n: int, number: int, *, seed: int) -> np.ndarray:
    """Draw `number` of n units: ascending positions in `task.pool` (not rows of the store).

    n equal to the pool takes all of it, balanced or not.

    Raises:
        ToolkitError: see `Task.check_size`.
    """
    task.check_size(n)
    if n == task.n_pool:
        return np.arange(len(task.pool))
    rng = np.random.default_rng([seed, n, number])
    stratum, count = task.strata(n, rng)
    have = np.bincount(stratum, minlength=count)
    wanted = np.full(count, n // count)
    order = rng.permutation(count)
    wanted[order[have[order] > n // count][: n % count]] += 1
    chosen = np.zeros(task.n_pool, dtype=bool)
    for place, size in enumerate(wanted):
        chosen[rng.permutation(np.flatnonzero(stratum == place))[:size]] = True
    return np.flatnonzero(chosen[task.pool_unit])


def plan(task: Task, *, labels: int, draws: int, curve: tuple[int, ...], seed: int) -> dict[int, list[np.ndarray]]:
    """All draws of a probe: size -> draws (positions in the pool), sizes ascending, `labels` among them.

    `labels` has `draws` draws; a size of the curve has at most `FEW` where it is above `MANY`; a size equal to the
    pool has one. Curve sizes that the pool cannot give are dropped.
    """
    task.check_size(labels)
    sizes = {labels: draws}
    for size in curve:
        if size in sizes:
            continue
        try:
            task.check_size(size)
        except ToolkitError:
            continue
        sizes[size] = draws if size <= MANY else min(FEW, draws)
    return {
        size: [draw(task, size, number, seed=seed) for number in range(1 if size == task.n_pool else count)]
        for size, count in sorted(sizes.items())
    }
