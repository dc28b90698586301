"""Baselines that need the images: pixels, HOG, an untrained encoder, and head size, as arrays for stage 2.

Stage 2 knows neither images nor stage 1; what it is handed has one row for each row of the code store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import Codes
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress

PIXEL_SIDE = 16  # px: a linear classifier on 100 images gains nothing from more (measured on cats and dogs)
BLOCK = 500  # images in memory at a time
HELD_BYTES = 512 << 20  # a baseline up to this size is kept in memory: HOG of 70,000 pictures of 64 px


def image_baselines(
    codes: Codes, prepared: Prepared, settings: Probe, *, device: str, progress: Progress
) -> dict[str, list[NDArray[np.float32]]]:
    """The arrays of the baselines named in `settings.baselines`, (rows of the store, features) float32.

    The untrained encoder has as many as `settings.features` offers to each draw, the others have one. Of pictures there
    is no head size, whatever the settings name.

    Raises:
        ToolkitError: an image of the store is not among the prepared ones.
    """
    rows = rows_in(prepared, codes)
    images, splits = prepared.images, codes.manifest["split"]
    every, judged = np.arange(len(rows)), np.flatnonzero(splits.isin([prepared.card.split.pool, "test"]))
    out: dict[str, list[NDArray[np.float32]]] = {}
    if "head_size" in settings.baselines and prepared.card.of_volumes:
        out["head_size"] = [head_sizes(prepared.details["foreground"].to_numpy()[rows])]
    if "pixels" in settings.baselines:
        out["pixels"] = [_filled(every, lambda part: small_pixels(images[rows[part]]), len(rows), "pixels", progress)]
    if "hog" in settings.baselines:
        out["hog"] = [_filled(judged, lambda part: hog_features(images[rows[part]]), len(rows), "hog", progress)]
    if "random" in settings.baselines:
        from stage2_probe.features import Spec, features
        from stage2_probe.probe import feature_choices

        try:
            from stage1_vqvae.encode import random_codes
        except ImportError:
            progress.say("note: without torch there is no untrained encoder to compare with")
            return out
        learners = rows[np.flatnonzero(splits == "unlabelled")]
        indices, codebooks = random_codes(
            prepared.card,
            images,
            rows[judged],
            learners if len(learners) else rows,
            device=device,
            progress=progress,
        )
        place = np.zeros(len(rows), np.int64)
        place[judged] = np.arange(len(judged))

        def untrained(part: NDArray[np.int64], spec: Spec) -> NDArray[np.float32]:
            return features(spec, {name: each[place[part]] for name, each in indices.items()}, codebooks)

        out["random"] = [
            _filled(judged, partial(untrained, spec=spec), len(rows), "random encoder", progress)
            for spec in feature_choices(
                codes.info.levels, settings, content=codes.stored_content, origin=str(codes.path)
            )
        ]
    return out


def head_sizes(foreground: Sequence[str]) -> NDArray[np.float32]:
    """Area of the head in each slice in cm2, and volume of its whole head in ml, (n, 2) float32.

    The head is the foreground of the voxels as they were decoded (see intensity.py): with its skull, or what stripping
    left of it. A scan that shows much of the neck counts it in.

    Args:
        foreground: both numbers as text, the column of `Prepared.details`.
    """
    return np.array([text.split() for text in foreground], np.float32).reshape(-1, 2)


def small_pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean colours of a grid of at most 16 x 16 cells, (n, cells * C) float32 in [0, 1]."""
    n, height, _, channels = images.shape
    cell = max(1, height // PIXEL_SIDE)
    side = height // cell
    cut = images[:, : side * cell, : side * cell].reshape(n, side, cell, side, cell, channels)
    means: NDArray[np.float32] = cut.mean((2, 4), dtype=np.float32).reshape(n, -1) / 255
    return means


def hog_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histograms of oriented gradients (Dalal & Triggs 2005): 9 orientations, cells of 8 px, blocks of 2 x 2 cells.

    Images below 32 px take smaller cells, so that there are at least 4 x 4.
    """
    from skimage.feature import hog

    cell = max(2, min(8, images.shape[1] // 4))
    grey = images.astype(np.float32).mean(-1)
    features = [hog(image, 9, (cell, cell), (2, 2), feature_vector=True) for image in grey]
    return np.asarray(features, np.float32)


def _filled(
    where: NDArray[np.int64],
    function: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    rows: int,
    title: str,
    progress: Progress,
) -> NDArray[np.float32]:
    """An array of `rows` rows: those in `where` are what `function` gives for them, block by block; the rest zeros."""
    blocks = [where[start : start + BLOCK] for start in range(0, len(where), BLOCK)]
    out: NDArray[np.float32] | None = None
    with ThreadPoolExecutor() as pool, progress.bar(title, len(where), "images") as bar:
        for block, values in zip(blocks, pool.map(function, blocks), strict=True):
            if out is None:
                out = _zeros((rows, values.shape[1]))
            out[block] = values
            bar.update(len(block))
    assert out is not None, "a store without samples"
    return out


def _zeros(shape: tuple[int, int]) -> NDArray[np.float32]:
    """An array of zeros; a large one lies in a file without a name, whose pages the system can write out and drop."""
    if 4 * shape[0] * shape[1] <= HELD_BYTES:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile() as file:  # the map keeps it until the last reader is gone
        return np.memmap(file, np.float32, "w+", shape=shape)


def rows_in(prepared: Prepared, codes: Codes) -> NDArray[np.int64]:
    """Row of the prepared images for each row of the store, matched by id and slice."""
    places = {pair: row for row, pair in enumerate(zip(prepared.samples["id"], prepared.samples["slice"], strict=True))}
    wanted = list(zip(codes.manifest["id"], codes.manifest["slice"], strict=True))
    missing = [pair[0] for pair in wanted if pair not in places]
    if missing:
        raise ToolkitError(
            f"{len(missing)} of {len(wanted)} images of {codes.path} are not in {prepared.origin}, such as "
            f"{missing[0]!r}: "
            "give the folder that was encoded with --data, or leave --data out to do without image baselines"
        )
    rows = np.array([places[pair] for pair in wanted], np.int64)
    same = prepared.samples["sha256"].to_numpy()[rows] == codes.manifest["sha256"].to_numpy()
    good = prepared.samples["status"].to_numpy()[rows] == "ok"
    if not (same & good).all():
        first = codes.manifest["path"].iat[int(np.flatnonzero(~(same & good))[0])]
        raise ToolkitError(
            f"{int((~(same & good)).sum())} files in {prepared.origin} are not the ones that were encoded, such as "
            f"{first!r}: give the folder that was encoded with --data"
        )
    return rows
