"""The VAE: images in, a vector of numbers in the middle, images out (Kingma & Welling, 2014).

The encoder gives each image a normal distribution, independent in each of D numbers; in training the decoder sees a
draw from it, otherwise its mean, which is also what is exported: the level `latents` (D, 1, 1), without a codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit_datasets.card import Card
from toolkit_datasets.codes import Level

from . import thesis
from .autoencoder import Autoencoder, Levels
from .distributed import Share, share_of
from .networks import decoder, encoder

LATENTS = "latents"
MAP_CHANNELS = 32  # of the map between convolutions and dense layers: 64 px at stride 8 are 2,048 numbers, not 8,192


@dataclass(frozen=True)
class Posterior:
    """q(z | x) of B images: independent normal distributions in float32."""

    mean: Tensor  # (B, D)
    log_variance: Tensor  # (B, D)

    def draw(self, *, generator: torch.Generator, share: Share | None = None) -> Tensor:
        """One z (B, D) of each image, through which gradients reach mean and variance (ibid., section 2.4)."""
        total, dim = share.total if share else len(self.mean), self.mean.shape[1]
        noise = torch.randn(total, dim, generator=generator, device=self.mean.device)
        return self.mean + (self.log_variance / 2).exp() * share_of(noise, share)


class Encoder(nn.Module):
    """Convolutions, then two dense layers side by side on the flattened map: mean and log variance."""

    def __init__(self, trunk: nn.Module, features: int, dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.mean, self.log_variance = nn.Linear(features, dim), nn.Linear(features, dim)

    def forward(self, images: Tensor) -> Posterior:
        """Normalised images (B, C, H, W) -> what the latents may be."""
        flat = self.trunk(images).flatten(1)  # (B, c h w)
        return Posterior(self.mean(flat).float(), self.log_variance(flat).float())


class VAE(Autoencoder):
    """Encoder and decoder, of the toolkit's own networks or of the thesis's (see thesis.py)."""

    kind = "vae"

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        settings, side = card.vae, card.image.size // card.vae.stride
        self.dim = settings.latent_dim
        if settings.network == "thesis":
            channels = thesis.VAE_CHANNELS[-1]
            trunk, back = thesis.vae_trunk(self.channels), thesis.vae_decoder(self.channels)
        else:
            channels = MAP_CHANNELS
            shape = {"channels": self.channels, "stride": settings.stride, "width": settings.width}
            trunk = encoder(**shape, blocks=settings.blocks, dim=channels)
            back = decoder(**shape, blocks=settings.blocks, dim=channels)
        features = channels * side**2
        self.encoder = Encoder(trunk, features, self.dim)
        self.decoder = nn.Sequential(
            nn.Linear(self.dim, features), nn.Unflatten(1, (channels, side, side)), *back
        )  # (B, D) -> (B, C, H, W)
        if settings.network == "thesis":
            thesis.start_as_keras(self.encoder, self.decoder)

    def posterior(self, normal: Tensor) -> Posterior:
        """What the latents of normalised images (B, C, H, W) may be."""
        found: Posterior = self.encoder(normal)
        return found

    def encode(self, images: Tensor) -> Levels:
        """uint8 images (B, C, H, W) -> the means of their latents (B, D, 1, 1) float32."""
        return {LATENTS: self.posterior(self.normalise(images)).mean[:, :, None, None]}

    def decode(self, vectors: Levels) -> Tensor:
        """Latents (B, D, 1, 1) -> float32 images in [0, 1] (B, C, H, W)."""
        return self.pixels(self.decoder(vectors[LATENTS].flatten(1)))

    @property
    def levels(self) -> tuple[Level, ...]:
        """One level without a codebook."""
        return (Level(LATENTS, depth=1, codes=0, dim=self.dim, height=1, width=1),)
