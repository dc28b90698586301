"""Decoded images for other tools: PNG files in folders by split and label, or one HDF5 file.

A PNG folder:  <split>/<label>/<name>.png, manifest.csv, samples.csv (with what was skipped, and why), card.toml
An HDF5 file:  images (N, H, W, C) uint8, one text dataset (N,) for each column of the manifest, the card as attribute

Either is whole or absent: it grows beside its place, under the name with `.partial`, and is renamed at the end.
An interrupted PNG folder goes on where it stopped; an HDF5 file is a copy of what the cache holds, and begins anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .atomic import output_folder, replacing, write_json, write_text
from .card import card_text
from .codes import file_names, safe_name
from .errors import ToolkitError
from .images import write_image
from .prepare import Prepared
from .progress import SILENT, Progress

COLUMNS = ("file", "id", "path", "slice", "position", "label", "group", "site", "split", "sha256")
MARK = "export.json"  # tells an export from a folder of somebody else's, which is never deleted
KIND = "vqvae-toolkit images"
BLOCK = 256  # images between two looks at the progress bar
CHUNK_BYTES = 128 * 2**10  # of the HDF5 file: reading one image should not inflate many


def export(
    prepared: Prepared,
    out: Path,
    *,
    format: Literal["png", "h5"],
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """Write all decoded images to `out`, and return the manifest.

    Args:
        prepared: the images; skipped ones are left out.
        out: a folder for `png`, a file for `h5`.
        format: `png` or `h5`.
        overwrite: replace an earlier export.
        progress: counts images.

    Raises:
        ToolkitError: something is at `out` already, and it is no export or `overwrite` is off.
    """
    rows = np.flatnonzero((prepared.samples["status"] == "ok").to_numpy())
    manifest = manifest_of(prepared, rows)
    check_place(out, overwrite=overwrite)
    output_folder(out.parent)
    if format == "h5":
        _write_h5(prepared, rows, manifest, out, progress)
    else:
        _write_png(prepared, rows, manifest, out, progress)
    return manifest


def manifest_of(prepared: Prepared, rows: NDArray[np.int64]) -> pd.DataFrame:
    """`COLUMNS` of the chosen rows; `file` is where a PNG file lies below the folder."""
    names = file_names(prepared.samples)
    chosen = prepared.samples.iloc[rows].reset_index(drop=True)
    files = [
        "/".join([split or "all", *([safe_name(label)] if label else []), names[row].removesuffix(".npy") + ".png"])
        for row, split, label in zip(rows, chosen["split"], chosen["label"], strict=True)
    ]
    chosen.insert(0, "file", files)
    return chosen[list(COLUMNS)]


def check_place(out: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something else, or an earlier export without `overwrite`; see `export`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = (out / MARK).is_file() if out.is_dir() else _is_our_h5(out)
    if not ours:
        raise ToolkitError(f"{out} holds something that is no export of images: choose another --out")
    if not overwrite:
        raise ToolkitError(f"{out} already holds an export: give --overwrite to replace it, or another --out")


def _is_our_h5(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("kind") == KIND)
    except OSError:
        return False


def _write_png(
    prepared: Prepared, rows: NDArray[np.int64], manifest: pd.DataFrame, out: Path, progress: Progress
) -> None:
    partial = out.with_name(f"{out.name}.partial")
    mark = {"kind": KIND, "fingerprint": _fingerprint(prepared, manifest), "images": len(rows)}
    if partial.exists() and _mark_of(partial) != mark:  # of another export, or of none
        if _mark_of(partial).get("kind") != KIND:
            raise ToolkitError(f"{partial} is in the way and was not written by this toolkit: move it, or change --out")
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    write_json(partial / MARK, mark)
    targets = [partial / file for file in manifest["file"]]
    for folder in {target.parent for target in targets}:
        folder.mkdir(parents=True, exist_ok=True)

    def save(pair: tuple[int, Path]) -> None:
        row, target = pair
        if not target.exists():  # each one was put there whole
            write_image(target, prepared.images[row])

    pairs = list(zip(rows.tolist(), targets, strict=True))
    with ThreadPoolExecutor() as pool, progress.bar("write", len(pairs), "images") as bar:
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK]
            list(pool.map(save, block))
            bar.update(len(block))
    _write_table(manifest, partial / "manifest.csv")
    _write_table(prepared.samples, partial / "samples.csv")
    write_text(partial / "card.toml", card_text(prepared.card))
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


def _write_h5(
    prepared: Prepared, rows: NDArray[np.int64], manifest: pd.DataFrame, out: Path, progress: Progress
) -> None:
    shape = prepared.images.shape[1:]
    chunk = max(1, min(len(rows), CHUNK_BYTES // int(np.prod(shape))))
    with replacing(out) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["kind"] = KIND
        file.attrs["card"] = json.dumps(prepared.card.model_dump(mode="json"))
        images = file.create_dataset(
            "images", (len(rows), *shape), np.uint8, chunks=(chunk, *shape), compression="gzip", compression_opts=1,
            shuffle=False,  # bytes have nothing to shuffle
        )  # fmt: skip
        for column in COLUMNS:
            file.create_dataset(column, data=manifest[column].tolist(), dtype=h5py.string_dtype())
        block = max(1, BLOCK // chunk) * chunk
        with progress.bar("write", len(rows), "images") as bar:
            for start in range(0, len(rows), block):
                part = rows[start : start + block]
                images[start : start + len(part)] = prepared.images[part]
                bar.update(len(part))


def _fingerprint(prepared: Prepared, manifest: pd.DataFrame) -> str:
    """Changes with whatever decides the pictures or their names."""
    settings = [prepared.card.image.model_dump(), prepared.card.slices.model_dump()]
    lines: Sequence[Sequence[str]] = manifest.to_numpy().tolist()
    return hashlib.sha256(json.dumps([settings, lines]).encode()).hexdigest()


def _mark_of(folder: Path) -> dict[str, object]:
    try:
        return dict(json.loads((folder / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
