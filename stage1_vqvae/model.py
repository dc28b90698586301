"""The VQ-VAE: images in, codes in the middle, images out."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit_datasets.card import Card
from toolkit_datasets.codes import Level

from .coarse import Coarse
from .networks import decoder, encoder
from .quantizer import Quantized, Quantizer

CODES, FINE, COARSE = "codes", "fine", "coarse"
"""Names of levels: a plain VQ-VAE has `codes`; one with a coarse level has `fine` and `coarse`."""

Levels = dict[str, Tensor]
"""A tensor for each level, by its name."""


class VQVAE(nn.Module):
    """Encoder, quantiser and decoder of one card, with the brightness that its training images have.

    Inside, images are (B, C, H, W) with mean 0 and variance 1 over the training set; `normalise` and `pixels` go in
    and out of that. A mean squared error in there is the normalised one: 1 is what the mean image scores.

    With the objective `agree` there is a second, coarse level, whose codes the decoder sees too (as the top level of
    Razavi et al., "VQ-VAE-2", 2019).
    """

    mean: Tensor  # (C, 1, 1) of the training images in [0, 1]
    deviation: Tensor  # scalar, of all channels together about their means

    def __init__(self, card: Card) -> None:
        super().__init__()
        image, settings = card.image, card.vqvae
        self.size, self.channels, self.stride = image.size, image.channels, settings.stride
        self.coarse = Coarse(card) if card.train.objective == "agree" else None
        self.fine = FINE if self.coarse else CODES
        shape = {"channels": image.channels, "stride": settings.stride, "width": settings.width}
        self.encoder = encoder(**shape, blocks=settings.blocks, dim=settings.code_dim)
        self.quantizer = Quantizer(
            settings.codebook_size,
            settings.code_dim,
            depth=settings.depth,
            decay=settings.decay,
            restart=settings.restart,
        )
        if self.coarse:
            self.context = nn.Conv2d(self.coarse.quantizer.dim, settings.code_dim, 1)
        self.decoder = decoder(**shape, blocks=settings.blocks, dim=settings.code_dim * (2 if self.coarse else 1))
        self.register_buffer("mean", torch.full((image.channels, 1, 1), 0.5))
        self.register_buffer("deviation", torch.tensor(0.25))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 with mean 0 and variance 1 over the training images."""
        return (images.float() / 255 - self.mean) / self.deviation

    def pixels(self, decoded: Tensor) -> Tensor:
        """What the decoder gives (B, C, H, W) -> float32 in [0, 1]."""
        return (decoded.float() * self.deviation + self.mean).clamp(0, 1)

    def encode(self, images: Tensor) -> Levels:
        """uint8 images (B, C, H, W) -> each level's latents (B, D, h, w) float32, before quantisation."""
        normal = self.normalise(images)
        latents = {self.fine: self.encoder(normal).float()}
        if self.coarse:
            latents[COARSE] = self.coarse(normal)
        return latents

    def quantize(self, latents: Levels) -> dict[str, Quantized]:
        """Each level's latents (B, D, h, w) -> its codes."""
        return {name: self.quantizers[name](values) for name, values in latents.items()}

    def decode(self, vectors: Levels) -> Tensor:
        """Each level's codes (B, D, h, w) -> float32 images in [0, 1] (B, C, H, W)."""
        return self.pixels(self.decoder(self.joined(vectors)))

    def joined(self, vectors: Levels) -> Tensor:
        """What the decoder sees (B, D or 2 D, h, w): the fine codes, and beside them the coarse ones spread out."""
        fine = vectors[self.fine]
        if not self.coarse:
            return fine
        context = F.interpolate(self.context(vectors[COARSE]), size=fine.shape[2:], mode="nearest")
        return torch.cat([fine, context.to(fine.dtype)], 1)

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
        """Fine codes along each side of an image."""
        return self.size // self.stride

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """Level name -> its quantiser, in the order of the code store."""
        return {self.fine: self.quantizer, **({COARSE: self.coarse.quantizer} if self.coarse else {})}

    @property
    def levels(self) -> tuple[Level, ...]:
        """The code arrays of this model, as the code store names them."""
        grids = {self.fine: self.grid, COARSE: self.coarse.grid if self.coarse else 0}
        return tuple(
            Level(name, depth=each.depth, codes=each.codes, dim=each.dim, height=grids[name], width=grids[name])
            for name, each in self.quantizers.items()
        )

    @property
    def codebooks(self) -> dict[str, np.ndarray]:
        """Level name -> codebook (R, K, D) float32."""
        return {name: each.codebook.detach().cpu().numpy() for name, each in self.quantizers.items()}

    @property
    def bits_per_pixel(self) -> float:
        """log2(K) bits per code of every level, over the image's pixels (not its channels): all a decoder needs."""
        return sum(level.bits for level in self.levels) / self.size**2

    @property
    def parameter_count(self) -> int:
        """Trained numbers, codebooks included."""
        learned = sum(p.numel() for p in self.parameters())
        return learned + sum(each.codebook.numel() for each in self.quantizers.values())


def build(card: Card, *, seed: int) -> VQVAE:
    """An untrained model whose weights depend on `seed` alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = VQVAE(card)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
