"""Continuous targets: labels that are numbers, such as an age in years.

In sample tables and file names a label stays the text that was written; here it becomes a number, and numbers become
quantile bins wherever classes would be balanced: in splits and in draws.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .errors import ToolkitError

Kind = Literal["class", "continuous"]
BINS = 10  # deciles: finer ones hold too few units of a small pool to be balanced
TARGET = "target"  # what counts of labels are called where the labels are numbers


def number(text: str) -> float | None:
    """The finite number that a label says, or None.

    >>> number(" 23.5"), number("1e3"), number("23,5"), number("1_000"), number("nan")
    (23.5, 1000.0, None, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None  # float() takes 1_000, people do not mean it


def check_numbers(samples: pd.DataFrame, table: Path | None) -> None:
    """Refuse labels that are no numbers, before anything is decoded or trained.

    Args:
        samples: columns path and label; "" is no label.
        table: where the labels came from; None for names and folders.

    Raises:
        ToolkitError: names the first such file, its label, and how many there are.
    """
    bad = [
        (path, label)
        for path, label in zip(samples["path"], samples["label"], strict=True)
        if label and number(label) is None
    ]
    if bad:
        path, label = bad[0]
        raise ToolkitError(
            f"labels.kind = 'continuous', but {table or 'its name'} labels {path} {label!r}, which is no finite number"
            f"{f' ({len(bad)} images have such a label)' if len(bad) > 1 else ''}: write numbers such as 23.5 (with a "
            "dot), leave the label empty where there is none, or set labels.kind=class"
        )


def quantile_bins(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Bins 0 to count - 1 of (N,) values by rank, as equally full as can be: their sizes differ by at most one.

    Equal values go to bins in the order in which they come, so that a heap of one value is shared out.
    """
    order = np.argsort(values, kind="stable")
    bins = np.empty(len(values), dtype=np.int64)
    bins[order] = np.arange(len(values)) * count // max(1, len(values))
    return bins


def counted(labels: pd.Series, kind: Kind) -> pd.Series:
    """Labels as they are counted: classes by name, numbers all together as `TARGET`; "" stays without a label."""
    return labels if kind == "class" else labels.where(labels == "", TARGET)
