"""The search for the nearest code: what float64 finds, in memory that does not grow with vectors times codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stage1_vqvae import nearest as search
from stage1_vqvae.kmeans import kmeans
from stage1_vqvae.model import build
from stage1_vqvae.nearest import distances_to, nearest
from stage1_vqvae.quantizer import Quantizer, tokens
from toolkit_datasets.card import load_card
from toolkit_datasets.images import decode_file


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def squared(x: Tensor, codes: Tensor) -> Tensor:
    """All squared distances (N, K) in float64."""
    return (x.double()[:, None] - codes.double()[None]).square().sum(-1)


def assert_nearest(found: Tensor, x: Tensor, codes: Tensor) -> None:
    """No code is nearer than the one found, by more than what float64 cannot tell apart."""
    table = squared(x, codes)
    chosen = table.gather(1, found[:, None])[:, 0]
    reach = x.double().norm(dim=1) + codes.double().norm(dim=1).max()
    assert found.dtype == torch.long
    assert (chosen - table.min(1).values <= 1e-13 * reach**2).all()


KINDS: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "as they are": lambda x, codes: (x, codes),
    "far from the origin": lambda x, codes: (x + 3000, codes + 3000),  # squares lose 7 of float32's 7 digits
    "large": lambda x, codes: (x * 1e15, codes * 1e15),
    "their squares overflow": lambda x, codes: (x * 1e25, codes * 1e25),
    "their squares underflow": lambda x, codes: (x * 1e-25, codes * 1e-25),
    "few values": lambda x, codes: (x.round(), codes.round()),  # many ties
    "vectors are codes": lambda x, codes: (codes[torch.arange(len(x)) % len(codes)], codes),
    "vectors between codes": lambda x, codes: (
        (codes[torch.arange(len(x)) % len(codes)] + codes.roll(1, 0)[torch.arange(len(x)) % len(codes)]) / 2,
        codes,
    ),
    "one code, again and again": lambda x, codes: (x, codes[:1].expand(len(codes), -1)),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 70), k=st.integers(1, 90), d=st.integers(1, 9), block=st.integers(1, 900), seed=st.integers(0, 999)
)
def test_equals_brute_force_in_float64(kind: str, n: int, k: int, d: int, block: int, seed: int) -> None:
    x, codes = KINDS[kind](normal(n, d, seed=seed), normal(k, d, seed=seed + 1))
    assert_nearest(nearest(x, codes, block=block), x, codes)


def between(offset: float) -> tuple[Tensor, Tensor]:
    """64 pairs of codes far from all others, and for each a vector `offset` off their middle, towards the second."""
    middles, apart = 100 * normal(64, 16), normal(64, 16, seed=1)
    apart = apart / apart.norm(dim=1, keepdim=True)
    codes = torch.stack([middles - apart, middles + apart], 1).reshape(128, 16)
    return (middles.double() + offset * apart.double()).float(), codes


def test_what_float32_cannot_tell_apart_is_told_apart() -> None:
    x, codes = between(1e-4)
    wanted = squared(x, codes).argmin(1)
    gap = squared(x, codes).topk(2, largest=False).values.diff()[:, 0]
    in_float32 = search._plain(x, codes, search.BLOCK)
    assert (in_float32 != wanted).sum() > 5, "or these vectors say nothing"
    assert (gap > 1e-6).all()
    assert torch.equal(nearest(x, codes), wanted)


def test_depends_on_the_numbers_alone() -> None:
    x, codes = between(1e-5)
    found = nearest(x, codes)
    for block in (1, 100, 1000, 3333):
        assert torch.equal(nearest(x, codes, block=block), found)
    order, shuffled = torch.from_numpy(np.random.default_rng(0).permutation(64)), torch.arange(128).flip(0)
    assert torch.equal(nearest(x[order], codes), found[order])
    assert torch.equal(shuffled[nearest(x, codes[shuffled])], found)
    assert torch.equal(torch.cat([nearest(row[None], codes) for row in x]), found)
    strided = torch.empty(16, 64, 2)[..., 0].copy_(x.t()).t()
    assert not strided.is_contiguous()
    assert torch.equal(nearest(strided, torch.empty(128, 32)[:, ::2].copy_(codes)), found)


def test_few_vectors_are_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    plain = search._plain

    def watched(vectors: Tensor, codebook: Tensor, block: int) -> Tensor:
        counted.append(len(vectors))
        return plain(vectors, codebook, block)

    monkeypatch.setattr(search, "_plain", watched)
    nearest(normal(4000, 64), normal(512, 64, seed=1))
    assert sum(counted) < 40, "a bound too wide sends too many to float64"


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 200), scale=st.floats(-3, 3), offset=st.floats(-100, 100), seed=st.integers(0, 999))
def test_no_score_is_off_by_more_than_the_bound(d: int, scale: float, offset: float, seed: int) -> None:
    x, codes = normal(20, d, seed=seed) * 10**scale + offset, normal(30, d, seed=seed + 1) + offset
    half = codes.square().sum(1, keepdim=True) / 2
    scores = torch.cat([-codes, half], 1) @ torch.cat([x, torch.ones(20, 1)], 1).t()  # (K, N)
    exact = codes.double().square().sum(1, keepdim=True) / 2 - codes.double() @ x.double().t()
    bound = search._rounding(x.norm(dim=1), codes.norm(dim=1).amax(), d)
    assert ((scores.double() - exact).abs() <= bound).all()


def test_numbers_that_are_none_break_nothing() -> None:
    x, codes = normal(6, 3), normal(50, 3)
    x[0, 0], x[1], x[2, 1] = torch.nan, torch.inf, -torch.inf
    found = nearest(x, codes)
    assert ((found >= 0) & (found < 50)).all()
    assert torch.equal(found[3:], squared(x[3:], codes).argmin(1))


def test_devices_other_than_a_cpu_compare_in_float32() -> None:
    x, codes = normal(300, 8), normal(50, 8, seed=1)
    found = search._plain(x, codes, 500)
    table = squared(x, codes)
    assert (table.gather(1, found[:, None])[:, 0] - table.min(1).values <= 1e-5).all()


def test_stays_in_float32_under_autocast() -> None:
    # These codes differ in the 9th bit after the point; bfloat16 has 7 there.
    codes = 1 + torch.arange(16)[:, None].float() * 2**-9 * torch.ones(1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(codes.clone(), codes), torch.arange(16))
        quantizer = Quantizer(16, 8, decay=0.9, restart=0)
        quantizer.codebook[0].copy_(codes)
        quantized = quantizer(codes.view(1, 16, 8, 1).permute(0, 2, 1, 3))
    assert torch.equal(quantized.indices.flatten(), torch.arange(16))
    assert quantized.vectors.dtype == torch.float32


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [each for each in (out if isinstance(out, tuple | list) else [out]) if isinstance(each, Tensor)]
        self.entries = max([self.entries, *(each.untyped_storage().nbytes() // 4 for each in made)])
        return out


@pytest.mark.parametrize("ties", [False, True])
def test_memory_does_not_grow_with_vectors_times_codes(ties: bool) -> None:
    x, codes = normal(20_000, 4), normal(1000, 4, seed=1)
    if ties:  # all of them go through float64
        codes = codes[:1].repeat(1000, 1)
    with Largest() as largest:
        nearest(x, codes, block=100_000)
    assert largest.entries <= 160_000, (
        "the vectors in float64 are the largest, and the full table would be 125 times that"
    )


def test_distances_are_those_of_the_codes_given() -> None:
    x, codes, owner = normal(40, 5), normal(7, 5, seed=1), torch.arange(40) % 7
    wanted = squared(x, codes)[torch.arange(40), owner]
    assert torch.allclose(distances_to(x, codes, owner).double(), wanted, rtol=1e-6)
    assert distances_to(codes, codes, torch.arange(7)).tolist() == [0.0] * 7


def test_latents_of_real_pictures(real_data: Path) -> None:
    card = load_card("cats-vs-dogs", ["train.objective=reconstruct"])
    files = [real_data / "cats_vs_dogs" / "train" / f"cat.{number}.jpg" for number in range(40)]
    pictures = torch.from_numpy(np.stack([decode_file(file, card.image).pixels for file in files]))
    model = build(card, seed=0).eval()
    with torch.inference_mode():
        points = tokens(model.encode(pictures.permute(0, 3, 1, 2))["codes"])
    codes, _ = kmeans(points, 512, generator=torch.Generator().manual_seed(0))
    found = nearest(points, codes)
    assert_nearest(found, points, codes)
    assert len(found.unique()) > 400
