"""k-means with a k-means++ start: where the codebook begins (Arthur & Vassilvitskii 2007; Bahmani et al. 2012)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributed import Share, World
from .nearest import nearest

MOST_ROUNDS = 512
"""Rounds of the start. Up to this many codes each round draws one centre, which is k-means++ to the letter; larger
codebooks draw several per round (k-means||), or 65,536 codes would take 65,536 passes over the points."""


def kmeans(points: Tensor, k: int, *, generator: torch.Generator, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Centres (K, D) of `points` (N, D) float32, and how many points each one has (K,) float32.

    With fewer distinct points than centres some centres coincide, and all but one of them count zero points.
    """
    centres = spread(points, k, generator=generator)
    counts = torch.zeros(k, device=points.device)
    for _ in range(iterations):
        owner = nearest(points, centres)
        counts = torch.bincount(owner, minlength=k).to(points.dtype)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
    return centres, torch.bincount(nearest(points, centres), minlength=k).to(points.dtype)


def spread(points: Tensor, k: int, *, generator: torch.Generator) -> Tensor:
    """k-means++ seeding: `k` of `points` (N, D), each drawn with a chance proportional to its squared distance."""
    first = torch.randint(len(points), (1,), generator=generator, device=points.device)
    centres = points[first]
    norms = points.square().sum(1)
    squared = _squared_distances(points, norms, centres)
    per_round = -(-k // MOST_ROUNDS)
    while len(centres) < k:
        new = points[weighted_choice(squared, min(per_round, k - len(centres)), generator=generator)]
        centres = torch.cat([centres, new])
        squared = torch.minimum(squared, _squared_distances(points, norms, new))
    return centres


def _squared_distances(points: Tensor, norms: Tensor, centres: Tensor) -> Tensor:
    """Squared distance (N,) to the nearest of a few `centres`; rounding is of no account in a chance to be drawn."""
    return (norms + (centres.square().sum(1) - 2 * (points @ centres.t())).amin(1)).clamp_min(0)


def weighted_choice(weights: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    """min(n, N) different places (long), drawn one after another with chances proportional to `weights` (N,) >= 0.

    The smallest of Exponential(1) / weight win (Efraimidis & Spirakis 2006): unlike `torch.multinomial` this has no
    limit of 2^24 places, and places of weight zero come last instead of being an error.
    """
    race = torch.empty_like(weights).exponential_(generator=generator) / weights
    return race.topk(min(n, len(weights)), largest=False).indices


def drawn_points(
    points: Tensor, weights: Tensor, n: int, *, generator: torch.Generator, world: World, share: Share | None
) -> Tensor:
    """The rows of `points` (N, D) at the places of `weighted_choice`; among several processes, of the points of all.

    `points` are those of the images of the `share`, as many of each image. All processes run one race: each knows its
    own part of it, and hands in its n fastest.
    """
    if world.size == 1 or share is None:
        return points[weighted_choice(weights, n, generator=generator)]
    each = len(points) // len(share)
    race = torch.empty(each * share.total, device=weights.device).exponential_(generator=generator)
    mine = race[each * share.start : each * share.stop] / weights
    times, places = mine.topk(min(n, len(mine)), largest=False)
    entered = times.new_zeros(world.size, n)
    entered[world.rank] = F.pad(times, (0, n - len(times)), value=torch.inf)
    (entered,) = world.sum(entered)
    winners = entered.view(-1).topk(min(n, each * share.total), largest=False).indices
    places = F.pad(places, (0, n - len(places)))[winners % n]
    found = torch.where((winners // n == world.rank)[:, None], points[places], 0.0)
    return world.sum(found)[0]
