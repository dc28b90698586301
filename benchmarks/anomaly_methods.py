"""The model's anomaly maps, and the simple methods that stand beside them in lesions.py, each scored in the same way.

The simple ones get the same blur, the same healthy images to learn their usual errors from, and the same mean of the
highest pixels: PCA at the same number of bits, the mean image, a blur, and grey values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from stage1_vqvae import scores
from stage1_vqvae.anomaly import Recipe, absolute_error, smoothed, top_mean
from stage1_vqvae.batches import padded
from stage1_vqvae.checkpoint import Loaded
from stage1_vqvae.healthy import PixelErrors
from stage1_vqvae.reconstruct import reconstruct
from stage1_vqvae.references import BLUR, fit
from stage1_vqvae.surprise import CodeTally, surprise
from toolkit.anomaly import head
from toolkit.detection import PixelCounts
from toolkit.healthy import ZONES, zones_of
from toolkit.masks import Masks
from toolkit_datasets.prepare import Prepared

Maps = dict[str, torch.Tensor]  # name of a method -> (B, H, W)


def methods_of(loaded: Loaded, own: Prepared, learned: np.ndarray) -> Callable[[torch.Tensor], Maps]:
    """A function of uint8 images (B, C, H, W): the model's two maps, and what stands beside them."""
    model, device = loaded.model, loaded.model.mean.device
    size = loaded.card.encode_batch
    bits = round(model.bits_per_pixel * model.size**2)
    code = fit(own.images, learned, bits=bits, quantised=True, device=device)
    tally = CodeTally(model.levels[0], device)
    with torch.inference_mode():
        for part, batch in padded(own.images, learned, size, device):
            tally.add(next(iter(model.quantize(model.encode(batch)).values())).indices[: len(part)])
    table = torch.from_numpy(tally.table())

    @torch.inference_mode()
    def maps(batch: torch.Tensor) -> Maps:
        plain, (rebuilt, quantized) = batch.float() / 255, reconstruct(model, batch)
        rare = surprise(table, next(iter(quantized.values())).indices)[:, None]
        return {
            "error": absolute_error(batch, rebuilt),
            "surprise": torch.nn.functional.interpolate(rare, size=batch.shape[2:], mode="nearest")[:, 0],
            "PCA": absolute_error(batch, code(plain)),
            "mean image": absolute_error(batch, code.mean.expand_as(plain)),
            "blur": absolute_error(batch, scores.blurred(plain, BLUR * model.size)),
            "bright": plain.mean(1),
            "dark": 1 - plain.mean(1),
        }

    return maps


Key = tuple[str, Recipe, bool]  # name of the method, how it is scored, whether its usual error is taken off


@dataclass
class Readings:
    """What all methods say of a set of images."""

    scores: dict[Key, np.ndarray]  # (n,) of the slices
    pixels: dict[Key, PixelCounts]  # of the recipes that were asked for
    truth: np.ndarray  # (n,) bool: the slice shows lesion
    subjects: np.ndarray  # (n,)


class Reader:
    """Methods that know what is usual at each place, from held-out healthy images."""

    def __init__(
        self, maps: Callable[[torch.Tensor], Maps], own: Prepared, held_out: np.ndarray, recipes: list[Recipe]
    ) -> None:
        self.maps, self.recipes = maps, recipes
        self.blurs = sorted({recipe.blur for recipe in recipes})
        usual: dict[tuple[str, float], PixelErrors] = {}
        zones = zones_of(own)
        for part, batch in padded(own.images, held_out, own.card.encode_batch, torch.device("cpu")):
            inside = head(batch)[: len(part)]
            for name, raw in maps(batch[: len(part)]).items():
                for blur in self.blurs:
                    key, size = (name, blur), own.card.image.size
                    errors = usual.setdefault(key, PixelErrors(size, torch.device("cpu"), zones=ZONES))
                    errors.add(smoothed(raw, Recipe(blur=blur)), inside, zones[part])
        self.usual = {key: tuple(map(torch.from_numpy, each.statistics())) for key, each in usual.items()}

    def read(self, prepared: Prepared, masks: Masks | None = None, pixels: tuple[Recipe, ...] = ()) -> Readings:
        rows = prepared.rows("new", "labelled", "test")
        subjects = prepared.samples["group"].to_numpy(str)
        found: dict[Key, list[np.ndarray]] = {}
        counts: dict[Key, PixelCounts] = {}
        truth, zones = [], zones_of(prepared)
        for part, batch in padded(prepared.images, rows, prepared.card.encode_batch, torch.device("cpu")):
            batch = batch[: len(part)]
            inside = head(batch)
            lesion = masks.of(part) if masks else np.zeros(inside.shape, bool)
            truth.append(lesion.any(axis=(1, 2)))
            here = zones[part]
            for name, raw in self.maps(batch).items():
                for blur in self.blurs:
                    plain, (mean, spread) = smoothed(raw, Recipe(blur=blur)), self.usual[name, blur]
                    for less_usual, values in ((False, plain), (True, (plain - mean[here]) / spread[here])):
                        for recipe in [each for each in self.recipes if each.blur == blur]:
                            key = (name, recipe, less_usual)
                            found.setdefault(key, []).append(top_mean(values, inside=inside, share=recipe.top).numpy())
                            if recipe in pixels:
                                for row, each, kept, mask in zip(
                                    part, values.numpy(), inside.numpy(), lesion, strict=True
                                ):
                                    count = counts.setdefault(key, PixelCounts())
                                    count.add(subjects[row], each[kept], mask[kept])
        scores_ = {key: np.concatenate(parts) for key, parts in found.items()}
        return Readings(scores_, counts, np.concatenate(truth), subjects[rows])
