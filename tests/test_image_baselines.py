"""Arrays of image baselines: the same numbers in memory and in a file that the system may write out."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit import baselines
from toolkit_datasets.progress import SILENT


def filled() -> np.ndarray:
    """Rows 1, 3, 5 … of 2,400 are their own number and its square; the others belong to nobody."""
    where = np.arange(1, 2400, 2)
    return baselines._filled(where, lambda part: np.stack([part, part**2], 1).astype(np.float32), 2400, "x", SILENT)


def test_a_large_array_lies_in_a_file_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    held = filled()
    monkeypatch.setattr(baselines, "HELD_BYTES", 2400 * 8 - 1)
    mapped = filled()
    assert isinstance(mapped, np.memmap)
    assert not isinstance(held, np.memmap)
    np.testing.assert_array_equal(mapped, held)
    odd = np.arange(2400) % 2 == 1
    np.testing.assert_array_equal(held[odd, 0], np.flatnonzero(odd))
    assert not held[~odd].any()
