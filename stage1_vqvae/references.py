"""What simple methods score on the same images as the model, so that its figures can be judged.

* mean: the mean of the training images, for every image.
* blurred: each image after a Gaussian blur of a 32nd of its side (2 px at 64 px): detail gone, everything else right.
* pca: principal components of training images, whose coefficients take as many bits as the model's codes.

The scheme of `pca` is plain transform coding. Each next bit of an image goes to the component with the largest expected
squared error, its variance divided by 4 for each bit it has (greedy reverse water-filling); a component with b bits
has a uniform quantiser of 2^b steps, as wide as suits its training coefficients best; one without is left at its mean.
Means, axes and steps are the decoder's own, as a model's weights are. It is the best that a linear code of that size
does, short of entropy coding, which the model's bits do not have either. Beside latents that are not quantised it is
the first components, as many as there are latents, each a number of 32 bits too.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_datasets.progress import Progress

from . import scores
from .autoencoder import Autoencoder
from .batches import evenly, load, padded

BLUR = 1 / 32  # of the image's side
MOST_IMAGES = 2000  # whose principal components are taken
MOST_BYTES = 128 << 20  # of those images in float32: all of 64 px in colour, 512 of 256 px in grey
WHOLE = 32  # bits of a coefficient that is not quantised
MOST_BITS = 16  # for one coefficient: its error is then that of the float32 arithmetic
WIDTHS = torch.logspace(0, -1.3, 40)  # of a quantiser's range, over the largest coefficient: all of it to a twentieth
DEAD = 1e-6  # of the largest component's variance: no direction of its own any more


@dataclass(frozen=True)
class TransformCode:
    """Principal components, with a quantiser each or with none. An image is its C H W values in [0, 1]."""

    mean: Tensor  # (C, H, W)
    axes: Tensor  # (C H W, M) orthonormal
    levels: Tensor  # (M,) how many steps each quantiser has: 2^b
    steps: Tensor | None  # (M,) how wide they are; None: coefficients are taken as they are
    bits: int  # for one image
    images: int  # whose components they are

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] after coding and decoding."""
        coefficients = (images - self.mean).flatten(1) @ self.axes  # (B, M)
        if self.steps is not None:
            coefficients = uniform(coefficients, self.steps, self.levels)
        return (self.mean + (coefficients @ self.axes.t()).view(images.shape)).clamp(0, 1)


