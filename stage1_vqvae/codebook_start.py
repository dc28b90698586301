"""Where codebooks start: on k-means centres of latents gathered over several batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .batches import load
from .coarse import shrink
from .model import VQVAE
from .patterns import some_patches
from .quantizer import tokens
from .transform import TransformLevel

POINTS_PER_CODE = 32  # more hardly move the centres
FEWEST_IMAGES = 64  # so that one image's background does not become the codebook
LONGEST_BATCH = 64  # images encoded at a time
START = 2**31  # second part of the random seed, apart from every epoch's number
MOST_SUMMARIES = 2**14  # 17 MB at 256 channels
MOST_PATCHES, PATCHES_PER_IMAGE = 2**17, 20  # 57 MB of 6x6 px in colour
MOST_POINTS = 2**18  # bounds time and memory for large codebooks: 64 MB at D = 64


@torch.no_grad()
def start_codebook(model: VQVAE, images: np.ndarray, rows: np.ndarray, *, batch_size: int, seed: int) -> None:
    """Put the codebook on the latents of some of `images[rows]`, as many as give 32 of them per code.

    Args:
        model: its encoder gives the latents; its quantiser is changed in place.
        images: (N, H, W, C) uint8.
        rows: the images to draw from.
        batch_size: of the training to come, which decides how much a code's starting count weighs.
        seed: decides which images and which start.
    """
    per_image = model.grid**2
    wanted = min(POINTS_PER_CODE * model.quantizer.codes, MOST_POINTS)
    generator = torch.Generator(model.mean.device).manual_seed(seed)

    def latents(batch: Tensor) -> Tensor:
        return model.encoder(model.normalise(batch)).float()  # type: ignore[no-any-return]

    points = gather(
        latents,
        images,
        rows,
        wanted=max(wanted, 4 * model.quantizer.codes),
        per_image=per_image,
        seed=seed,
        generator=generator,
    )
    model.quantizer.start(points, tokens_per_step=batch_size * per_image, generator=generator)


@torch.no_grad()
def learn_patterns(model: VQVAE, images: np.ndarray, rows: np.ndarray, *, seed: int) -> None:
    """Fit the patterns of a model that has any to patches of `images[rows]` (N, H, W, C) uint8.

    `seed` decides which images, which patches and which start.
    """
    level = model.patterns
    if level is None:
        return
    generator = torch.Generator(model.mean.device).manual_seed(seed)
    size = level.size
    patches = gather(
        lambda batch: some_patches(shrink(model.normalise(batch), size), PATCHES_PER_IMAGE, generator=generator),
        images,
        rows,
        wanted=MOST_PATCHES,
        per_image=PATCHES_PER_IMAGE,
        seed=seed,
        generator=generator,
    )
    level.patterns.fit(patches, generator=generator)


@torch.no_grad()
def start_summaries(model: VQVAE, images: np.ndarray, rows: np.ndarray, *, seed: int) -> None:
    """Fit scale and codebooks of the levels that sum the picture up; they stay there.

    Args:
        model: trunk and patterns are final; the rest of these levels is changed in place.
        images: (N, H, W, C) uint8.
        rows: the images to learn from.
        seed: decides which images and which start.
    """
    for level in model.summaries:
        generator = torch.Generator(model.mean.device).manual_seed(seed)
        points = gather(
            partial(_measured, model, level),
            images,
            rows,
            wanted=MOST_SUMMARIES,
            per_image=level.grid**2,
            seed=seed,
            generator=generator,
        )
        level.fit(points, generator=generator)


def _measured(model: VQVAE, level: TransformLevel, batch: Tensor) -> Tensor:
    return level.measured(model.normalise(batch))


def gather(
    latents_of: Callable[[Tensor], Tensor],
    images: np.ndarray,
    rows: np.ndarray,
    *,
    wanted: int,
    per_image: int,
    seed: int,
    generator: torch.Generator,
) -> Tensor:
    """About `wanted` latents (n, D) of some of `images[rows]`, at least 64 of them, drawn by `seed`.

    `latents_of` maps a uint8 batch (B, C, H, W) to its latents (B, D, h, w), h w = `per_image`.
    """
    count = min(len(rows), max(FEWEST_IMAGES, -(-wanted // per_image)))
    chosen = np.sort(np.random.default_rng([seed, START]).permutation(rows)[:count])
    most = -(-wanted // count)  # kept of each image
    gathered = []
    for start in range(0, len(chosen), LONGEST_BATCH):
        latents = latents_of(load(images, chosen[start : start + LONGEST_BATCH], generator.device))
        points = tokens(latents)  # (B h w, D)
        keep = min(len(points), most * len(latents))
        gathered.append(points[torch.randperm(len(points), generator=generator, device=points.device)[:keep]])
    return torch.cat(gathered)
