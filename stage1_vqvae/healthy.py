"""What is healthy, for a model: its errors, its codes and its scores on images that show nothing unusual.

Errors are larger on images that a model never learned from, so they are measured on held-out ones. How rare a code is
takes many images, and the model learned them by heart in no way that matters for a count: so those of the training.
A held-out person's own scores are taken with the usual errors of the others, in `FOLDS` parts: with their own among
them, five people looked so usual that nine tenths of the next healthy ones' slices lay above theirs.

The file is an .npz of plain arrays; its text `about` is JSON. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_datasets.atomic import replacing
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.progress import Progress

from .anomaly import Detector, Healthy, Inside, Recipe, absolute_error, everywhere, smoothed
from .autoencoder import Autoencoder
from .batches import padded
from .reconstruct import reconstruct
from .surprise import CodeTally

MOST_LEARNED = 10_000  # training images whose codes are counted, evenly spaced
MOST_HELD_OUT = 5_000
FEWEST = 2  # held-out images; a standard deviation of fewer is none
FOLDS = 10  # parts of the held-out people, each scored by what is usual in the others
PRIOR = 10.0  # images: fewer seen at a place than these, and it says less than all places together
FORMAT = 1


def fit_healthy(
    model: Autoencoder,
    images: np.ndarray,
    *,
    learned: np.ndarray,
    held_out: np.ndarray,
    groups: np.ndarray,
    zones: np.ndarray,
    batch_size: int,
    inside: Inside | None = None,
    recipe: Recipe | None = None,
    progress: Progress,
) -> Healthy:
    """Measure what is healthy, in memory that does not grow with the images.

    Args:
        model: frozen.
        images: (N, H, W, C) uint8.
        learned: healthy rows that the model was trained on: their codes are counted.
        held_out: healthy rows that it never saw: errors, their spread, and scores to compare with.
        groups: whom each held-out row shows, (len(held_out),).
        zones: of each of the images (N,), from 0 on: what is usual is told apart by them.
        batch_size: of the encoder.
        inside: which pixels count.
        recipe: how maps become scores.
        progress: counts images.

    Raises:
        ToolkitError: fewer than two held-out images.
    """
    if len(held_out) < FEWEST:
        raise ToolkitError(
            f"what is healthy has to be measured on {FEWEST} or more healthy images that the model never learned from; "
            f"there {'is' if len(held_out) == 1 else 'are'} {len(held_out)}. Raise train.validation or split.labelled "
            "of the run, or look at the label that --healthy names"
        )
    recipe, inside = recipe or Recipe(), inside or everywhere
    chosen = thinned(np.arange(len(held_out)), MOST_HELD_OUT)
    learned, held_out, groups = thinned(learned, MOST_LEARNED), held_out[chosen], groups[chosen]
    device = model.mean.device
    _, people = np.unique(groups, return_inverse=True)
    folds = [held_out[people % FOLDS == fold] for fold in range(min(FOLDS, int(people.max()) + 1))]
    count = int(zones.max(initial=0)) + 1
    errors = [PixelErrors(model.size, device, zones=count) for _ in folds]
    tally = CodeTally(model.levels[0], device) if model.quantizers else None
    total = 2 * len(held_out) + (len(learned) if tally else 0)
    with progress.bar("learn what is healthy", total, "images") as bar, torch.inference_mode():
        for part, batch in padded(images, learned, batch_size, device) if tally else ():
            quantized = model.quantize(model.encode(batch))
            assert tally is not None
            tally.add(next(iter(quantized.values())).indices[: len(part)])
            bar.update(len(part))
        for rows, own in zip(folds, errors, strict=True):
            for part, batch in padded(images, rows, batch_size, device):
                error = smoothed(absolute_error(batch, reconstruct(model, batch)[0]), recipe)
                own.add(error[: len(part)], inside(batch)[: len(part)], zones[part])
                bar.update(len(part))
        rarity = tally.table() if tally else None
        found: dict[str, list[np.ndarray]] = {}
        for fold, rows in enumerate(folds):
            others = [each for other, each in enumerate(errors) if other != fold] or errors
            detector = Detector(model, Healthy(*joined(others).statistics(), rarity, recipe=recipe), inside)
            for _, maps in detector.run(images, rows, zones=zones, batch_size=batch_size, bar=bar):
                for name, values in detector.scores(maps).items():
                    found.setdefault(name, []).append(values)
    mean, spread = joined(errors).statistics()
    scored = {name: np.concatenate(parts) for name, parts in found.items()}
    scored = {name: values[np.isfinite(values)] for name, values in scored.items()}
    return Healthy(mean, spread, rarity, scored, len(learned) if tally else 0, len(held_out), recipe)


class PixelErrors:
    """Mean and standard deviation of an error at each place of each zone, over many batches."""

    def __init__(self, size: int, device: torch.device, *, zones: int = 1) -> None:
        # count, error, its square
        self.sums = torch.zeros(3, zones, size, size, dtype=torch.float64, device=device)

    def add(self, errors: Tensor, inside: Tensor, zones: np.ndarray | None = None) -> None:
        """Count the errors (B, H, W) of the pixels that are `inside`; `zones` (B,) are all 0 by default."""
        counted = torch.where(inside, errors, 0.0).double()
        where = torch.from_numpy(np.zeros(len(errors), np.int64) if zones is None else zones).to(errors.device)
        for sums, values in zip(self.sums, (inside.double(), counted, counted.square()), strict=True):
            sums.index_add_(0, where, values)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (Z, H, W) float32 of each place.

        Each is drawn towards that of the place in all zones together, as if `PRIOR` more images had it, and this
        towards that of all places: where few healthy heads reach, a place by itself would call anything usual or
        anything unusual.
        """
        count, *moments = self.sums  # (Z, H, W) each
        drawn = []
        for moment in moments:
            overall = moment.sum() / count.sum().clamp_min(1)
            place = (moment.sum(0) + PRIOR * overall) / (count.sum(0) + PRIOR)  # (H, W)
            drawn.append((overall, (moment + PRIOR * place) / (count + PRIOR)))
        (overall, mean), (overall_square, square) = drawn
        floor = 1e-6 + 1e-3 * (overall_square - overall.square()).clamp_min(0).sqrt()
        spread = (square - mean.square()).clamp_min(0).sqrt().clamp_min(floor)
        return mean.float().cpu().numpy(), spread.float().cpu().numpy()


