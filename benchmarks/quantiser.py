"""Rows of the quantiser, against vector-quantize-pytorch: looking codes up, a step of training, and memory.

About three minutes, most of them the peer's at 16,384 codes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from measure import REPEATS, Row, alternate, child_peak, forget_peak, own_peak, seconds

if TYPE_CHECKING:
    from torch import Tensor
    from vector_quantize_pytorch import VectorQuantize

TOKENS, DIM, SIZES = 16_384, 64, (256, 1024, 4096, 16_384)
LARGEST = SIZES[-1]
PEER = "vector-quantize-pytorch"


def rows(folder: Path) -> list[Row]:
    """Rows of the quantiser; no pictures needed."""
    return [*map(nearest_code, SIZES), *map(step, SIZES), memory()]


def nearest_code(codes: int) -> Row:
    """Index-only search for the nearest code, against the peer in evaluation."""
    import torch

    from stage1_vqvae.nearest import nearest

    tokens = normal(TOKENS, DIM)
    peer = quantizer_of_peer(codes).eval()
    codebook = peer.codebook.detach().clone()
    with torch.no_grad():
        table = torch.empty(TOKENS, codes)
        product = statistics.median(seconds(lambda: torch.mm(tokens, codebook.t(), out=table)) for _ in range(REPEATS))
        return row(
            f"nearest-{codes}",
            f"nearest of {codes:,} codes for {TOKENS:,} tokens of {DIM} dimensions, against {PEER} (eval)",
            lambda: nearest(tokens, codebook),
            lambda: peer(tokens[None]),
            codes=codes,
            target=10.0 if codes >= 1024 else None,
            note=f"The product of tokens and codes alone takes {1000 * product:.1f} ms, "
            "written to memory that was there.",
        )


def step(codes: int) -> Row:
    """Lookup, commitment, moving averages and restarts, against the peer in training, which restarts nothing."""
    tokens = normal(TOKENS, DIM).requires_grad_()
    peer = quantizer_of_peer(codes).train()
    return row(
        f"quantiser-step-{codes}",
        f"training step of a quantiser (lookup, commitment, EMA; ours with restarts): {codes:,} codes, {TOKENS:,} "
        f"tokens of {DIM} dimensions, against {PEER} (train, without restarts)",
        our_step(codes, tokens),
        lambda: peer(tokens[None]),
        codes=codes,
        target=5.0,
    )


def row(
    name: str,
    what: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    *,
    codes: int,
    target: float | None,
    note: str = "",
) -> Row:
    """Both sides by turns; three times where the peer takes seconds."""
    timed = alternate(ours, other, repeats=3 if codes == LARGEST else REPEATS, least=0.3)
    return Row(name, what, f"{1000 * timed.ours:.1f} ms", f"{1000 * timed.other:.1f} ms", timed.ratios, target, note)


def memory() -> Row:
    """What looking up and one step of training take beside their inputs, at the largest codebook."""
    ours, other = (peak_of_step(side) for side in ("ours", "peer"))
    return Row(
        "quantiser-memory",
        f"peak memory of a quantiser's training step beyond what the process held before: {LARGEST:,} codes, "
        f"{TOKENS:,} tokens of {DIM} dimensions, against {PEER}",
        f"{ours:.0f} MB",
        f"{other:.0f} MB",
        (other / ours,),
    )


def peak_of_step(side: str) -> float:
    """MB that a step of `ours` or of the `peer` adds to a process of its own."""
    return child_peak(__file__, side)


def one_step(side: str, folder: Path) -> None:
    """The body of `peak_of_step`."""
    import torch

    tokens = normal(TOKENS, DIM).requires_grad_()
    if side == "ours":
        act = our_step(LARGEST, tokens)
    else:
        peer = quantizer_of_peer(LARGEST).train()

        def act() -> None:
            peer(tokens[None])

    torch.mm(tokens.detach().t(), tokens.detach())  # threads and buffers of the product's library
    forget_peak()
    before = own_peak()
    act()
    (folder / "peak").write_text(str(own_peak() - before))


def normal(*shape: int) -> Tensor:
    """The same normally distributed numbers on every call."""
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def quantizer_of_peer(codes: int) -> VectorQuantize:
    """The peer's quantiser with our settings; a codebook of moving averages is its default."""
    from vector_quantize_pytorch import VectorQuantize

    return VectorQuantize(dim=DIM, codebook_size=codes, decay=0.99, commitment_weight=0.25)


def our_step(codes: int, tokens: Tensor) -> Callable[[], object]:
    """A step of training on `tokens` (N, D), some of which the codebook starts on."""
    import torch

    from stage1_vqvae.objectives import commitment
    from stage1_vqvae.quantizer import Quantizer

    quantizer = Quantizer(codes, DIM, restart=0.05)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(TOKENS, generator=generator)[:codes]
    quantizer.place(0, tokens.detach()[chosen], torch.full((codes,), TOKENS / codes))
    latents = tokens.view(1, 128, 128, DIM).permute(0, 3, 1, 2)  # (B, D, h, w) as an encoder in channels_last gives it

    def act() -> None:
        quantized = quantizer(latents)
        commitment(quantized)
        quantizer.update(quantized, generator=generator)

    return act


if __name__ == "__main__":
    one_step(sys.argv[1], Path(sys.argv[2]))
