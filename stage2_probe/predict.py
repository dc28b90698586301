"""Label new codes with a saved classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from toolkit_datasets.codes import Codes

from .classifiers import one_thread
from .evaluate import score
from .features import feature_set
from .saved import check_codes, load


def predict(probe_folder: Path, codes: Codes, rows: np.ndarray | None = None) -> pd.DataFrame:
    """Predictions of the classifier saved in `probe_folder` for some rows of a store, all by default.

    Returns:
        Columns file, id, predicted, and p_<class> for each class, which sum to one; `classifier.json` says under
        `probabilities` what they are.

    Raises:
        ToolkitError: no classifier there, or codes of another model, content or grid.
    """
    saved = load(probe_folder)
    check_codes(saved, codes)
    rows = np.arange(len(codes)) if rows is None else np.asarray(rows, dtype=np.int64)
    features = feature_set(codes, saved.features, saved.grid)
    with one_thread():
        shares = score(features, rows, [saved.classifier])[0]
    return prediction_table(codes.manifest.iloc[rows], shares, saved.classes)


def prediction_table(manifest: pd.DataFrame, shares: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """Rows of a manifest and their probabilities (n, C) as a table with columns file, id, predicted, p_<class>."""
    names = np.array(classes, dtype=object)
    table = manifest[["file", "id"]].reset_index(drop=True)
    table["predicted"] = names[shares.argmax(axis=1)]
    for i, name in enumerate(classes):
        table[f"p_{name}"] = shares[:, i]
    return table
