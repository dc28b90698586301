"""The VQ-VAE: images in, codes in the middle, images out."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from toolkit_datasets.card import Card
from toolkit_datasets.codes import Level

from .networks import decoder, encoder
from .quantizer import Quantized, Quantizer

LEVEL = "codes"
"""The name of the one level that this model has."""


class VQVAE(nn.Module):
    """Encoder, quantiser and decoder of one card, with the brightness that its training images have.

    Inside, images are (B, C, H, W) with mean 0 and variance 1 over the training set; `normalise` and `pixels` go in
    and out of that. A mean squared error in there is the normalised one: 1 is what the mean image scores.
    """

    mean: Tensor  # (C, 1, 1) of the training images in [0, 1]
    deviation: Tensor  # scalar, of all channels together about their means

    def __init__(self, card: Card) -> None:
        super().__init__()
        image, settings = card.image, card.vqvae
        self.size, self.channels, self.stride = image.size, image.channels, settings.stride
        shape = {"channels": image.channels, "stride": settings.stride, "width": settings.width}
        self.encoder = encoder(**shape, blocks=settings.blocks, dim=settings.code_dim)
        self.quantizer = Quantizer(
            settings.codebook_size, settings.code_dim, decay=settings.decay, restart=settings.restart
        )
        self.decoder = decoder(**shape, blocks=settings.blocks, dim=settings.code_dim)
        self.register_buffer("mean", torch.full((image.channels, 1, 1), 0.5))
        self.register_buffer("deviation", torch.tensor(0.25))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 with mean 0 and variance 1 over the training images."""
        return (images.float() / 255 - self.mean) / self.deviation

    def pixels(self, decoded: Tensor) -> Tensor:
        """What the decoder gives (B, C, H, W) -> float32 in [0, 1]."""
        return (decoded.float() * self.deviation + self.mean).clamp(0, 1)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) -> latents (B, D, h, w) float32, before quantisation."""
        latents: Tensor = self.encoder(self.normalise(images))
        return latents.float()

    def quantize(self, latents: Tensor) -> Quantized:
        """Latents (B, D, h, w) -> their codes."""
        quantized: Quantized = self.quantizer(latents)
        return quantized

    def decode(self, vectors: Tensor) -> Tensor:
        """Codes (B, D, h, w) -> float32 images in [0, 1] (B, C, H, W)."""
        return self.pixels(self.decoder(vectors))

    def measure(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Take mean and deviation from `images[rows]` (N, H, W, C) uint8; at most 10,000 of them, evenly spaced."""
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 10_000)).astype(int))]
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
    def grid(self) -> int:
        """Codes along each side of an image."""
        return self.size // self.stride

    @property
    def levels(self) -> tuple[Level, ...]:
        """The code arrays of this model, as the code store names them."""
        codes, dim = self.quantizer.codes, self.quantizer.dim
        return (Level(name=LEVEL, depth=1, codes=codes, dim=dim, height=self.grid, width=self.grid),)

    @property
    def codebooks(self) -> dict[str, np.ndarray]:
        """Level name -> codebook (R, K, D) float32."""
        return {LEVEL: self.quantizer.codebook.detach().cpu().numpy()[None]}

    @property
    def bits_per_pixel(self) -> float:
        """log2(K) bits per code, over the image's pixels (not its channels): all that a decoder needs."""
        return math.log2(self.quantizer.codes) * self.grid**2 / self.size**2

    @property
    def parameter_count(self) -> int:
        """Trained numbers, codebook included."""
        return sum(p.numel() for p in self.parameters()) + self.quantizer.codebook.numel()


def build(card: Card, *, seed: int) -> VQVAE:
    """An untrained model whose weights depend on `seed` alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = VQVAE(card)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
