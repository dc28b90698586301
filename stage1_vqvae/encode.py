"""Images to codes: the frozen model's, written to a store, and an untrained model's, as a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from toolkit_datasets.card import Card
from toolkit_datasets.codes import (
    Codes,
    CodeWriter,
    Shard,
    StoreInfo,
    fingerprint,
    is_finished,
    join,
    manifest_of,
    of_same_store,
    open_codes,
    versions,
)
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress, Silent

from .autoencoder import Autoencoder
from .batches import check_shape, padded
from .checkpoint import load_model
from .codebook_start import start_codebook, start_summaries
from .device import choose_device
from .model import VQVAE, build


def encode(
    model_folder: Path,
    prepared: Prepared,
    rows: np.ndarray,
    out: Path,
    *,
    format: Literal["npy", "h5"],
    content: Literal["vectors", "indices", "latents"],
    device: str = "auto",
    overwrite: bool = False,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> Codes:
    """Write the codes of `prepared.images[rows]` to the store `out`, and open it.

    Runs in float32 and in padded batches of one size, so that an image's codes depend on that image alone; the store's
    writer works in a thread of its own, and memory does not grow with the number of images. An interrupted call goes
    on where it stopped.

    Args:
        model_folder: the trained model.
        prepared: the run's images, or others prepared with the run's preprocessing.
        rows: which of them, in the order of the store.
        out: a folder for `npy`, a file for `h5`.
        format: `npy` or `h5`.
        content: `vectors` (quantised), `indices`, or `latents` (before quantisation).
        device: where the encoder runs.
        overwrite: replace a store of other codes.
        shard: write this part of the store only; the process that finishes the last one joins them.
        progress: counts images.

    Returns:
        The store; or the shard, where others are still to come.

    Raises:
        ToolkitError: no such model, a content that it cannot give, images of another shape, or a store of other codes
            at `out`.
    """
    show = progress or Silent()
    loaded = load_model(model_folder, device)
    model, card, levels = loaded.model, loaded.card, loaded.model.levels
    check_shape(prepared.images, card)
    if content != "latents" and not model.quantizers:
        raise ToolkitError(
            f"{model_folder} holds a VAE, which has latents and no codebook, so there are no {content} to write: "
            "give --content latents"
        )
    size = card.encode_batch
    info = StoreInfo(
        content=content,
        levels=levels,
        model_hash=loaded.model_hash,
        card=card.model_dump(mode="json"),
        bits_per_pixel=latent_bits(model) if content == "latents" else model.bits_per_pixel,
        stage1={
            **{key: value for key, value in loaded.metrics.items() if key != "code_counts"},
            "encode_batch_size": size,
            "encode_device": str(model.mean.device),
            "encode_threads": torch.get_num_threads(),
        },
        versions=versions(),
    )
    manifest = manifest_of(prepared.samples, rows)
    place, part_of = out, None
    if shard:
        whole = fingerprint(format, info, manifest)
        if is_finished(out, whole, overwrite=overwrite):
            return open_codes(out)
        mine = shard.rows(len(rows), size)
        rows, manifest = rows[mine], manifest.iloc[mine].reset_index(drop=True)
        place, part_of = shard.path(out, format), {"number": shard.number, "of": shard.of, "whole": whole}
    writer = CodeWriter(
        place,
        format=format,
        info=info,
        manifest=manifest,
        codebooks=model.codebooks,
        overwrite=overwrite,
        part=part_of,
    )
    del manifest  # the store has its own, and `open_codes` reads it: two would be held
    with writer, show.bar("encode", len(rows), "images", done=writer.rows_done) as bar:
        # Whole batches again from the one that holds the first missing row: every batch is the one it would have been.
        first, skip = divmod(writer.rows_done, size)
        if writer.rows_done == len(rows):
            rows = rows[:0]
        for part, batch in padded(prepared.images, rows, size, model.mean.device, first=first):
            with torch.inference_mode():
                latents = model.encode(batch)
                if content != "latents":
                    latents = {name: each.indices for name, each in model.quantize(latents).items()}
            arrays = {name: values[skip : len(part)].cpu().numpy() for name, values in latents.items()}
            dtypes = {level.name: level.dtype("latents" if content == "latents" else "indices") for level in levels}
            writer.write({name: np.ascontiguousarray(array, dtypes[name]) for name, array in arrays.items()})
            bar.update(len(part) - skip)
            skip = 0
    if shard:
        if len(of_same_store(out, shard.of, whole)) == shard.of:
            return join(out, of=shard.of, overwrite=overwrite)
        if not place.exists():  # another process has joined a folder meanwhile
            place = out
    return open_codes(place)


def latent_bits(model: Autoencoder) -> float:
    """Bits per pixel of the latents before quantisation: 32 for each number."""
    return 32.0 * sum(level.dim * level.height * level.width for level in model.levels) / model.size**2


def random_codes(
    card: Card,
    images: np.ndarray,
    rows: np.ndarray,
    fit_rows: np.ndarray,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the architecture gives without training: the baseline that says what the learning was good for.

    Weights and patterns are random; brightness and codebooks come from `fit_rows`, as at the start of a training.

    Returns:
        By level: indices (n, R, h, w) uint8 or uint16 of `rows`, and the codebook (R, K, D) float32. A model without
        codes gives latents (n, D, h, w) float32 and no codebook.
    """
    show = progress or Silent()
    check_shape(images, card)
    place = choose_device(device)
    model = build(card, seed=card.seed).to(place).eval()
    model.measure(images, fit_rows)
    if isinstance(model, VQVAE):
        start_codebook(model, images, fit_rows, batch_size=card.encode_batch, seed=card.seed)
        start_summaries(model, images, fit_rows, seed=card.seed)
    out = {}
    for level in model.levels:
        shape = (level.depth, level.height, level.width) if level.codes else level.shape("latents")
        out[level.name] = np.empty((len(rows), *shape), dtype=level.index_dtype if level.codes else np.float32)
    done = 0
    with show.bar("random encoder", len(rows), "images") as bar, torch.inference_mode():
        for part, batch in padded(images, rows, card.encode_batch, place):
            latents = model.encode(batch)
            arrays = latents | {name: each.indices for name, each in model.quantize(latents).items()}
            for name, array in arrays.items():
                out[name][done : done + len(part)] = array[: len(part)].cpu().numpy()
            done += len(part)
            bar.update(len(part))
    return out, model.codebooks