def references(
    model: Autoencoder,
    images: np.ndarray,
    learned: np.ndarray,
    judged: np.ndarray,
    *,
    batch_size: int,
    foreground: bool = False,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Mean `psnr`, `ssim` and `normalised_mse` of each reference on the rows `judged` of `images` (N, H, W, C) uint8.

    With `foreground` also `ssim_foreground`, over the images that have one; see `scores.judge`.
    `learned` are the rows of the training, of which mean and principal components are taken. With `blurred` stands its
    `sigma` in px, with `pca` the number of `components`, the `bits_per_pixel` spent, and `fitted_on` how many images.
    """
    device = model.mean.device
    bits = round(model.bits_per_pixel * model.size**2)
    code = fit(images, learned, bits=bits, quantised=bool(model.quantizers), device=device)
    sigma = BLUR * model.size
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda batch: code.mean.expand_as(batch),
        "blurred": lambda batch: scores.blurred(batch, sigma),
        "pca": code,
    }
    columns = ("psnr", "ssim", "mse", *(("ssim_foreground",) if foreground else ()))
    sums = {name: torch.zeros(2, len(columns), dtype=torch.float64) for name in methods}  # of scores, and how many
    with progress.bar("references", len(judged), "images") as bar, torch.inference_mode():
        for part, batch in padded(images, judged, batch_size, device):
            originals = batch[: len(part)].float() / 255
            for name, method in methods.items():
                found = scores.judge(originals, method(originals), foreground=foreground)
                for place, column in enumerate(columns):
                    each = found[column].cpu().double()
                    sums[name][0, place] += each.nansum()  # an image that is all black has no foreground
                    sums[name][1, place] += each.isfinite().sum()
            bar.update(len(part))
    more: dict[str, dict[str, Any]] = {
        "mean": {},
        "blurred": {"sigma": sigma},
        "pca": {
            "components": code.axes.shape[1],
            "bits_per_pixel": code.bits / model.size**2,
            "fitted_on": code.images,
        },
    }
    out = {}
    for name, total in sums.items():
        means = {column: value / n for column, value, n in zip(columns, *total.tolist(), strict=True) if n}
        means["normalised_mse"] = means.pop("mse") / float(model.deviation) ** 2
        out[name] = means | more[name]
    return out


@torch.no_grad()
def fit(images: np.ndarray, rows: np.ndarray, *, bits: int, quantised: bool, device: torch.device) -> TransformCode:
    """The transform code of `bits` for each image, after some of `images[rows]` (N, H, W, C), spread evenly.

    Without `quantised` a component takes 32 bits or none.
    """
    values = int(np.prod(images.shape[1:]))
    count = max(2, min(len(rows), MOST_IMAGES, MOST_BYTES // (4 * values)))
    rows = evenly(rows, count)
    points = load(images, rows, device).float().div_(255)  # (n, C, H, W)
    mean = points.mean(0)
    centred = points.sub_(mean).flatten(1)  # (n, C H W)
    # From the small side: the n x n products of images have the same eigenvalues as the covariance of their values.
    products = (centred @ centred.t()).cpu().double() / len(rows)
    variances, sides = (each.flip(-1) for each in torch.linalg.eigh(products))
    alive = int((variances > DEAD * variances[0].clamp_min(1e-12)).sum())
    shares = allocate(variances[:alive].tolist(), bits) if quantised else [WHOLE] * min(alive, bits // WHOLE)
    kept = torch.tensor([place for place, share in enumerate(shares) if share], dtype=torch.long)
    scale = (variances[kept] * len(rows)).rsqrt()
    axes = centred.t() @ (sides[:, kept] * scale).float().to(device)  # (C H W, M)
    levels = 2.0 ** torch.tensor([shares[place] for place in kept.tolist()], device=device)
    steps = widths(centred @ axes, levels) if quantised else None
    return TransformCode(mean, axes, levels, steps, bits=sum(shares), images=len(rows))


def allocate(variances: list[float], bits: int) -> list[int]:
    """How many of `bits` each component gets, at most 16: the next one where variance / 4^bits is largest.

    >>> allocate([16.0, 4.0, 1.0, 0.1], 3)
    [2, 1, 0, 0]
    """
    shares = [0] * len(variances)
    waiting = [(-variance, place) for place, variance in enumerate(variances)]
    heapq.heapify(waiting)
    for _ in range(bits):
        if not waiting:
            break
        error, place = heapq.heappop(waiting)
        shares[place] += 1
        if shares[place] < MOST_BITS:
            heapq.heappush(waiting, (error / 4, place))
    return shares


def widths(coefficients: Tensor, levels: Tensor) -> Tensor:
    """For each column of `coefficients` (n, M) the step (M,) whose quantiser of `levels` (M,) errs least on it."""
    if coefficients.shape[1] == 0:
        return levels
    largest = coefficients.abs().amax(0).clamp_min(1e-12)
    candidates = WIDTHS.to(largest)[:, None] * 2 * largest / levels  # (40, M)
    errors = torch.stack([(uniform(coefficients, step, levels) - coefficients).square().mean(0) for step in candidates])
    return candidates.gather(0, errors.argmin(0, keepdim=True))[0]


def uniform(values: Tensor, steps: Tensor, levels: Tensor) -> Tensor:
    """`values` (n, M), each on the middle of its step: `levels` (M,) of width `steps` (M,), the outer ones open."""
    last = levels / 2 - 0.5
    return ((values / steps - 0.5).round() + 0.5).clamp(-last, last) * steps
