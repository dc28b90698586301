"""Small sample tables, and stores of codes of them, for the tests of the code store, of stage 2 and of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from toolkit_datasets.codes import Codes, CodeWriter, Level, StoreInfo, manifest_of, open_codes

LEVEL = Level("codes", 1, 8, 3, 4, 4)
Arrays = dict[str, np.ndarray]


def sample_table(ids: list[str], **columns: Any) -> pd.DataFrame:
    """A sample table, all text as the sources give it: good test images without a label, and `columns` over that."""
    table = {
        "id": ids,
        "path": [f"{identity}.png" for identity in ids],
        "slice": "",
        "label": "",
        "group": "",
        "split": "test",
        "status": "ok",
        "sha256": "",
        "number": [str(i) for i in range(len(ids))],
    }
    return pd.DataFrame({**table, **columns}, dtype=object)


def splits_of(turns: np.ndarray) -> np.ndarray:
    """1 : 2 : 4 unlabelled, labelled and test, over and over."""
    return np.array(["unlabelled", "labelled", "labelled", "test", "test", "test", "test"])[turns % 7]


def random_arrays(about: StoreInfo, n: int, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Random codebooks and either indices or latents for `n` samples."""
    rng = np.random.default_rng(seed)
    books = {x.name: rng.normal(size=(x.depth, x.codes, x.dim)).astype(np.float32) for x in about.levels if x.codes}
    data = {
        x.name: rng.normal(size=(n, x.dim, x.height, x.width)).astype(np.float32)
        if about.content == "latents"
        else rng.integers(0, x.codes, (n, x.depth, x.height, x.width)).astype(x.index_dtype)
        for x in about.levels
    }
    return books, data


def write_store(
    path: Path, about: StoreInfo, table: pd.DataFrame, books: Arrays, data: Arrays, *, block: int = 0, **options: Any
) -> Path:
    """Write `data`, one row for each of the table's, `block` rows at a time; HDF5 where the path ends in .h5."""
    n = len(table)
    form = "h5" if path.suffix == ".h5" else "npy"
    manifest = manifest_of(table, np.arange(n))
    with CodeWriter(path, format=form, info=about, manifest=manifest, codebooks=books, **options) as writer:
        for start in range(writer.rows_done, n, block or n):
            writer.write({name: array[start : start + (block or n)] for name, array in data.items()})
    return path


def store_of(
    path: Path, table: pd.DataFrame, indices: np.ndarray, *, content: str = "indices", model_hash: str = "ab" * 32
) -> Codes:
    """A store of the given codes of `LEVEL`; its codebook is random and always the same."""
    codebook = np.random.default_rng(9).normal(size=(1, LEVEL.codes, LEVEL.dim)).astype(np.float32)
    info = StoreInfo(content, (LEVEL,), model_hash, {}, 0.1)
    indices = indices.astype(np.uint8)
    data = codebook[0][indices[:, 0]].transpose(0, 3, 1, 2) if content == "latents" else indices
    return open_codes(write_store(path, info, table, {"codes": codebook}, {"codes": data}))


def relabelled(codes: Codes, split: str, labels: np.ndarray) -> Codes:
    """The same store with the labels of one split exchanged."""
    other = open_codes(codes.path)
    other.manifest = codes.manifest.copy()
    other.manifest.loc[other.manifest["split"] == split, "label"] = labels
    return other
