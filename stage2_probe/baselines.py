"""What the codes have to beat: the same protocol on other features of the same images.

The arrays come from outside (stage 2 never sees an image): raw pixels, HOG, the features of an untrained encoder, and
of volumes the size of the head. The majority class and the mean target need none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from toolkit_datasets.codes import Codes
from toolkit_datasets.errors import ToolkitError

from .features import FeatureSet, Spec, block_rows, of_codes
from .task import UNLABELLED, Task

NAMES = ("pixels", "hog", "random", "head_size")
TITLES = {
    "hog": "histogram of oriented gradients",
    "random": "the same features of an untrained encoder",
    "head_size": "the size of the head: area of its slice, and volume of the whole",
}

Images = Mapping[str, np.ndarray | Sequence[np.ndarray]]
"""Arrays (N, F) by the name of their baseline, one row for each row of the manifest; several for a draw to choose."""

# 32 components: on cats and dogs at 100 (1,000) labels 53.7 (57.6) %, against 52.1 (55.9) with 128: standardising
# gives every component the same weight, and the late ones are noise.
COMPONENTS = 32
FIT_ROWS = 5000  # more images hardly move 32 components
PASSES = 4  # power iterations of the randomised decomposition


def feature_sets(images: Images, manifest: pd.DataFrame, task: Task, *, seed: int) -> dict[str, list[FeatureSet]]:
    """The image baselines among `NAMES` that `images` has arrays for.

    Args:
        images: of any real dtype; may be memory maps.
        manifest: of the store.
        task: of the store.
        seed: of the randomised decomposition of the pixels.

    Raises:
        ToolkitError: an unknown name, or a number of rows that is not the manifest's.
    """
    arrays = {name: [given] if isinstance(given, np.ndarray) else list(given) for name, given in images.items()}
    for name, of_name in arrays.items():
        if name not in NAMES:
            raise ToolkitError(f"no baseline called {name!r}: choose from {', '.join(NAMES)}")
        for array in of_name:
            if len(array) != len(manifest):
                raise ToolkitError(
                    f"the baseline {name!r} has {len(array)} rows, but the store holds {len(manifest)} images: "
                    "it was made from other data"
                )
    sets = {}
    for name in NAMES:
        if name not in arrays:
            continue
        flat = [array.reshape(len(manifest), -1) for array in arrays[name]]
        if name == "pixels":
            sets[name] = [_pixels(array, manifest, task, seed=seed) for array in flat]
        else:
            sets[name] = [of_array(array, TITLES[name]) for array in flat]
    return sets


def of_store(codes: Codes, other: Codes, specs: Sequence[Spec], task: Task) -> list[FeatureSet]:
    """Features of another store of the same images, addressed by the rows of `codes`: those of the task alone.

    Raises:
        ToolkitError: an image of the task is not in the other store, or another one under its name, or its model was
            trained on images that judge here.
    """
    rows = np.concatenate([task.pool, task.test])
    keys = ["id", "slice"]
    place = {key: row for row, key in enumerate(other.manifest[keys].itertuples(index=False, name=None))}
    where = np.full(len(codes), -1, dtype=np.int64)
    for row, key in zip(rows, codes.manifest[keys].iloc[rows].itertuples(index=False, name=None), strict=True):
        where[row] = place.get(key, -1)
    missing = rows[where[rows] < 0]
    if len(missing):
        raise ToolkitError(
            f"{other.path} lacks {len(missing)} of the {len(rows)} images to compare on, such as "
            f"{codes.manifest['id'].iat[int(missing[0])]!r}: encode the same images with a model of the same split"
        )

    mine, theirs = codes.manifest.iloc[rows], other.manifest.iloc[where[rows]]
    differ = np.flatnonzero(mine["sha256"].to_numpy() != theirs["sha256"].to_numpy())
    if len(differ):
        raise ToolkitError(
            f"{other.path} was made from other files of the same names, such as {mine['id'].iat[int(differ[0])]!r}: "
            "encode the same images with that model"
        )
    learned = (theirs["split"].to_numpy()[len(task.pool) :] == UNLABELLED).sum()
    if learned:
        raise ToolkitError(
            f"the model of {other.path} was trained on {learned} of the {len(task.test)} images that judge here: "
            "compare runs of one split (the same seed, or the same split.seed)"
        )

    def take(spec: Spec, wanted: np.ndarray) -> np.ndarray:
        return of_codes(other, spec, where[wanted])

    levels = other.info.levels
    return [FeatureSet(f"the codes of {other.path}", spec.width(levels), partial(take, spec)) for spec in specs]


def of_array(array: np.ndarray, title: str) -> FeatureSet:
    """Features that are the rows of an array (N, F)."""
    return FeatureSet(
        title=title, width=array.shape[1], take=lambda rows: np.ascontiguousarray(array[rows], dtype=np.float32)
    )


def _pixels(array: np.ndarray, manifest: pd.DataFrame, task: Task, *, seed: int) -> FeatureSet:
    rows = np.flatnonzero((manifest["split"] == UNLABELLED).to_numpy())
    whose = "unlabelled images"
    if len(rows) == 0:  # a store of labelled and test images only
        rows, whose = task.pool, "images of the pool, without their labels"
    rows = rows[np.linspace(0, len(rows) - 1, min(FIT_ROWS, len(rows))).astype(np.int64)]
    mean, axes = principal_axes(array, rows, COMPONENTS, seed=seed)

    def take(wanted: np.ndarray) -> np.ndarray:
        result = np.empty((len(wanted), axes.shape[1]), dtype=np.float32)
        step = block_rows(array.shape[1] * 4)
        for start in range(0, len(wanted), step):
            block = array[wanted[start : start + step]].astype(np.float32)
            result[start : start + step] = (block - mean) @ axes
        return result

    title = f"raw pixels: {axes.shape[1]} principal components fitted on {len(rows)} {whose}"
    return FeatureSet(title=title, width=axes.shape[1], take=take)


def principal_axes(array: np.ndarray, rows: np.ndarray, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and principal axes (F, count), float32, of some rows of an array, read block by block.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011); exact where `count` is near F. Fewer axes come
    back where the rows do not span `count` dimensions.
    """
    width = array.shape[1]
    count = max(1, min(count, width, len(rows) - 1))
    step = block_rows(width * 4)
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    total = np.zeros(width)
    for block in blocks:
        total += array[block].astype(np.float32).sum(axis=0, dtype=np.float64)
    mean = (total / len(rows)).astype(np.float32)
    basis = np.random.default_rng(seed).standard_normal((width, min(width, count + 16))).astype(np.float32)
    for _ in range(PASSES):
        image = np.zeros_like(basis)
        for block in blocks:
            centred = array[block].astype(np.float32) - mean
            image += centred.T @ (centred @ basis)
        basis = np.linalg.qr(image)[0]
    projected = np.concatenate([(array[block].astype(np.float32) - mean) @ basis for block in blocks])
    _, _, directions = np.linalg.svd(projected, full_matrices=False)
    return mean, basis @ directions[:count].T
