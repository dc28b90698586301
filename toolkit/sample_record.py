"""What is recorded of samples beside their nearest training images: columns of the table, and the summary."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit_datasets.prepare import Prepared

from .pick import image_name

if TYPE_CHECKING:
    from stage1_vqvae.aggregate import Aggregate
    from stage1_vqvae.sample import Comparison

MEASURES = ("pixels", "latents")
TAIL = 0.05  # what one unseen image in twenty does by chance is not usual any more
CHANCE = 0.05  # so improbable a number of unusual samples is not put down to chance


def neighbour_columns(compared: Comparison, prepared: Prepared) -> pd.DataFrame:
    """For each measure: name of the nearest training image, its distance, and the share that `nearer_than` gives."""
    columns: dict[str, Any] = {}
    for measure in MEASURES:
        found = compared.nearest[measure]
        columns[f"nearest_by_{measure}"] = [image_name(prepared, row) for row in found.rows]
        columns[f"{measure}_distance"] = found.distances.astype(float).round(6)
        columns[f"{measure}_nearer_than"] = compared.yardstick.nearer_than(measure, found.distances).round(4)
    return pd.DataFrame(columns)


def about_neighbours(table: pd.DataFrame, compared: Comparison, *, learned_end: bool = False) -> dict[str, Any]:
    """The part of the summary that needs the training images.

    Args:
        table: with the columns of `neighbour_columns`.
        compared: where they come from.
        learned_end: the samples lie between images of which the model has learned from one at least.

    Returns:
        `neighbours` (see docs/sampling.md), and `latents` of a VAE.
    """
    yardstick, n = compared.yardstick, len(table)
    near = {measure: (table[f"{measure}_nearer_than"] > 1 - TAIL).to_numpy() for measure in MEASURES}
    far = {measure: (table[f"{measure}_nearer_than"] < TAIL).to_numpy() for measure in MEASURES}
    usual = {
        measure: yardstick.nearer_than(measure, yardstick.rebuilt[measure].distances) > 1 - TAIL for measure in MEASURES
    }
    suspects = near["pixels"] | near["latents"]
    share = float((usual["pixels"] | usual["latents"]).mean())
    found: dict[str, Any] = {
        "training_images": compared.learners,
        "unseen": {"split": yardstick.split, "n": len(yardstick.rows)},
        **{
            measure: {
                "median": _median(compared.nearest[measure].distances),
                "unseen_median": _median(yardstick.originals[measure].distances),
                "unseen_rebuilt_median": _median(yardstick.rebuilt[measure].distances),
                "near": int(near[measure].sum()),
                "far": int(far[measure].sum()),
                "far_more_than_chance": more_than_chance(int(far[measure].sum()), n, TAIL),
            }
            for measure in MEASURES
        },
        "copies": {
            "judged": not learned_end,
            "suspects": table["file"][suspects].tolist(),
            "by_chance": n * share,
            "more_than_chance": more_than_chance(int(suspects.sum()), n, share),
        },
    }
    return {"neighbours": found} | ({"latents": _latents(compared.aggregate)} if compared.aggregate else {})


def more_than_chance(count: int, n: int, share: float) -> bool:
    """Whether `count` or more of `n` are too many where each is one with the probability `share`.

    >>> more_than_chance(2, 16, 0.05), more_than_chance(4, 16, 0.05), more_than_chance(0, 16, 0.0)
    (False, True, False)
    """
    fewer = sum(comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(count))
    return 1 - fewer < CHANCE


def aggregate_table(aggregate: Aggregate) -> pd.DataFrame:
    """A row for each latent."""
    return pd.DataFrame(
        {
            "latent": np.arange(len(aggregate.mean)),
            "mean": aggregate.mean,
            "variance_of_means": aggregate.of_means.diagonal(),
            "mean_variance": aggregate.within,
            "variance": aggregate.variance,
            "active": aggregate.active,
        }
    ).round(6)


def _latents(aggregate: Aggregate) -> dict[str, Any]:
    """How the training images' latents differ from the prior: ranges over the active ones, and all of it in nats."""
    active = aggregate.active
    ranges: dict[str, Any] = {}
    if active.any():
        deviations, means = np.sqrt(aggregate.variance[active]), aggregate.mean[active]
        ranges = {
            "means": [float(means.min()), float(means.max())],
            "deviations": [float(deviations.min()), float(deviations.max())],
        }
    return {
        "numbers": len(active),
        "active": int(active.sum()),
        **ranges,
        "nats_from_prior": aggregate.nats,
    }


def _median(distances: np.ndarray) -> float:
    return float(np.median(distances))
