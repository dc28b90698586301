"""What the report shows of continuous targets: errors against baselines, the scatter, and near and far predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from . import plots, target_plots
from .wording import REGRESSORS, baseline_title, by_slice, compared, few_subjects, judged, n_judged, of_subjects, single

EACH = 8  # images in each half of the gallery


def section(results: Mapping[str, Any], predictions: pd.DataFrame | None) -> dict[str, Any]:
    """The probe's section: its numbers, a table of rows to compare, and three plots.

    Args:
        results: with `probe`, `baselines` and `curve` of continuous targets.
        predictions: of the probe, of single images or of subjects, as text; None leaves out the scatter.
    """
    found, baselines = results["probe"], results.get("baselines", {})
    rows = [{"name": "codes", "title": "these codes", "scores": found, "difference": None, "verdict": ""}]
    for name, baseline in baselines.items():
        rows.append(
            {
                "name": name,
                "title": baseline_title(name, baseline),
                "scores": baseline,
                "difference": baseline.get("difference"),
                "verdict": compared(baseline),
            }
        )
    titles = {row["name"]: row["title"] for row in rows}
    chance = (titles["mean"], float(baselines["mean"]["mae"]["mean"])) if "mean" in baselines else None
    curve = results.get("curve") or {}
    cases = "subjects" if of_subjects(found) else "images"
    measure = plots.of_people(plots.error_measure(found["mae"]["mean"]), found)
    drawn = [(row["name"], row["title"], row["scores"]["mae"]) for row in rows if row["name"] != "mean"]
    return {
        "found": found,
        "judged": judged(found),
        "n_judged": n_judged(found),
        "few": few_subjects(found),
        "by_slice": by_slice(found),
        "single": single(found),
        "cases": cases,
        "classifier": REGRESSORS.get(found["classifier"], found["classifier"]),
        "rows": rows,
        "like": found["mae"]["mean"],
        "bars": Markup(plots.score_bars(drawn, chance, measure)),
        "curve": Markup(plots.label_curve(curve, titles, None, measure)) if len(curve.get("labels", [])) > 1 else None,
        "curve_data": curve,
        "titles": titles,
        "scatter": None if predictions is None else Markup(target_plots.scatter(*_columns(predictions), cases)),
        "shown": 0 if predictions is None else min(len(predictions), target_plots.POINTS),
    }


def gallery(predictions: pd.DataFrame, thumbnail: Callable[[Mapping[Any, Any]], str]) -> dict[str, Any]:
    """The smallest and the largest errors of the saved regressor: {"near", "far"}, each a list of tiles.

    Args:
        predictions: predictions.csv as text, with what `thumbnail` needs in each row.
        thumbnail: makes the picture of a row, as a `data:` address.
    """
    target, prediction = _columns(predictions)
    order = np.argsort(np.abs(prediction - target), kind="stable")
    records = predictions.to_dict("records")

    def tiles(places: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "image": thumbnail(records[place]),
                "id": str(records[place]["id"]),
                "target": float(target[place]),
                "prediction": float(prediction[place]),
            }
            for place in places
        ]

    each = min(EACH, len(order) // 2)
    return {"near": tiles(order[:each]), "far": tiles(order[::-1][:each])}


def _columns(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction, (T,) float64 each."""
    return predictions["target"].to_numpy(dtype=float), predictions["prediction"].to_numpy(dtype=float)
