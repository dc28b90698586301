"""New images from a trained model, and how they stand to the images that it learned from.

A sample is judged against what is usual: unseen images go through the model as well, and their nearest training images
are found in the same way. They are rebuilt first, because a decoder blurs and what is blurred is nearer to everything:
with the originals as yardstick 64 % of rebuilt unseen brain slices would pass for copies. Copies, here rebuilt training
images, are found in 76 % of all cases by pixels and always by latents; of digits in 34 % and 92 %. So both measures are
taken. docs/sampling.md says of which models this is true.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress, Silent

from .aggregate import Aggregate, AggregateSums
from .batches import check_shape, evenly, padded
from .checkpoint import Loaded
from .holdout import split_validation
from .interpolation import walk
from .neighbours import MEASURES, Nearest, Search
from .prior import Prior
from .reconstruct import decoded_pictures, reconstruct, to_uint8
from .vae import LATENTS, VAE

UNSEEN = 200  # unseen images that serve as yardstick: one in twenty of them is a tail of ten


@dataclass(frozen=True)
class Yardstick:
    """Unseen real images and their nearest training images: how near people, or things, are to one another."""

    split: str  # test, labelled or validation
    rows: np.ndarray  # (m,) of the sample table
    originals: dict[str, Nearest]  # measure -> of the images themselves
    rebuilt: dict[str, Nearest]  # measure -> of their reconstructions

    def nearer_than(self, measure: str, distances: np.ndarray) -> np.ndarray:
        """For each distance (n,) the share of rebuilt unseen images that are farther from all training images.

        1.0 is nearer than every one of them: a copy, or nearly; 0.0 is farther off than any of them.
        """
        usual = np.sort(self.rebuilt[measure].distances)
        return 1 - np.searchsorted(usual, distances, side="right") / len(usual)


@dataclass(frozen=True)
class Comparison:
    """Pictures beside the training images."""

    learners: int  # training images looked at
    nearest: dict[str, Nearest]  # measure -> of each picture
    yardstick: Yardstick
    aggregate: Aggregate | None  # of a VAE


def draw(loaded: Loaded, prior: Prior, count: int, *, seed: int, temperature: float = 1.0) -> np.ndarray:
    """`count` new images (count, H, W, C) uint8. The first ones of many are those of few."""
    vectors = prior.draw(count, seed=seed, temperature=temperature)
    return decoded_pictures(loaded.model, vectors, batch_size=loaded.card.encode_batch)


def between(loaded: Loaded, ends: np.ndarray, steps: int) -> np.ndarray:
    """Images (steps, H, W, C) uint8 on the way between two `ends` (2, H, W, C); the outer ones are their own."""
    vectors = walk(loaded.model, ends, steps)
    return decoded_pictures(loaded.model, vectors, batch_size=loaded.card.encode_batch)


def compare(
    loaded: Loaded, prepared: Prepared, pictures: np.ndarray, *, progress: Progress | None = None
) -> Comparison:
    """Find the training images nearest to `pictures` (n, H, W, C) uint8, and nearest to unseen images.

    One pass over the training images; memory does not grow with their number.

    Args:
        loaded: the model.
        prepared: the images of its training, split as they were then.
        pictures: what the model made.
        progress: counts training images.

    Raises:
        ToolkitError: images of another shape.
    """
    model, card = loaded.model, loaded.card
    check_shape(prepared.images, card)
    size, count = card.encode_batch, len(pictures)
    learned, split, unseen = _learned_and_unseen(prepared)
    originals = np.ascontiguousarray(prepared.images[unseen])
    batches = padded(prepared.images, unseen, size, model.mean.device)
    rebuilt = np.concatenate([to_uint8(reconstruct(model, batch)[0][: len(rows)]) for rows, batch in batches])
    search = Search(model, np.concatenate([pictures, originals, rebuilt]), batch_size=size)
    sums = AggregateSums(model.dim) if isinstance(model, VAE) else None
    with (progress or Silent()).bar("compare", len(learned), "images") as bar:
        for rows, batch in padded(prepared.images, learned, size, model.mean.device):
            with torch.inference_mode():
                if isinstance(model, VAE) and sums is not None:
                    posterior = model.posterior(model.normalise(batch))
                    sums.add(posterior, len(rows))
                    latents = {LATENTS: posterior.mean[:, :, None, None]}
                else:
                    latents = model.encode(batch)
                search.add(rows, batch, latents)
            bar.update(len(rows))
    found = search.found()
    parts = [slice(0, count), slice(count, count + len(unseen)), slice(count + len(unseen), None)]
    nearest, of_originals, of_rebuilt = ({name: found[name].part(part) for name in MEASURES} for part in parts)
    return Comparison(
        learners=len(learned),
        nearest=nearest,
        yardstick=Yardstick(split, unseen, of_originals, of_rebuilt),
        aggregate=sums.found() if sums else None,
    )


def _learned_and_unseen(prepared: Prepared) -> tuple[np.ndarray, str, np.ndarray]:
    """Rows that the model learned from, then split and rows of up to `UNSEEN` others, evenly spaced."""
    card = prepared.card
    learned, validation = split_validation(
        prepared.samples, prepared.rows("unlabelled"), share=card.train.validation, seed=card.seed
    )
    unseen = {"test": prepared.rows("test"), "labelled": prepared.rows("labelled"), "validation": validation}
    split, rows = next((split, rows) for split, rows in unseen.items() if len(rows))  # a validation image there is
    return learned, split, evenly(rows, UNSEEN)
