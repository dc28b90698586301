"""Plots of continuous targets for the report: predictions against truth, and the map of codes by target. SVG text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .drawing import INK, MARKERS, PALETTE, legend_above, new_figure, styled, svg_text
from .wording import amount

POINTS = 2000  # more would only print over each other
THIRDS = ((0, "lowest third"), (-1, "middle third"), (1, "highest third"))  # blue, grey and orange of the palette


def scatter(target: np.ndarray, prediction: np.ndarray, what: str = "images") -> str:
    """Draw predictions against truth, (T,) each, with the line on which they would be equal; SVG.

    `what` they are of: images or subjects.

    Of more than `POINTS` samples an evenly spread part is shown; both axes have the same scale.
    """
    shown = spread_rows(len(target), POINTS)
    low = float(min(target.min(), prediction.min()))
    high = float(max(target.max(), prediction.max()))
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    with styled("scatter"):
        figure, axes = new_figure(4.8)
        axes.plot(limits, limits, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="prediction = truth")
        axes.plot(
            target[shown], prediction[shown], linestyle="none", marker="o", color=PALETTE[0],
            markersize=3.6, markeredgewidth=0, alpha=0.5, label=f"unseen {what}",
        )  # fmt: skip
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
        axes.set_xlabel("true target")
        axes.set_ylabel("predicted")
        legend_above(figure, axes, marker_scale=1.5)
        return svg_text(figure, "scatter")


def target_map(points: np.ndarray, targets: np.ndarray, shares: tuple[float, float]) -> str:
    """Draw points (n, 2), the first two principal components, by the third of the targets that each is in; SVG.

    Args:
        points: see above.
        targets: (n,) float64, NaN where an image has none.
        shares: of the variance along each component, from 0 to 1.
    """
    known = np.isfinite(targets)
    edges = np.quantile(targets[known], [1 / 3, 2 / 3]) if known.any() else np.zeros(2)
    third = np.searchsorted(edges, targets, side="left")  # 0, 1, 2
    spans = (f"up to {amount(edges[0])}", f"{amount(edges[0])} to {amount(edges[1])}", f"above {amount(edges[1])}")
    with styled("map"):
        figure, axes = new_figure(4.6)
        for order, (colour, name) in enumerate(THIRDS):
            chosen = points[known & (third == order)]
            if len(chosen):
                axes.plot(
                    *chosen.T, linestyle="none", marker=MARKERS[order], color=PALETTE[colour],
                    markersize=3.6, markeredgewidth=0, alpha=0.65, label=f"{name} ({spans[order]})",
                )  # fmt: skip
        if not known.all():
            axes.plot(*points[~known].T, ".", color=PALETTE[4], markersize=3, alpha=0.5, label="no label")
        axes.set_xlabel(f"first component ({100 * shares[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second component ({100 * shares[1]:.0f} %)")
        legend_above(figure, axes, marker_scale=2.0)
        return svg_text(figure, "map")


def spread_rows(count: int, most: int) -> Sequence[int]:
    """At most `most` of `count` rows, evenly spread, ascending."""
    rows: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()
    return rows
