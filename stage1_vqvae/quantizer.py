"""The vector quantiser: a codebook of moving averages, and a gradient that gets past it.

van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning" (2017), appendix A.1, with two
departures: codes that nobody uses move to where they are needed (as in Dhariwal et al., "Jukebox", 2020, but drawn by
distance, since an MRI background would yield the same replacement many times), and no Laplace smoothing of the counts:
counts and sums start consistent, so the quotient is a mean of latents from the first step on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributed import ALONE, Share, World
from .kmeans import drawn_points, kmeans
from .nearest import distances_to, nearest

Gradient = Literal["rotation", "straight-through"]
SMALL = 1e-6  # a vector no longer than this has no direction


@dataclass(frozen=True)
class Quantized:
    """What one pass through the quantiser gives."""

    latents: Tensor  # (B, D, h, w) float32, before quantisation; carries the gradient of the commitment
    vectors: Tensor  # (B, D, h, w) float32, the codes; their gradient goes on to the latents
    indices: Tensor  # (B, R, h, w) long


class Quantizer(nn.Module):
    """A codebook (R, K, D): depth r codes what the depths before it left over, and a vector is the sum of its R codes.

    With R = 1 this is the plain quantiser; more depths are residual quantisation (Juang & Gray 1982; Zeghidour et al.,
    "SoundStream", 2021). `forward` looks codes up and changes nothing; `update` moves the codebook afterwards.
    """

    codebook: Tensor  # (R, K, D)
    counts: Tensor  # (R, K) moving average of how many tokens of a step each code gets
    sums: Tensor  # (R, K, D) moving average of the sum of those tokens

    def __init__(
        self,
        codes: int,
        dim: int,
        *,
        depth: int = 1,
        decay: float = 0.99,
        restart: float = 0.0,
        gradient: Gradient = "straight-through",
    ) -> None:
        super().__init__()
        self.codes, self.dim, self.depth, self.decay, self.restart = codes, dim, depth, decay, restart
        self.past = _Rotation if gradient == "rotation" else _StraightThrough
        start = torch.randn(depth, codes, dim)
        self.register_buffer("codebook", start)
        self.register_buffer("counts", torch.ones(depth, codes))
        self.register_buffer("sums", start.clone())

    def forward(self, latents: Tensor) -> Quantized:
        """Replace each of `latents` (B, D, h, w) by its nearest code, and what is left of it by the next depth's."""
        latents = latents.float()
        b, _, h, w = latents.shape
        left, chosen = tokens(latents.detach()), []
        for depth, codebook in enumerate(self.codebook):
            chosen.append(nearest(left, codebook))
            if depth + 1 < self.depth:
                left = left - codebook[chosen[-1]]
        indices = torch.stack(chosen, 1).view(b, h, w, self.depth).permute(0, 3, 1, 2)
        # The value is the code to the bit: latents + (codes - latents) would differ from it by rounding.
        return Quantized(latents, self.past.apply(latents, self.lookup(indices)), indices)

    def lookup(self, indices: Tensor) -> Tensor:
        """Vectors (B, D, h, w) float32 of `indices` (B, R, h, w): the sum over R, from the first depth on."""
        vectors = F.embedding(indices[:, 0], self.codebook[0])  # (B, h, w, D)
        for depth in range(1, self.depth):
            vectors = vectors + F.embedding(indices[:, depth], self.codebook[depth])
        return vectors.permute(0, 3, 1, 2)

    @torch.no_grad()
    def start(self, points: Tensor, *, tokens_per_step: int, generator: torch.Generator) -> None:
        """Put the codes on the k-means centres of `points` (N, D), with the counts of an average step."""
        left = points.float()
        for depth in range(self.depth):
            centres, counts = kmeans(left, self.codes, generator=generator)
            # A centre with few points counts as one token, so that its first token does not carry it away.
            self.place(depth, centres, (counts * (tokens_per_step / len(points))).clamp_min(1.0))
            if depth + 1 < self.depth:
                left = left - centres[nearest(left, centres)]

    @torch.no_grad()
    def place(self, depth: int, codes: Tensor, counts: Tensor) -> None:
        """Make `codes` (K, D) the codebook of a depth, each with the weight of `counts` (K,) tokens."""
        self.codebook[depth].copy_(codes)
        self.counts[depth].copy_(counts)
        self.sums[depth].copy_(codes * counts[:, None])

    @torch.no_grad()
    def update(
        self,
        quantized: Quantized,
        *,
        generator: torch.Generator,
        weight: Tensor | None = None,
        world: World = ALONE,
        share: Share | None = None,
    ) -> Tensor:
        """Move the codes towards the latents that chose them; returns how many codes were restarted (a scalar).

        A code whose average count falls below `restart` times an even share of the tokens moves onto a latent of this
        step, drawn with a chance proportional to its squared distance from its code, and starts anew with an even
        share. `weight` (a scalar) is that of this step in the averages: 1 - `decay` where nothing is said, and more
        early in a training, see `early`. No value is read back to the host, so that a GPU need not wait. With a
        `share` of the batch, the latents of all processes of the `world` count, and the codebook moves alike in all.
        """
        left = tokens(quantized.latents.detach())  # (N, D)
        owners = quantized.indices.permute(1, 0, 2, 3).reshape(self.depth, -1)  # (R, N)
        restarted = torch.zeros((), dtype=torch.long, device=left.device)
        for depth, owner in enumerate(owners):
            points = left
            if depth + 1 < self.depth:
                left = left - self.codebook[depth][owner]  # by the codes of the lookup, before they move
            restarted += self._update_depth(depth, points, owner, weight, generator, world, share)
        return restarted

    def _update_depth(
        self,
        depth: int,
        points: Tensor,
        owner: Tensor,
        weight: Tensor | None,
        generator: torch.Generator,
        world: World,
        share: Share | None,
    ) -> Tensor:
        """`update` of one depth: `points` (N, D) chose the codes `owner` (N,)."""
        codebook, counts, sums = self.codebook[depth], self.counts[depth], self.sums[depth]
        hits, added = world.sum(
            torch.bincount(owner, minlength=self.codes).to(points.dtype),
            torch.zeros_like(sums).index_add_(0, owner, points),
        )  # K (D + 1) numbers
        weight = counts.new_tensor(1 - self.decay) if weight is None else weight
        counts.lerp_(hits, weight)
        sums.lerp_(added, weight)
        # An unused code keeps its place: counts and sums fade alike. Below 1e-12 the quotient would lose its digits.
        alive = counts > 1e-12
        codebook.copy_(torch.where(alive[:, None], sums / counts.clamp_min(1e-12)[:, None], codebook))
        if self.restart == 0:
            return torch.zeros((), dtype=torch.long, device=points.device)

        even = (len(points) // len(share) * share.total if share else len(points)) / self.codes
        dead = counts < self.restart * even
        far = distances_to(points, codebook, owner)
        drawn = drawn_points(points, far, self.codes, generator=generator, world=world, share=share)
        rank = dead.cumsum(0) - 1  # the n-th dead code takes the n-th latent drawn
        dead &= rank < len(drawn)
        fresh = drawn[rank.clamp(0, len(drawn) - 1)]  # (K, D), read only where dead
        codebook.copy_(torch.where(dead[:, None], fresh, codebook))
        counts.copy_(torch.where(dead, even, counts))
        sums.copy_(torch.where(dead[:, None], fresh * even, sums))
        return dead.sum()


def early(step: Tensor, decay: float) -> Tensor:
    """Weight of step number `step` (a scalar, from 0) in the averages of the codebook.

    They reach back over 50 steps at first and over one more with every tenth step, up to 1 / (1 - `decay`): the encoder
    moves fast in the beginning, and codes that are averages over hundreds of steps would stay behind.

    >>> [round(float(early(torch.tensor(step), 0.9975)), 4) for step in (0, 500, 1500, 5000)]
    [0.02, 0.01, 0.005, 0.0025]
    """
    return (10 / (500 + step.float())).clamp_min(1 - decay)


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


class _Rotation(torch.autograd.Function):
    """Forward: the codes. Backward: the gradient is turned and scaled as the codes are from the latents.

    Fifty et al., "Restructuring vector quantization with the rotation trick" (2024): with R the rotation that takes the
    direction of a latent e to that of its code q, the code is |q| / |e| R e, and that matrix is taken for a constant.
    The angle between gradient and code becomes the one between gradient and latent, so latents on different sides of a
    code are moved differently. Handed on unchanged, the gradient drives latents outwards in a long training, the codes
    lag behind, and many die (docs/experiments.md).
    """

    @staticmethod
    def forward(ctx: Any, latents: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(latents, codes)
        return codes.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        latents, codes = ctx.saved_tensors  # (B, D, h, w)
        length, of_code = latents.norm(dim=1, keepdim=True), codes.norm(dim=1, keepdim=True)
        e, q = latents / length.clamp_min(SMALL), codes / of_code.clamp_min(SMALL)
        middle = F.normalize(e + q, dim=1)
        # The transpose of R = 1 - 2 m m' + 2 q e', with m the direction in the middle: two reflections.
        turned = gradient - 2 * middle * _along(middle, gradient) + 2 * e * _along(q, gradient)
        both = (length > SMALL) & (of_code > SMALL)
        return torch.where(both, turned * (of_code / length.clamp_min(SMALL)), gradient), None


def _along(direction: Tensor, vectors: Tensor) -> Tensor:
    """Inner products over the channels (B, 1, h, w)."""
    return (direction * vectors).sum(1, keepdim=True)