def joined(parts: Sequence[PixelErrors]) -> PixelErrors:
    """The errors of all `parts` together."""
    sums = parts[0].sums
    whole = PixelErrors(sums.shape[-1], sums.device, zones=sums.shape[1])
    for part in parts:
        whole.sums += part.sums
    return whole


def thinned(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of `rows`, evenly spaced."""
    if len(rows) <= most:
        return rows
    fewer: np.ndarray = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
    return fewer


def save_healthy(path: Path, healthy: Healthy, about: dict[str, Any]) -> None:
    """Write `healthy` to the .npz file `path` in one step; `about` says of which model and images it is."""
    counts = np.array([healthy.learned, healthy.held_out])
    arrays = {"mean": healthy.mean, "spread": healthy.spread, "counts": counts}
    arrays |= {f"scores_{name}": values for name, values in healthy.scores.items()}
    if healthy.rarity is not None:
        arrays["rarity"] = healthy.rarity
    told = {"format_version": FORMAT, "recipe": asdict(healthy.recipe), **about}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(told, sort_keys=True)), **arrays)  # type: ignore[arg-type]


def load_healthy(path: Path, about: dict[str, Any]) -> Healthy | None:
    """What `save_healthy` wrote, if it is `about` the same; None where there is none, or of something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            told = json.loads(str(file["about"]))
            recipe = Recipe(**told.pop("recipe"))
            if told != {"format_version": FORMAT, **about} or recipe != Recipe():
                return None
            arrays = {name: file[name] for name in file.files if name != "about"}
            scores = {name.removeprefix("scores_"): each for name, each in arrays.items() if name.startswith("scores_")}
            learned, held_out = map(int, arrays["counts"])
            return Healthy(arrays["mean"], arrays["spread"], arrays.get("rarity"), scores, learned, held_out, recipe)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):  # absent, cut short, or old
        return None
