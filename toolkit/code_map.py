"""The map of the codes in the report: test images on two principal components of their codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from toolkit_datasets.codes import open_codes
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.targets import number

from . import plots, target_plots

MAP_POINTS = 2000  # of the code map: more would only print over each other


def code_map(folder: Path, *, continuous: bool = False) -> dict[str, Any] | None:
    """A map of the test images' codes: the first two principal components of the mean code in each image's quarters.

    Of several levels the one is shown that the probe reads first. Components are fitted on the points shown and used
    for nothing else. None where there is no code store; {"problem"} where it cannot be read: a page without a map is
    better than no page.
    """
    store = next((path for path in (folder / "codes", folder / "codes.h5") if path.exists()), None)
    if store is None:
        return None
    try:
        codes = open_codes(store)
        rows, on = np.flatnonzero((codes.manifest["split"] == "test").to_numpy()), "test"
        if len(rows) < 3:
            rows, on = np.arange(len(codes)), "all"
        if len(rows) < 3:
            return {"problem": f"{len(codes)} images are too few for a map."}
        rows = rows[target_plots.spread_rows(len(rows), MAP_POINTS)]
        blocks = np.array_split(rows, -(-len(rows) // 250))  # bounded memory
        level = codes.info.levels[min(1, len(codes.info.levels) - 1)]  # the fine codes are the first
        means = np.concatenate([quarters(codes.vectors(level.name, block)) for block in blocks])  # (n, 4 D)
    except ToolkitError as error:
        return {"problem": str(error)}
    points, shares = principal_plane(means)
    labels = codes.manifest["label"].iloc[rows].tolist()
    if continuous:
        targets = np.array([number(label) for label in labels], dtype=float)  # None becomes NaN
        svg = target_plots.target_map(points, targets, shares)
    else:
        svg = plots.code_map(points, labels, shares)
    whole = level.height * level.width == 1
    return {"svg": Markup(svg), "n": len(rows), "on": on, "share": sum(shares), "whole": whole}


def quarters(vectors: np.ndarray) -> np.ndarray:
    """Mean code of each quarter of the image, (n, D, h, w) -> (n, 4 D); of the whole where the grid has one code.

    The mean over the whole image would forget where things are, and digits, say, would all fall on one heap.
    """
    _, _, height, width = vectors.shape
    rows = np.array_split(np.arange(height), min(2, height))
    columns = np.array_split(np.arange(width), min(2, width))
    parts = [vectors[:, :, r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean(axis=(2, 3)) for r in rows for c in columns]
    return np.concatenate(parts, axis=1)


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """First two principal components of (n, D) features, and their shares of the variance.

    Signs are fixed so that each component's largest weight is positive: the same codes give the same map.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    if centred.shape[1] < 2:
        centred = np.pad(centred, ((0, 0), (0, 2 - centred.shape[1])))
    _, scale, weights = np.linalg.svd(centred, full_matrices=False)
    weights = weights[:2] * np.sign(weights[np.arange(2), np.abs(weights[:2]).argmax(axis=1)])[:, None]
    variance = scale**2
    first, second = variance[:2] / max(float(variance.sum()), 1e-12)
    return centred @ weights.T, (float(first), float(second))
