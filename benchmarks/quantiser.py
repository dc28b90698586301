"""Rows of the quantiser, against vector-quantize-pytorch."""

from __future__ import annotations

from pathlib import Path

from measure import Row, alternate

TOKENS, DIM, SIZES = 16_384, 64, (256, 512, 1024, 4096)


def rows(folder: Path) -> list[Row]:
    """Rows of the search for the nearest code; no pictures needed."""
    return [nearest_code(codes) for codes in SIZES]


def nearest_code(codes: int) -> Row:
    """Index-only nearest-code search, against vector-quantize-pytorch in evaluation."""
    import torch
    from vector_quantize_pytorch import VectorQuantize

    from stage1_vqvae.nearest import nearest

    tokens = torch.randn(TOKENS, DIM, generator=torch.Generator().manual_seed(0))
    peer = VectorQuantize(dim=DIM, codebook_size=codes).eval()
    codebook = peer.codebook.detach().clone()
    with torch.no_grad():
        timed = alternate(lambda: nearest(tokens, codebook), lambda: peer(tokens[None]))
    return Row(
        f"nearest-{codes}",
        f"nearest of {codes:,} codes for {TOKENS:,} tokens of {DIM} dimensions, against vector-quantize-pytorch (eval)",
        f"{1000 * timed.ours:.1f} ms",
        f"{1000 * timed.other:.1f} ms",
        timed.ratios,
        target=10.0 if codes >= 1024 else None,
    )
