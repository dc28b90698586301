"""Random views of images: crops, flips, turns, brightness, contrast and colour, a whole batch at a time.

What is random is drawn first (`draw`) and applied after (`apply`), so that a view can be replayed. All of a batch goes
through one bilinear resampling and a few products of whole tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit_datasets.card_stages import Views

from .distributed import Share, share_of


@dataclass(frozen=True)
class Draw:
    """What was drawn for n views."""

    place: Tensor  # (n, 2, 3) affine map from a view's coordinates in [-1, 1] to the image's
    brightness: Tensor  # (n,) factor
    contrast: Tensor  # (n,) factor about the view's mean
    saturation: Tensor  # (n,) factor about each pixel's grey; 0: no colour
    tint: Tensor  # (n, C) shift


def draw(n: int, channels: int, settings: Views, *, generator: torch.Generator, share: Share | None = None) -> Draw:
    """Draw `n` views of images with `channels` channels; tensors lie on the generator's device.

    Of a batch shared by several processes, `n` counts all images, and those of the `share` come back.
    """
    device = generator.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator, device=device) * (high - low) + low

    def factor(spread: float) -> Tensor:
        return uniform(1 - spread, 1 + spread)

    side = uniform(*settings.area).sqrt()
    stretch = (uniform(-1, 1) * math.log(settings.aspect) / 2).exp()
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    mirror = torch.where((uniform(0, 1) < 0.5) & settings.flip, -1.0, 1.0)
    angle = uniform(-1, 1) * math.radians(settings.rotate)
    place = torch.zeros(n, 2, 3, device=device)
    place[:, 0, 0], place[:, 0, 1] = mirror * width * angle.cos(), -height * angle.sin()
    place[:, 1, 0], place[:, 1, 1] = mirror * width * angle.sin(), height * angle.cos()
    place[:, 0, 2], place[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    drawn = Draw(
        place=place,
        brightness=factor(settings.brightness),
        contrast=factor(settings.contrast),
        saturation=torch.where(uniform(0, 1) < settings.grey, 0.0, factor(settings.saturation)),
        tint=torch.randn(n, channels, generator=generator, device=device) * settings.tint,
    )
    return Draw(**{name: share_of(values, share) for name, values in vars(drawn).items()})


def apply(images: Tensor, drawn: Draw, *, size: int) -> Tensor:
    """The views of `images` (n, C, H, W) in [0, 1] that were drawn: (n, C, size, size) in [0, 1].

    What lies outside an image is filled with its mirror image.
    """
    grid = F.affine_grid(drawn.place, [len(images), images.shape[1], size, size], align_corners=False)
    x = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    x = x * _wide(drawn.brightness)
    x = x.lerp(x.mean((1, 2, 3), keepdim=True), 1 - _wide(drawn.contrast))
    if x.shape[1] > 1:
        x = x.lerp(x.mean(1, keepdim=True), 1 - _wide(drawn.saturation))
    return (x + drawn.tint[:, :, None, None]).clamp_(0, 1)


def _wide(values: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1)."""
    return values[:, None, None, None]
