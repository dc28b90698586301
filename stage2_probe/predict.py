"""Label new codes with a saved classifier or regressor: every sample, and every subject."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from toolkit_datasets.atomic import output_folder, replacing
from toolkit_datasets.codes import Codes
from toolkit_datasets.errors import ToolkitError

from .evaluate import score
from .features import feature_set
from .groups import group_table, groups_of
from .learner import one_thread
from .saved import check_codes, load


@dataclass(frozen=True)
class Predictions:
    """What a saved classifier says of new codes."""

    samples: pd.DataFrame  # file, id, predicted, p_<class>, see `predict`
    groups: pd.DataFrame | None  # group, samples (how many), predicted, p_<class>; None where nothing is to be pooled

    def of_subjects(self) -> pd.DataFrame:
        """The decisions about groups.

        Raises:
            ToolkitError: there are none.
        """
        if self.groups is None:
            raise ToolkitError(
                "these codes hold no subjects with several samples, or the probe decided upon single ones "
                "(probe.unit): leave --subjects out"
            )
        return self.groups


def predictions(probe_folder: Path, codes: Codes, rows: np.ndarray | None = None) -> Predictions:
    """Predictions of the classifier saved in `probe_folder` for some rows of a store, all by default.

    One for each sample and, where the manifest's groups hold several samples and the probe decided upon groups too, one
    for each group, pooled from those of its samples.

    Raises:
        ToolkitError: no classifier there, or codes of another model, content or grid.
    """
    saved = load(probe_folder)
    check_codes(saved, codes)
    rows = np.arange(len(codes)) if rows is None else np.asarray(rows, dtype=np.int64)
    features = feature_set(codes, saved.features)
    with one_thread():
        answers = score(features, rows, saved.classifier)
    manifest = codes.manifest.iloc[rows].reset_index(drop=True)

    def table(cases: pd.DataFrame, answers: np.ndarray) -> pd.DataFrame:
        if saved.kind == "continuous":
            return target_table(cases, saved.classifier.decided(answers))
        return class_table(cases, answers, saved.classes)

    groups = groups_of(manifest) if saved.decided == "group" else None
    pooled = None
    if groups is not None:
        pooled = table(group_table(manifest, groups), saved.classifier.pooled(answers, groups))
    return Predictions(table(manifest[["file", "id"]], answers), pooled)


def write_predictions(found: Predictions, path: Path, *, subjects: bool = False) -> dict[Path, pd.DataFrame]:
    """Write them as CSV and return what was written where.

    Args:
        found: of new codes.
        path: of the samples' predictions; those of groups go to a file beside it, NAME_subjects.csv.
        subjects: write the groups' alone, to `path` itself.

    Raises:
        ToolkitError: `subjects`, and there are no groups; or the folder cannot be written to.
    """
    tables = {path: found.of_subjects() if subjects else found.samples}
    if not subjects and found.groups is not None:
        tables[path.with_name(f"{path.stem}_subjects{path.suffix}")] = found.groups
    output_folder(path.parent)
    for place, table in tables.items():
        with replacing(place) as temporary:
            table.to_csv(temporary, index=False)
    return tables


def predict(probe_folder: Path, codes: Codes, rows: np.ndarray | None = None) -> pd.DataFrame:
    """As `predictions`, of the samples alone.

    Returns:
        Columns file, id, predicted, and p_<class> for each class, which sum to one; `classifier.json` says under
        `probabilities` what they are. For continuous targets: file, id, prediction, in the unit of the labels.
    """
    return predictions(probe_folder, codes, rows).samples


def class_table(cases: pd.DataFrame, shares: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """What names the cases, and their probabilities (n, C), as a table with further columns predicted, p_<class>."""
    table = cases.reset_index(drop=True)
    table["predicted"] = np.array(classes, dtype=object)[shares.argmax(axis=1)]
    for i, name in enumerate(classes):
        table[f"p_{name}"] = shares[:, i]
    return table


def target_table(cases: pd.DataFrame, predicted: np.ndarray) -> pd.DataFrame:
    """What names the cases, and their predicted targets (n,), as a table with a further column prediction."""
    return cases.reset_index(drop=True).assign(prediction=predicted)
