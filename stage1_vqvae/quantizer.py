"""The vector quantiser: a codebook of moving averages with a straight-through gradient.

van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning" (2017), appendix A.1, with two
departures: codes that nobody uses move to where they are needed (as in Dhariwal et al., "Jukebox", 2020, but drawn by
distance, since an MRI background would yield the same replacement many times), and no Laplace smoothing of the counts:
counts and sums start consistent, so the quotient is a mean of latents from the first step on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .kmeans import kmeans, weighted_choice
from .nearest import distances_to, nearest


@dataclass(frozen=True)
class Quantized:
    """What one pass through the quantiser gives."""

    latents: Tensor  # (B, D, h, w) float32, before quantisation; carries the gradient of the commitment
    vectors: Tensor  # (B, D, h, w) float32, the codes; their gradient goes straight through to the latents
    indices: Tensor  # (B, R, h, w) long


class Quantizer(nn.Module):
    """A codebook (K, D). `forward` looks codes up and changes nothing; `update` moves the codebook afterwards."""

    codebook: Tensor  # (K, D)
    counts: Tensor  # (K,) moving average of how many tokens of a step each code gets
    sums: Tensor  # (K, D) moving average of the sum of those tokens

    def __init__(self, codes: int, dim: int, *, decay: float, restart: float) -> None:
        super().__init__()
        self.codes, self.dim, self.decay, self.restart = codes, dim, decay, restart
        start = torch.randn(codes, dim)
        self.register_buffer("codebook", start)
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", start.clone())

    def forward(self, latents: Tensor) -> Quantized:
        """Replace each of `latents` (B, D, h, w) by its nearest code."""
        latents = latents.float()
        b, _, h, w = latents.shape
        indices = nearest(tokens(latents.detach()), self.codebook).view(b, 1, h, w)
        codes = self.lookup(indices)
        # The value is the code to the bit: latents + (codes - latents) would differ from it by rounding.
        return Quantized(latents, _StraightThrough.apply(latents, codes), indices)

    def lookup(self, indices: Tensor) -> Tensor:
        """Vectors (B, D, h, w) float32 of `indices` (B, R, h, w)."""
        return self.codebook[indices[:, 0]].permute(0, 3, 1, 2)  # (B, h, w, D) -> (B, D, h, w)

    @torch.no_grad()
    def start(self, points: Tensor, *, tokens_per_step: int, generator: torch.Generator) -> None:
        """Put the codes on the k-means centres of `points` (N, D), with the counts of an average step."""
        centres, counts = kmeans(points.float(), self.codes, generator=generator)
        # A centre with few points counts as one token, so that its first token does not carry it away.
        counts = (counts * (tokens_per_step / len(points))).clamp_min(1.0)
        self.codebook.copy_(centres)
        self.counts.copy_(counts)
        self.sums.copy_(centres * counts[:, None])

    @torch.no_grad()
    def update(self, quantized: Quantized, *, generator: torch.Generator) -> Tensor:
        """Move the codes towards the latents that chose them; returns how many codes were restarted (a scalar).

        A code whose average count falls below `restart` times an even share of the tokens moves onto a latent of this
        step, drawn with a chance proportional to its squared distance from its code, and starts anew with an even
        share. No value is read back to the host, so that a GPU need not wait.
        """
        points = tokens(quantized.latents.detach())  # (N, D)
        owner = quantized.indices.reshape(-1)  # (N,)
        counts = torch.bincount(owner, minlength=self.codes).to(points.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, owner, points)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        # An unused code keeps its place: counts and sums fade alike. Below 1e-12 the quotient would lose its digits.
        alive = self.counts > 1e-12
        means = self.sums / self.counts.clamp_min(1e-12)[:, None]
        self.codebook.copy_(torch.where(alive[:, None], means, self.codebook))
        if self.restart == 0:
            return torch.zeros((), dtype=torch.long, device=points.device)

        even = len(points) / self.codes
        dead = self.counts < self.restart * even
        chosen = weighted_choice(distances_to(points, self.codebook, owner), self.codes, generator=generator)
        rank = dead.cumsum(0) - 1  # the n-th dead code takes the n-th latent drawn
        dead &= rank < len(chosen)
        fresh = points[chosen[rank.clamp(0, len(chosen) - 1)]]  # (K, D), read only where dead
        self.codebook.copy_(torch.where(dead[:, None], fresh, self.codebook))
        self.counts.copy_(torch.where(dead, even, self.counts))
        self.sums.copy_(torch.where(dead[:, None], fresh * even, self.sums))
        return dead.sum()


def tokens(latents: Tensor) -> Tensor:
    """The vectors of `latents` (B, D, h, w) as rows (B h w, D), image after image."""
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])


class _StraightThrough(torch.autograd.Function):
    """Forward: the codes. Backward: the gradient of the codes is handed to the latents unchanged."""

    @staticmethod
    def forward(ctx: object, latents: Tensor, codes: Tensor) -> Tensor:
        return codes.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
