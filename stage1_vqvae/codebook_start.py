"""Where a codebook starts: on k-means centres of latents gathered over several batches."""

from __future__ import annotations

import numpy as np
import torch

from .batches import load
from .model import VQVAE
from .quantizer import tokens

POINTS_PER_CODE = 32  # more hardly move the centres
FEWEST_IMAGES = 64  # so that one image's background does not become the codebook
LONGEST_BATCH = 64  # images encoded at a time
START = 2**31  # second part of the random seed, apart from every epoch's number
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
    count = min(len(rows), max(FEWEST_IMAGES, -(-wanted // per_image)))
    chosen = np.sort(np.random.default_rng([seed, START]).permutation(rows)[:count])
    device = model.mean.device
    generator = torch.Generator(device).manual_seed(seed)
    most = -(-max(wanted, 4 * model.quantizer.codes) // count)  # tokens kept of each image
    gathered = []
    for start in range(0, len(chosen), LONGEST_BATCH):
        latents = model.encode(load(images, chosen[start : start + LONGEST_BATCH], device))
        points = tokens(latents)  # (B h w, D)
        keep = min(len(points), most * len(latents))
        gathered.append(points[torch.randperm(len(points), generator=generator, device=device)[:keep]])
    model.quantizer.start(torch.cat(gathered), tokens_per_step=batch_size * per_image, generator=generator)
