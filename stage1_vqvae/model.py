"""The VQ-VAE: images in, codes in the middle, images out; and how a card's model is made."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit_datasets.card import Card
from toolkit_datasets.codes import Level

from . import thesis
from .autoencoder import Autoencoder, Levels
from .coarse import Coarse
from .networks import decoder, encoder
from .patterns import PatternLevel
from .quantizer import Quantizer
from .transform import TransformLevel
from .vae import VAE

CODES, FINE = "codes", "fine"
"""Names of levels: a plain VQ-VAE has `codes`; one with a coarse level `fine`, `coarse` and mostly `patterns`."""


class VQVAE(Autoencoder):
    """Encoder, quantiser and decoder.

    With the objective `agree` there are further levels that sum the picture up; the decoder sees their codes too (as
    the top level of Razavi et al., "VQ-VAE-2", 2019).
    """

    kind = "vqvae"

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        image, settings = card.image, card.vqvae
        self.stride = settings.stride
        agrees = card.train.objective == "agree"
        self.coarse = Coarse(card) if agrees else None
        self.patterns = PatternLevel(card) if agrees and card.coarse.patterns else None
        self.fine = FINE if agrees else CODES
        seen = settings.code_dim * (2 if agrees else 1)  # D of what the decoder gets
        if settings.network == "thesis":
            self.encoder = thesis.vqvae_encoder(image.channels, settings.code_dim)
        else:
            shape = {"channels": image.channels, "stride": settings.stride, "width": settings.width}
            self.encoder = encoder(**shape, blocks=settings.blocks, dim=settings.code_dim)
        self.quantizer = Quantizer(
            settings.codebook_size,
            settings.code_dim,
            depth=settings.depth,
            decay=settings.decay,
            restart=settings.restart,
            gradient=card.gradient,
        )
        if self.summaries:
            width = sum(level.quantizer.dim for level in self.summaries)
            self.context = nn.Conv2d(width, settings.code_dim, 1)
        if settings.network == "thesis":
            self.decoder = thesis.vqvae_decoder(image.channels, seen)
            thesis.start_as_keras(self.encoder, self.decoder)
        else:
            self.decoder = decoder(**shape, blocks=settings.blocks, dim=seen)

    def encode(self, images: Tensor) -> Levels:
        """uint8 images (B, C, H, W) -> each level's latents (B, D, h, w) float32, before quantisation."""
        normal = self.normalise(images)
        return {self.fine: self.encoder(normal).float(), **{level.name: level(normal) for level in self.summaries}}

    def decode(self, vectors: Levels) -> Tensor:
        """Each level's codes (B, D, h, w) -> float32 images in [0, 1] (B, C, H, W)."""
        return self.pixels(self.decoder(self.joined(vectors)))

    def joined(self, vectors: Levels) -> Tensor:
        """What the decoder sees (B, D or 2 D, h, w): the fine codes, and beside them the others spread out."""
        fine = vectors[self.fine]
        if not self.summaries:
            return fine
        others = torch.cat([vectors[level.name] for level in self.summaries], 1)
        context = F.interpolate(self.context(others), size=fine.shape[2:], mode="nearest")
        return torch.cat([fine, context.to(fine.dtype)], 1)

    @property
    def grid(self) -> int:
        """Fine codes along each side of an image."""
        return self.size // self.stride

    @property
    def summaries(self) -> tuple[TransformLevel, ...]:
        """The levels that sum the picture up, in the order of the code store; none of a plain VQ-VAE."""
        return tuple(level for level in (self.coarse, self.patterns) if level is not None)

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """Level name -> its quantiser, in the order of the code store."""
        return {self.fine: self.quantizer, **{level.name: level.quantizer for level in self.summaries}}

    @property
    def levels(self) -> tuple[Level, ...]:
        """The code arrays of this model, as the code store names them."""
        grids = {self.fine: self.grid, **{level.name: level.grid for level in self.summaries}}
        return tuple(
            Level(name, depth=each.depth, codes=each.codes, dim=each.dim, height=grids[name], width=grids[name])
            for name, each in self.quantizers.items()
        )


def untrained(card: Card) -> Autoencoder:
    """The model that the card asks for, with whatever weights the global random state gives."""
    return VAE(card) if card.train.objective == "vae" else VQVAE(card)


def build(card: Card, *, seed: int) -> Autoencoder:
    """An untrained model whose weights depend on `seed` alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = untrained(card)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def levels_of(card: Card) -> tuple[Level, ...]:
    """The levels that the card's model will write, without the time and memory that its weights would take."""
    with torch.device("meta"):
        return untrained(card).levels
