"""Label new codes with a saved classifier or regressor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from toolkit_datasets.codes import Codes

from .evaluate import score
from .features import feature_set
from .learner import one_thread
from .saved import check_codes, load


def predict(probe_folder: Path, codes: Codes, rows: np.ndarray | None = None) -> pd.DataFrame:
    """Predictions of the classifier saved in `probe_folder` for some rows of a store, all by default.

    Returns:
        Columns file, id, predicted, and p_<class> for each class, which sum to one; `classifier.json` says under
        `probabilities` what they are. For continuous targets: file, id, prediction, in the unit of the labels.

    Raises:
        ToolkitError: no classifier there, or codes of another model, content or grid.
    """
    saved = load(probe_folder)
    check_codes(saved, codes)
    rows = np.arange(len(codes)) if rows is None else np.asarray(rows, dtype=np.int64)
    features = feature_set(codes, saved.features)
    with one_thread():
        answers = score(features, rows, [saved.classifier])[0]
    manifest = codes.manifest.iloc[rows]
    if saved.kind == "continuous":
        return target_table(manifest, saved.classifier.decided(answers))
    return class_table(manifest, answers, saved.classes)


def class_table(manifest: pd.DataFrame, shares: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """Rows of a manifest and their probabilities (n, C) as a table with columns file, id, predicted, p_<class>."""
    names = np.array(classes, dtype=object)
    table = manifest[["file", "id"]].reset_index(drop=True)
    table["predicted"] = names[shares.argmax(axis=1)]
    for i, name in enumerate(classes):
        table[f"p_{name}"] = shares[:, i]
    return table


def target_table(manifest: pd.DataFrame, predicted: np.ndarray) -> pd.DataFrame:
    """Rows of a manifest and their predicted targets (n,) as a table with columns file, id, prediction."""
    return manifest[["file", "id"]].reset_index(drop=True).assign(prediction=predicted)
