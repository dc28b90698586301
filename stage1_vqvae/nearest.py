"""The nearest code of each vector, exactly in float32 and in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**21
"""Entries of the one buffer of scores (8 MB in float32): large enough for a fast matrix product, small enough to stay
in cache. The full N x K table of 64 images of 128x128 at stride 4 with 1,024 codes would take 256 MB."""


def nearest(vectors: Tensor, codebook: Tensor, *, block: int = BLOCK) -> Tensor:
    """Index (N,) long of the code in `codebook` (K, D) closest to each of `vectors` (N, D), both float32.

    Minimises ||e||^2 / 2 - x.e, which is half the squared distance less ||x||^2 / 2, constant for each vector. Runs in
    float32 under autocast too: in bfloat16, with 8 bits of mantissa, neighbouring codes could not be told apart.
    """
    with torch.autocast(device_type=vectors.device.type, enabled=False), torch.no_grad():
        half_norms = codebook.square().sum(1) / 2  # (K,)
        transposed = codebook.t()
        out = torch.empty(len(vectors), dtype=torch.long, device=vectors.device)
        rows = max(1, block // len(codebook))
        for start in range(0, len(vectors), rows):
            part = vectors[start : start + rows]
            out[start : start + rows] = torch.addmm(half_norms, part, transposed, alpha=-1).argmin(1)
        return out


def distances_to(vectors: Tensor, codebook: Tensor, indices: Tensor) -> Tensor:
    """Squared distance (N,) of each of `vectors` (N, D) to the code that `indices` (N,) gives it."""
    return (vectors - codebook[indices]).square().sum(1)
