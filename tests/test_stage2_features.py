"""Codes to features: hand-made golden values, brute force, and the same numbers from every format of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_probe import features as module
from stage2_probe.features import feature_set, features, of_codes, width_of
from toolkit_datasets.codes import Codes, CodeWriter, Level, StoreInfo, lookup, manifest_of, open_codes
from toolkit_datasets.errors import ToolkitError


def write(path: Path, *, format: str, content: str, levels: tuple[Level, ...], n: int = 7) -> Codes:
    rng = np.random.default_rng(0)
    samples = pd.DataFrame(
        {
            "id": [f"{i}" for i in range(n)],
            "path": [f"{i}.png" for i in range(n)],
            "slice": "",
            "label": "",
            "group": "",
            "split": "test",
            "status": "ok",
            "sha256": "",
            "number": [str(i) for i in range(n)],
        }
    )
    info = StoreInfo(content, levels, "ab" * 32, {}, 1.0)
    codebooks = {x.name: rng.normal(size=(x.depth, x.codes, x.dim)).astype(np.float32) for x in levels}
    arrays = {x.name: rng.integers(0, x.codes, (n, x.depth, x.height, x.width)).astype(x.index_dtype) for x in levels}
    if content == "latents":
        arrays = {x.name: rng.normal(size=(n, x.dim, x.height, x.width)).astype(np.float32) for x in levels}
    manifest = manifest_of(samples, np.arange(n))
    with CodeWriter(path, format=format, info=info, manifest=manifest, codebooks=codebooks) as writer:
        writer.write(arrays)
    return open_codes(path)


ONE = (Level("codes", 1, 6, 3, 4, 4),)


def test_golden_values_by_hand() -> None:
    indices = np.array([[[[0, 0], [2, 1]]]], dtype=np.uint8)  # (1, 1, 2, 2)
    codebook = np.array([[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]], dtype=np.float32)  # (1, 3, 2)
    assert features("vectors", {"codes": indices}, {"codes": codebook}).tolist() == [
        [0, 0, 4, 2, 1, 1, 5, 3]
    ]  # D, h, w
    assert features("mean", {"codes": indices}, {"codes": codebook}).tolist() == [[1.5, 2.5]]
    np.testing.assert_allclose(
        features("histogram", {"codes": indices}, {"codes": codebook}), np.sqrt([[2 / 4, 1 / 4, 1 / 4]]), rtol=1e-6
    )
    # One code in each of four cells, in reading order.
    assert features("pyramid", {"codes": indices}, {"codes": codebook}, 2).tolist() == [
        [1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0]
    ]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    depth=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    codes=st.integers(1, 5),
    grid=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_pyramid_equals_brute_force(
    n: int, depth: int, height: int, width: int, codes: int, grid: int, seed: int
) -> None:
    grid = min(grid, height, width)
    indices = np.random.default_rng(seed).integers(0, codes, (n, depth, height, width)).astype(np.uint16)
    expected = np.zeros((n, grid, grid, depth, codes))
    for i in range(n):
        for a in range(grid):
            for b in range(grid):
                rows = [y for y in range(height) if y * grid // height == a]
                columns = [x for x in range(width) if x * grid // width == b]
                for r in range(depth):
                    for y in rows:
                        for x in columns:
                            expected[i, a, b, r, indices[i, r, y, x]] += 1 / (len(rows) * len(columns))
    got = features("pyramid", {"codes": indices}, {"codes": np.zeros((depth, codes, 2), np.float32)}, grid)
    np.testing.assert_allclose(got, np.sqrt(expected.reshape(n, -1)), rtol=1e-6)
    # Every histogram's squares are shares that sum to one.
    np.testing.assert_allclose((got.reshape(n, -1, codes) ** 2).sum(2), 1, rtol=1e-5)


def in_memory(store: Codes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Indices and codebooks of a store by level."""
    names = [level.name for level in store.info.levels]
    return {name: store.indices(name) for name in names}, {name: store.codebook(name) for name in names}


@pytest.mark.parametrize("kind", module.KINDS)
def test_every_format_and_block_size_gives_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [
        write(tmp_path / "a", format="npy", content="vectors", levels=ONE),
        write(tmp_path / "b", format="npy", content="indices", levels=ONE),
        write(tmp_path / "c.h5", format="h5", content="vectors", levels=ONE),
    ]
    first, *others = [of_codes(store, kind, 2) for store in stores]
    assert first.shape == (7, width_of(ONE, kind, 2))
    assert first.dtype == np.float32
    for other in others:
        np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(first, features(kind, *in_memory(stores[1]), 2))
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)  # one row at a time
    np.testing.assert_array_equal(first, of_codes(stores[2], kind, 2))
    rows = np.array([5, 0, 3])
    np.testing.assert_array_equal(first[rows], of_codes(stores[0], kind, 2, rows))


def test_levels_stand_one_after_another(tmp_path: Path) -> None:
    levels = (Level("fine", 2, 6, 3, 4, 4), Level("coarse", 1, 5, 2, 2, 2))
    store = write(tmp_path / "s.h5", format="h5", content="indices", levels=levels)
    for kind in module.KINDS:
        whole = features(kind, *in_memory(store), 2)
        parts = [{x.name: store.indices(x.name)} for x in levels]
        books = in_memory(store)[1]
        np.testing.assert_array_equal(whole, np.concatenate([features(kind, part, books, 2) for part in parts], axis=1))
        np.testing.assert_array_equal(of_codes(store, kind, 2), whole)
    z = lookup(store.codebook("fine"), store.indices("fine"))
    np.testing.assert_array_equal(of_codes(store, "vectors", 1)[:, : 3 * 16], z.reshape(7, -1))


def test_latents_have_vectors_and_mean_but_no_histogram(tmp_path: Path) -> None:
    store = write(tmp_path / "s", format="npy", content="latents", levels=ONE)
    np.testing.assert_array_equal(of_codes(store, "vectors", 1), store.vectors("codes").reshape(7, -1))
    feature_set(store, "mean", 2)
    with pytest.raises(ToolkitError, match=r"latents.*set probe\.features to vectors or mean"):
        feature_set(store, "histogram", 2)


def test_impossible_features_are_refused(tmp_path: Path) -> None:
    store = write(tmp_path / "s", format="npy", content="indices", levels=ONE)
    with pytest.raises(ToolkitError, match=r"probe\.grid = 5 is finer than the 4 x 4 codes"):
        feature_set(store, "pyramid", 5)
    feature_set(store, "histogram", 5)  # grid means nothing to it
    with pytest.raises(ToolkitError, match=r"no features called 'pixels'.*vectors, mean, histogram, pyramid"):
        feature_set(store, "pixels", 2)


def test_held_features_are_the_same_and_only_held_where_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "s", format="npy", content="indices", levels=ONE)
    fresh = feature_set(store, "pyramid", 2)
    held = fresh.held(np.array([1, 2, 4, 6]))
    for rows in ([2, 4], [6, 1], [1, 2, 4, 6]):
        np.testing.assert_array_equal(held.take(np.array(rows)), fresh.take(np.array(rows)))
    assert held.take(np.array([2, 4])).base is not None  # a view, not a copy
    monkeypatch.setattr(module, "HELD_BYTES", 10)
    assert fresh.held(np.arange(7)) is fresh
