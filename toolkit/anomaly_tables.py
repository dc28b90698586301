"""What `toolkit anomaly` found, as tables: a row for each image and each subject, and how well lesions are found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from stage1_vqvae.anomaly import Healthy, Maps

from .confounds import NAMES as CONFOUNDS
from .confounds import trivial
from .detection import PixelCounts, detection, subject_score
from .unseen import Unseen

MEASURES = ("error", "surprise", "combined", "mean_error")
"""What is judged: both scores, their mean in standard deviations of healthy images, and the plain mean error."""


class Scored:
    """Everything that is known of images, gathered batch by batch.

    Args:
        unseen: the images.
    """

    def __init__(self, unseen: Unseen) -> None:
        self._unseen, self._images = unseen, unseen.prepared.images
        self._subjects = dict(zip(unseen.rows.tolist(), unseen.subjects.tolist(), strict=True))
        self._rows: list[np.ndarray] = []
        self._columns: dict[str, list[np.ndarray]] = {}
        self.pixels: dict[str, PixelCounts] = {}

    def add(self, rows: np.ndarray, scores: Mapping[str, np.ndarray], maps: Maps, masks: np.ndarray | None) -> None:
        """Keep what is known of `rows`, with their `masks` (n, H, W) bool where there are any."""
        inside = maps.inside.cpu().numpy()
        error = maps.error.cpu().numpy()
        counted = inside.sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            mean_error = (error * inside).sum(axis=(1, 2), dtype=float) / counted
        columns = {**scores, "mean_error": mean_error, **trivial(self._images[rows], inside)}
        if masks is not None:
            columns["lesion"] = masks.sum(axis=(1, 2))
            named = {name: each.cpu().numpy() for name, each in maps.named().items()} | {"mean_error": error}
            for name, each in named.items():
                counts = self.pixels.setdefault(name, PixelCounts())
                for place, row in enumerate(rows):
                    kept = inside[place]
                    counts.add(self._subjects[int(row)], each[place][kept], masks[place][kept])
        self._rows.append(rows)
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)

    def table(self, healthy: Healthy, *, by: str, healthy_label: str) -> pd.DataFrame:
        """A row for each image, in their order; the index says which row of the sample table it is.

        Columns: subject, id, path, slice, position, label, split, seen_in_training; score (by which images are ranked),
        above_healthy (of held-out healthy images, the share that score lower); error, surprise, combined, mean_error;
        brightness, contrast, sharpness; lesion (pixels of its mask), ill (True, False, or None where nobody knows).
        """
        rows = np.concatenate(self._rows)
        found = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        columns = ["id", "path", "slice", "position", "label", "split"]
        table = self._unseen.prepared.samples.iloc[rows][columns].set_axis(rows)
        table.insert(0, "subject", [self._subjects[int(row)] for row in rows])
        table["seen_in_training"] = pd.Series(self._unseen.seen, self._unseen.rows).loc[rows]
        combined, usual = combine(found, healthy)
        found["combined"] = combined
        table["score"] = found[by]
        reference = np.sort(usual if by == "combined" else healthy.scores[by])
        table["above_healthy"] = np.searchsorted(reference, found[by]) / len(reference)
        table.loc[table["score"].isna(), "above_healthy"] = np.nan
        for name in (*MEASURES, *CONFOUNDS, "lesion"):
            if name in found:
                table[name] = found[name]
        if "lesion" in found:
            table["ill"] = table["lesion"] > 0
        elif healthy_label:
            told = (table["label"] != healthy_label).astype(object)
            table["ill"] = told.where(table["label"] != "", None)
        return table


def combine(scores: Mapping[str, np.ndarray], healthy: Healthy) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the scores, each in standard deviations of the healthy images above their mean.

    Returns:
        (n,) of the images, and (m,) of the healthy ones.
    """
    parts = []
    for name, usual in healthy.scores.items():
        mean, spread = usual.mean(), max(float(usual.std()), 1e-6)
        parts.append(((scores[name] - mean) / spread, (usual - mean) / spread))
    mine, theirs = (np.mean(side, axis=0) for side in zip(*parts, strict=True))
    return mine, theirs


def subject_table(images: pd.DataFrame) -> pd.DataFrame:
    """A row for each subject: how many images, their label where they share one, its scores and its worst image."""
    rows = []
    for subject, part in images.groupby("subject", sort=False):
        known = part[part["score"].notna()]
        if known.empty:
            continue
        labels = sorted(set(part["label"]) - {""})
        worst = known.loc[known["score"].idxmax()]
        row = {
            "subject": subject,
            "images": len(part),
            "label": labels[0] if len(labels) == 1 else "",
            "score": subject_score(known["score"].to_numpy()),
            "highest": float(worst["score"]),
            "highest_slice": worst["slice"],
            **{name: subject_score(known[name].to_numpy()) for name in MEASURES if name in known},
            **{name: float(known[name].mean()) for name in CONFOUNDS},
        }
        if "ill" in part:
            told = part["ill"].dropna()
            row["ill"] = bool(told.any()) if len(told) else None
        rows.append(row)
    return pd.DataFrame(rows)


def judged(
    images: pd.DataFrame, subjects: pd.DataFrame, pixels: Mapping[str, PixelCounts], *, seed: int
) -> dict[str, Any]:
    """How well each measure finds what is ill, with intervals over subjects.

    Returns:
        images, subjects (where subjects have several images), pixels (where there are masks): measure -> what
        `detection` gives; confounds: the same of brightness, contrast and sharpness of the images.
    """
    known = images[images["ill"].notna() & images["score"].notna()]

    def measured(table: pd.DataFrame, names: tuple[str, ...]) -> dict[str, Any]:
        truth, groups = table["ill"].to_numpy(bool), table["subject"].to_numpy()
        return {
            name: detection(table[name].to_numpy(float), truth, groups, seed=seed) for name in names if name in table
        }

    found: dict[str, Any] = {"truth": "masks" if pixels else "labels", "images": measured(known, MEASURES)}
    if known["subject"].nunique() < len(known):
        found["subjects"] = measured(subjects[subjects["ill"].notna()], MEASURES)
    if pixels:
        found["pixels"] = {name: counts.measures(seed=seed) for name, counts in pixels.items()}
    return {**found, "confounds": measured(known, CONFOUNDS)}
