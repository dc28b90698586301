"""The figures of a finished model, on images that it never learned from, and examples to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_datasets.atomic import replacing
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress, Silent

from .autoencoder import Autoencoder
from .batches import evenly, load, padded
from .reconstruct import CodeCounts, Scored, reconstruct, score, summary, to_uint8
from .references import references

MOST = 5000  # images of a split that are judged, evenly spaced: 70,000 slices would take longer than an epoch does
EXAMPLES = 8  # pairs in examples.npz: two rows of a page
ACTIVE = 0.01  # variance of a latent's mean; its prior has 1


def assess(
    prepared: Prepared, model: Autoencoder, validation: np.ndarray, *, progress: Progress | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures and examples of `model`; `validation` are the unlabelled rows held out from its training.

    Returns:
        The quality part of metrics.json (the figures are those of the test images, else of the labelled ones, else of
        the validation ones, at most 5,000 of each, and `references` stand beside them on the same images; codes are
        counted over these and as many training images together, `codebook_usage` is the lowest of the levels and
        `perplexity` that of the first; latents without codes have the number of `active` ones over the training images
        instead), and the arrays of examples.npz: originals and reconstructions (n, H, W, C) uint8, id, split, psnr,
        ssim.
    """
    show = progress or Silent()
    size, inside = prepared.card.encode_batch, prepared.card.of_volumes
    unlabelled = prepared.rows("unlabelled")
    unseen = {"test": prepared.rows("test"), "labelled": prepared.rows("labelled"), "validation": validation}
    unseen = {split: evenly(rows, MOST) for split, rows in unseen.items() if len(rows)}
    learned = np.setdiff1d(unlabelled, validation)
    counted = evenly(learned, MOST)
    scored: dict[str, Scored] = {}
    with show.bar("evaluate", sum(map(len, unseen.values())) + len(counted), "images") as bar:
        for split, rows in unseen.items():
            scored[split] = score(model, prepared.images, rows, batch_size=size, foreground=inside, bar=bar)
        counts, spread = CodeCounts(model), Spread()
        for part, batch in padded(prepared.images, counted, size, model.mean.device):
            with torch.inference_mode():
                latents = model.encode(batch)
                counts.add(model.quantize(latents), len(part))
                spread.add({name: each for name, each in latents.items() if name not in model.quantizers}, len(part))
            bar.update(len(part))
    totals = {
        name: own + np.sum([each.code_counts[name] for each in scored.values()], axis=0)
        for name, own in counts.arrays().items()
    }

    splits = {split: summary(each, model) for split, each in scored.items()}
    judged = next(iter(splits))  # the first there is, in the order above
    levels: dict[str, dict[str, float]] = {}
    for level in model.levels:
        figures: dict[str, float] = {}
        if level.codes:
            figures = {"usage": usage(totals[level.name]), "perplexity": perplexity(totals[level.name])}
        else:
            figures = {"numbers": level.dim, "active": spread.active(level.name)}
        levels[level.name] = {**figures, "bits_per_pixel": level.bits / model.size**2}
    coded = [levels[name] for name in totals]
    codebooks: dict[str, float] = {}
    if coded:
        codebooks = {"codebook_usage": min(each["usage"] for each in coded), "perplexity": coded[0]["perplexity"]}
    metrics = {
        "model": model.kind,
        "figures_on": judged,
        **{name: value for name, value in splits[judged].items() if name not in ("n", "mse")},
        "bits_per_pixel": model.bits_per_pixel,
        **codebooks,
        "levels": levels,
        "references": references(
            model, prepared.images, learned, unseen[judged], batch_size=size, foreground=inside, progress=show
        ),
        "splits": splits,
        "code_counts": {name: array.tolist() for name, array in totals.items()},
    }
    return metrics, examples(prepared, model, unseen[judged], scored[judged])


def examples(prepared: Prepared, model: Autoencoder, rows: np.ndarray, scored: Scored) -> dict[str, np.ndarray]:
    """Up to 8 of `rows`, evenly spaced, with their reconstructions and scores."""
    places = evenly(np.arange(len(rows)), EXAMPLES)
    chosen = rows[places]
    decoded, _ = reconstruct(model, load(prepared.images, chosen, model.mean.device))
    return {
        "originals": np.ascontiguousarray(prepared.images[chosen]),
        "reconstructions": to_uint8(decoded),
        "id": prepared.samples["id"].iloc[chosen].to_numpy(dtype=str),
        "split": prepared.samples["split"].iloc[chosen].to_numpy(dtype=str),
        "psnr": scored.psnr[places],
        "ssim": scored.ssim[places],
    }


def write_examples(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write `arrays` to the .npz file `path` in one step. Text is stored as unicode, never as objects."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


class Spread:
    """Which latents say anything about the images: mean and variance of each, over many batches."""

    def __init__(self) -> None:
        self._n = 0
        self._sums: dict[str, Tensor] = {}  # level -> (2, D) float64: of the numbers, and of their squares

    def add(self, latents: Mapping[str, Tensor], n: int) -> None:
        """Count the first `n` images of a batch of latents (B, D, h, w), averaged over the grid."""
        self._n += n
        for name, values in latents.items():
            values = values[:n].mean((2, 3)).cpu().double()  # MPS has no float64
            sums = torch.stack([values.sum(0), values.square().sum(0)])
            self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def active(self, name: str) -> int:
        """Latents whose variance over the images is above 0.01 (Burda et al., "IWAE", 2016, section 5.2)."""
        mean, square = self._sums[name] / self._n
        return int((square - mean.square() > ACTIVE).sum())


def usage(counts: np.ndarray) -> float:
    """Share of codes that were chosen at all, 0 to 1."""
    return float((np.asarray(counts) > 0).mean())


def perplexity(counts: np.ndarray) -> float:
    """exp of the entropy of the codes: how many equally frequent codes would be as hard to guess.

    `counts` (K,), or (R, K) of residual codes, whose mean over depths it then is.

    >>> perplexity(np.array([5, 5, 5, 5, 0]))
    4.0
    """
    shares = np.atleast_2d(counts) / np.sum(counts, axis=-1, keepdims=True)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return float(np.exp(-(shares * logs).sum(-1)).mean().round(9))
