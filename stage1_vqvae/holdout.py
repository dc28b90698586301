"""Which unlabelled images stage 1 trains on, and which it only validates on."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from toolkit_datasets.errors import ToolkitError


def split_validation(
    samples: pd.DataFrame, rows: np.ndarray, *, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split `rows` of the sample table into (training, validation), both ascending; groups stay whole.

    Groups are ranked by a hash of seed and name, and the first ones validate until they hold `share` of the rows: the
    choice is the same on every machine and hardly changes when images are added. At least one group is on each side.
    Where all rows are one group (slices of a single subject), single images take their place.

    Raises:
        ToolkitError: fewer than two images.
    """
    if len(rows) < 2:
        raise ToolkitError(
            f"stage 1 needs at least 2 unlabelled images, one to train and one to validate on; there are {len(rows)}. "
            "Raise split.unlabelled, or look at samples.csv for images that were skipped."
        )
    chosen = samples.iloc[rows]
    groups = chosen["group"].where(chosen["group"] != "", chosen["id"]).to_numpy()
    if len(set(groups)) == 1:
        groups = (chosen["id"] + "#" + chosen["slice"]).to_numpy()
    names, sizes = np.unique(groups, return_counts=True)
    ranked = sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}/validation/{names[i]}".encode()).digest())
    held: set[str] = set()
    count = 0
    for i in ranked[:-1]:
        if held and count >= share * len(rows):
            break
        held.add(names[i])
        count += int(sizes[i])
    validates = np.array([group in held for group in groups])
    return rows[~validates], rows[validates]
