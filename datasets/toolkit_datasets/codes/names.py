"""Names of per-sample files, and the manifest that ties each one to its source."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MANIFEST_COLUMNS = ("file", "id", "path", "slice", "label", "group", "split", "sha256")
SHARD_ABOVE = 50_000  # files; beyond this one folder grows slow on most file systems
SHARD_SIZE = 10_000
RESERVED = "codebook"  # `codebook.npy` is the store's own
LONGEST = 100  # characters of a name: leaves room under the usual limit of 255 bytes


def file_names(samples: pd.DataFrame) -> list[str]:
    """A file name for every row of a sample table, such as `002_cat.npy`.

    The name is the number in the source's name, padded to the width of the largest, else the stem; then the slice
    and the label where there are any. Names that would collide (where case is
    ignored, and with `codebook.npy`) get a short hash of id.
    """
    numbers = samples["number"] if "number" in samples else pd.Series("", index=samples.index)
    width = max((len(str(int(number))) for number in numbers if number), default=1)
    names = []
    for number, identity, piece, label in zip(numbers, samples["id"], samples["slice"], samples["label"], strict=True):
        parts = [f"{int(number):0{width}d}" if number else safe_name(identity.rsplit("/", 1)[-1])]
        parts += [f"s{int(piece):03d}"] if piece else []
        parts += [safe_name(label)] if label else []
        names.append("_".join(parts)[:LONGEST])
    seen = {RESERVED: 1}
    for name in names:
        seen[name.casefold()] = seen.get(name.casefold(), 0) + 1
    return [
        f"{name}.npy" if seen[name.casefold()] == 1 else f"{name}-{_short(f'{identity}#{piece}')}.npy"
        for name, identity, piece in zip(names, samples["id"], samples["slice"], strict=True)
    ]


def manifest_of(samples: pd.DataFrame, rows: NDArray[Any]) -> pd.DataFrame:
    """The manifest of the chosen rows. Names come from the whole table, so a part keeps the names of the whole."""
    names = file_names(samples)
    chosen = samples.iloc[rows].reset_index(drop=True)
    files = [names[row] for row in np.asarray(rows)]
    if len(files) > SHARD_ABOVE:
        files = [f"{place // SHARD_SIZE:04d}/{name}" for place, name in enumerate(files)]
    chosen.insert(0, "file", files)
    return chosen[list(MANIFEST_COLUMNS)]


def safe_name(text: str) -> str:
    """Letters, digits, dot and dash survive; everything else becomes a dash."""
    return re.sub(r"[^\w.-]+|^\.+", "-", text, flags=re.ASCII) or "-"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
