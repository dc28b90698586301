"""What every model of stage 1 is: images in, latents in the middle, images out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from toolkit_datasets.card import Card
from toolkit_datasets.codes import Level

from .batches import evenly
from .quantizer import Quantized, Quantizer

Levels = dict[str, Tensor]
"""A tensor for each level, by its name."""


class Autoencoder(nn.Module, ABC):
    """The model of one card, with the brightness that its training images have.

    Inside, images are (B, C, H, W) with mean 0 and variance 1 over the training set; `normalise` and `pixels` go in
    and out of that. A mean squared error in there is the normalised one: 1 is what the mean image scores.

    Images are encoded and rebuilt in evaluation mode (`eval`): a batch norm averages over the batch while it trains.
    """

    kind: ClassVar[Literal["vqvae", "vae"]]
    mean: Tensor  # (C, 1, 1) of the training images in [0, 1]
    deviation: Tensor  # scalar, of all channels together about their means

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.size, self.channels = card.image.size, card.image.channels
        self.register_buffer("mean", torch.full((self.channels, 1, 1), 0.5))
        self.register_buffer("deviation", torch.tensor(0.25))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 with mean 0 and variance 1 over the training images."""
        return (images.float() / 255 - self.mean) / self.deviation

    def pixels(self, decoded: Tensor) -> Tensor:
        """What the decoder gives (B, C, H, W) -> float32 in [0, 1]."""
        return (decoded.float() * self.deviation + self.mean).clamp(0, 1)

    @abstractmethod
    def encode(self, images: Tensor) -> Levels:
        """uint8 images (B, C, H, W) -> each level's latents (B, D, h, w) float32, before quantisation."""

    def quantize(self, latents: Levels) -> dict[str, Quantized]:
        """The codes of each level that has any, from its latents (B, D, h, w)."""
        return {name: each(latents[name]) for name, each in self.quantizers.items()}

    def vectors(self, latents: Levels) -> Levels:
        """What the decoder is to see of each level (B, D, h, w): its codes, or its latents where it has none."""
        return latents | {name: each.vectors for name, each in self.quantize(latents).items()}

    @abstractmethod
    def decode(self, vectors: Levels) -> Tensor:
        """Each level's `vectors` (B, D, h, w) -> float32 images in [0, 1] (B, C, H, W)."""

    def measure(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Take mean and deviation from `images[rows]` (N, H, W, C) uint8; at most 10,000 of them, evenly spaced."""
        rows = evenly(rows, 10_000)
        counts = np.zeros((self.channels, 256))  # histograms: exact sums, whatever the order
        for start in range(0, len(rows), 256):
            part = images[rows[start : start + 256]]
            for channel in range(self.channels):
                counts[channel] += np.bincount(part[..., channel].reshape(-1), minlength=256)
        values = np.arange(256) / 255
        share = counts / counts.sum(1, keepdims=True)
        mean = share @ values  # (C,)
        variance = (share * (values - mean[:, None]) ** 2).sum(1).mean()
        self.mean.copy_(torch.from_numpy(mean.astype(np.float32))[:, None, None])
        self.deviation.fill_(max(float(np.sqrt(variance)), 1 / 255))  # constant images: one grey level

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """Level name -> its quantiser, in the order of the code store; empty where nothing is quantised."""
        return {}

    @property
    @abstractmethod
    def levels(self) -> tuple[Level, ...]:
        """The code arrays of this model, as the code store names them."""

    @property
    def codebooks(self) -> dict[str, np.ndarray]:
        """Level name -> codebook (R, K, D) float32."""
        return {name: each.codebook.detach().cpu().numpy() for name, each in self.quantizers.items()}

    @property
    def bits_per_pixel(self) -> float:
        """Bits of every level (see `Level.bits`) over the image's pixels, not its channels: all a decoder needs."""
        return sum(level.bits for level in self.levels) / self.size**2

    @property
    def parameter_count(self) -> int:
        """Trained numbers, codebooks included."""
        learned = sum(p.numel() for p in self.parameters())
        return learned + sum(each.codebook.numel() for each in self.quantizers.values())
