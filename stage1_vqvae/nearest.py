"""The nearest code of each vector: exact, in bounded memory, and hardly slower than one matrix product.

Letters: N vectors, K codes, D dimensions; T vectors of a block, g codes of a group, G = K / g groups.

- **One matrix product.** ||x - e||^2 / 2 is ||x||^2 / 2, which is the same for all codes, plus the *score*
  ||e||^2 / 2 - x.e. With a 1 beside each x and ||e||^2 / 2 beside each -e, the product of the two is the score.
- **Memory.** Blocks of vectors share one buffer of K x T scores that stays in the processor's cache. The full table of
  64 images of 128x128 at stride 4 with 1,024 codes would take 256 MB.
- **The smallest score.** To find where it is, torch looks at one number after another; `amin`, which finds how small it
  is, looks at 16 at once. So `amin` goes over the groups, and `min` over the G smallest scores of the groups, then over
  the g scores within the best group.
- **Exact.** A score in float32 is off by its rounding at most, for which there is a bound (`_rounding`). Where the
  second smallest score is so near that rounding may have exchanged the two, float64 decides: there the product of two
  float32 numbers is exact. So the outcome depends on the numbers alone, not on block size, threads or library.

Candidates from a product in bfloat16 would not pay: see docs/decisions/0011-speed.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**19
"""Scores in the buffer (2 MB in float32): enough for a fast product, few enough to stay in cache."""

NARROWEST = 64
"""Vectors of a block at least, however many codes there are: the product is slow with fewer."""

GROUP = 16
"""Codes in a group, about where little time goes into the G minima and the g scores for 256 to 4,096 codes."""


def nearest(vectors: Tensor, codebook: Tensor, *, block: int = BLOCK) -> Tensor:
    """Index (N,) long of the code in `codebook` (K, D) closest to each of `vectors` (N, D), both float32.

    On a CPU the outcome is that of a search in float64, and of codes that float64 cannot tell apart any one; vectors
    that hold NaN get any index. Elsewhere scores are compared as they are in float32, because asking which ones are in
    doubt would make the host wait for the device. Memory beside the inputs is `block` scores (or those of 64 vectors),
    a copy of the codebook and a few numbers for each vector; those in doubt are copied. Runs in float32 under autocast
    too: in bfloat16, with 8 bits of mantissa, neighbouring codes could not be told apart.
    """
    with torch.autocast(device_type=vectors.device.type, enabled=False), torch.no_grad():
        if vectors.device.type != "cpu":
            return _plain(vectors, codebook, block)
        found, sure = _in_float32(vectors, codebook, block)
        doubtful = sure.logical_not_().nonzero()[:, 0]
        if len(doubtful):
            found[doubtful] = _plain(vectors[doubtful].double(), codebook.double(), block // 2)
        return found


def distances_to(vectors: Tensor, codebook: Tensor, indices: Tensor) -> Tensor:
    """Squared distance (N,) of each of `vectors` (N, D) to the code that `indices` (N,) gives it."""
    return (vectors - codebook.index_select(0, indices)).square_().sum(1)


def _in_float32(vectors: Tensor, codebook: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Index (N,) of the smallest score in float32, and whether (N,) no rounding can have made it the smallest."""
    (n, dim), k = vectors.shape, len(codebook)
    group = min(GROUP, k)
    size = -(-k // group) * group
    codes = codebook.new_empty(size, dim + 1)
    torch.neg(codebook, out=codes[:k, :dim])
    codes[:k, dim] = codebook.square().sum(1) / 2
    codes[k:] = codes[k - 1]  # the last group is filled up; vectors near its last code are in doubt, hence never wrong

    members = torch.arange(group)[:, None]
    width = max(1, min(n, max(NARROWEST, block // size)))
    points = vectors.new_ones(width, dim + 1)
    buffer = vectors.new_empty(size * width)  # asked for once, not once a block
    found, gap = torch.empty(n, dtype=torch.long), vectors.new_empty(n)
    for start in range(0, n, width):
        part = vectors[start : start + width]
        t = len(part)
        points[:t, :dim] = part
        scores = torch.mm(codes, points[:t].t(), out=buffer[: size * t].view(size, t))  # (K, T)

        minima = scores.view(-1, group, t).amin(1)  # (G, T)
        smallest, winner = minima.min(0, keepdim=True)  # (1, T)
        first = winner * group
        inside = scores.gather(0, first + members)  # (g, T)
        place = inside.min(0, keepdim=True).indices
        found[start : start + t] = (first + place)[0]

        minima.scatter_(0, winner, torch.inf)
        inside.scatter_(0, place, torch.inf)
        second = torch.minimum(minima.amin(0), inside.amin(0))  # (T,)
        gap[start : start + t] = second - smallest[0]
    # Where numbers overflow this compares with NaN, which is false.
    return found, gap > 2 * _rounding(vectors.norm(dim=1), codebook.norm(dim=1).amax(), dim)


def _rounding(length: Tensor, longest: Tensor, dim: int) -> Tensor:
    """By how much (T,) scores of vectors of `length` (T,) may be off in float32, with codes up to `longest` (scalar).

    A sum of n products is off by at most n u sum |a b| to first order in u = 2^-24, whatever the order of summation
    (Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.1), here n = D + 1 with
    sum |a b| <= ||x|| ||e|| + ||e||^2 / 2 (Cauchy and Schwarz). ||e||^2 / 2 comes with D roundings of its own. What is
    of second order, the rounding of the bound itself and of the difference, is less than the 8 u added; what underflow
    loses, less than the last term.
    """
    unit, tiny = 2**-24, torch.finfo(torch.float32).tiny
    return (dim + 8) * unit * (length * longest + longest.square()) + (2 * dim + 8) * tiny


def _plain(vectors: Tensor, codebook: Tensor, block: int) -> Tensor:
    """Index (N,) of the smallest score, as the numbers of this type have it."""
    half_norms, transposed = codebook.square().sum(1) / 2, codebook.t()  # (K,), (D, K)
    found = torch.empty(len(vectors), dtype=torch.long, device=vectors.device)
    rows = max(1, block // len(codebook))
    for start in range(0, len(vectors), rows):
        part = vectors[start : start + rows]
        found[start : start + rows] = torch.addmm(half_norms, part, transposed, alpha=-1).argmin(1)
    return found
