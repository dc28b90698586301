"""The manifest's columns in an HDF5 file: text of one length for each column, written and read block by block.

HDF5's usual text has any length, each string in a heap of its own. Of one length a column is a plain array, which
compresses, and which opens many times faster. Files with the other kind, of earlier versions, are read all the same.
"""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

CHUNK_BYTES = 256 * 1024  # of a column: read in one go, so few and large
WIDEST = 512  # bytes of a text at one length: a single long path should not blow up a column of a million
FEW = 10_000  # different texts up to which a column keeps each of them once: labels and splits, but not names


def write_column(file: h5py.File, column: pd.Series) -> None:
    """Write a column of text as a dataset of its own name; of any length where one is longer than `WIDEST`."""
    texts: list[str] = column.tolist()
    longest = max((len(text.encode()) for text in texts), default=0) or 1
    if longest > WIDEST:
        file.create_dataset(str(column.name), data=texts, dtype=h5py.string_dtype())
        return
    kind = h5py.string_dtype("utf-8", longest)
    rows = max(1, min(len(texts), CHUNK_BYTES // longest))
    dataset = file.create_dataset(
        str(column.name),
        shape=(len(texts),),
        dtype=kind,
        chunks=(rows,),
        shuffle=True,  # counting names differ in few places: with it they take a fifth
        compression="gzip",
        compression_opts=1,
    )
    for start in range(0, len(texts), rows):
        block = [text.encode() for text in texts[start : start + rows]]
        dataset[start : start + rows] = np.array(block, dtype=kind)


def read_column(dataset: h5py.Dataset) -> NDArray[np.object_]:
    """The texts of a dataset (N,), equal ones as one object where there are few.

    Raises:
        TypeError: it holds no text.
        UnicodeDecodeError: it holds other bytes than UTF-8.
    """
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
        raise TypeError(f"{dataset.name} is no column of text")
    out = np.empty(len(dataset), dtype=object)
    rows = max(1, dataset.chunks[0] if dataset.chunks else len(dataset))
    known: dict[str, str] = {}
    for start in range(0, len(dataset), rows):
        texts = [text.decode() for text in dataset[start : start + rows].tolist()]
        if len(known) <= FEW:
            texts = [known.setdefault(text, text) for text in texts]
        out[start : start + rows] = texts
    return out
