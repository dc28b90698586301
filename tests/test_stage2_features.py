"""Codes to features: hand-made golden values, brute force, and the same numbers from every format of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import random_arrays, sample_table, write_store

from stage2_probe import features as module
from stage2_probe.features import Spec, choices, feature_set, features, of_codes
from toolkit_datasets.codes import Codes, Level, StoreInfo, lookup, open_codes
from toolkit_datasets.errors import ToolkitError


def write(path: Path, *, content: str, levels: tuple[Level, ...]) -> Codes:
    """Seven samples of random codes; HDF5 where the path ends in .h5."""
    about = StoreInfo(content, levels, "ab" * 32, {}, 1.0)
    return open_codes(write_store(path, about, sample_table(list("0123456")), *random_arrays(about, 7)))


ONE = (Level("codes", 1, 6, 3, 4, 4),)


TWO = (Level("fine", 2, 6, 3, 4, 4), Level("coarse", 3, 5, 2, 2, 2))


def spec(kind: str, grid: int = 1, levels: tuple[str, ...] = ("codes",)) -> Spec:
    return Spec(kind, grid if kind in module.GRIDDED else 1, levels)


def test_golden_values_by_hand() -> None:
    indices = {"codes": np.array([[[[0, 0], [2, 1]]]], dtype=np.uint8)}  # (1, 1, 2, 2)
    codebooks = {"codes": np.array([[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]], dtype=np.float32)}  # (1, 3, 2)

    def of(kind: str, grid: int = 1) -> list[float]:
        return list(features(spec(kind, grid), indices, codebooks)[0])

    assert of("vectors") == [0, 0, 4, 2, 1, 1, 5, 3]  # D, h, w
    assert of("mean") == [1.5, 2.5]
    assert of("cells", 2) == of("vectors")  # a cell of one code each
    assert of("cells", 1) == of("mean")
    np.testing.assert_allclose(of("histogram"), np.sqrt([2 / 4, 1 / 4, 1 / 4]), rtol=1e-6)
    # One code in each of four cells, in reading order.
    assert of("pyramid", 2) == [1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_cells_average_each_its_own_places(grid: int) -> None:
    rng = np.random.default_rng(0)
    indices, codebook = rng.integers(0, 6, (2, 1, 5, 4)).astype(np.uint8), rng.normal(size=(1, 6, 3)).astype(np.float32)
    z = lookup(codebook, indices)  # (2, 3, 5, 4)
    got = features(Spec("cells", grid, ("codes",)), {"codes": indices}, {"codes": codebook}).reshape(2, 3, grid, grid)
    for i in range(grid):
        for j in range(grid):
            rows, columns = ([p for p in range(n) if p * grid // n == k] for n, k in ((5, i), (4, j)))
            np.testing.assert_allclose(got[:, :, i, j], z[:, :, rows][..., columns].mean((2, 3)), rtol=1e-5)


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
    got = features(Spec("pyramid", grid, ("codes",)), {"codes": indices}, {"codes": np.zeros((depth, codes, 2))})
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
        write(tmp_path / "a", content="vectors", levels=ONE),
        write(tmp_path / "b", content="indices", levels=ONE),
        write(tmp_path / "c.h5", content="vectors", levels=ONE),
    ]
    wanted = spec(kind, 2)
    first, *others = [of_codes(store, wanted) for store in stores]
    assert first.shape == (7, wanted.width(ONE))
    assert first.dtype == np.float32
    for other in others:
        np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(first, features(wanted, *in_memory(stores[1])))
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)  # one row at a time
    np.testing.assert_array_equal(first, of_codes(stores[2], wanted))
    rows = np.array([5, 0, 3])
    np.testing.assert_array_equal(first[rows], of_codes(stores[0], wanted, rows))


@pytest.mark.parametrize("kind", module.KINDS)
def test_levels_stand_one_after_another(kind: str, tmp_path: Path) -> None:
    store = write(tmp_path / "s.h5", content="indices", levels=TWO)
    both = spec(kind, 2, ("fine", "coarse"))
    parts = [of_codes(store, spec(kind, 2, (name,))) for name in both.levels]
    np.testing.assert_array_equal(of_codes(store, both), np.concatenate(parts, axis=1))
    np.testing.assert_array_equal(of_codes(store, both), features(both, *in_memory(store)))
    assert both.width(TWO) == sum(part.shape[1] for part in parts)
    if kind == "vectors":
        z = lookup(store.codebook("fine"), store.indices("fine"))
        np.testing.assert_array_equal(parts[0], z.reshape(7, -1))


def test_what_auto_offers() -> None:
    def offered(levels: tuple[Level, ...], **keys: object) -> list[str]:
        return [str(each) for each in choices("auto", 2, levels, origin="s", **keys)]  # type: ignore[arg-type]

    assert offered(ONE) == ["histogram of codes", "mean of codes", "cells 2x2 of codes"]
    assert offered(ONE, content="latents") == ["mean of codes", "cells 2x2 of codes"]
    assert offered(TWO) == ["mean of coarse", "cells 2x2 of coarse"]
    assert offered(TWO, wanted=["fine"]) == ["mean of fine", "cells 2x2 of fine"]  # residual codes are not counted
    assert offered((Level("codes", 1, 9, 3, 1, 1),)) == ["histogram of codes", "mean of codes"]
    equal = (Level("fine", 1, 6, 3, 4, 4), Level("coarse", 3, 5, 2, 4, 4))
    assert offered(equal) == ["mean of coarse", "cells 2x2 of coarse"]


def test_sums_of_residual_codes_are_not_counted() -> None:
    with pytest.raises(ToolkitError, match=r"sums of the 2 residual codes of level 'fine'.*--content indices"):
        choices("histogram", 2, TWO, content="vectors", origin="s")
    choices("histogram", 2, TWO, content="indices", origin="s")


def test_latents_have_vectors_and_mean_but_no_histogram(tmp_path: Path) -> None:
    store = write(tmp_path / "s", content="latents", levels=ONE)
    np.testing.assert_array_equal(of_codes(store, spec("vectors")), store.vectors("codes").reshape(7, -1))
    with pytest.raises(ToolkitError, match=r"latents.*set probe\.features to vectors, mean or cells"):
        choices("histogram", 2, ONE, content="latents", origin="s")


def test_impossible_features_are_refused() -> None:
    with pytest.raises(ToolkitError, match=r"probe\.grid = 5 is finer than the 4 x 4 codes"):
        choices("pyramid", 5, ONE, origin="s")
    choices("histogram", 5, ONE, origin="s")  # grid means nothing to it
    with pytest.raises(ToolkitError, match=r"no features called 'pixels'.*auto or one of vectors, mean, cells"):
        choices("pixels", 2, ONE, origin="s")
    with pytest.raises(ToolkitError, match=r"probe\.levels: no level 'top' in s, which has fine, coarse"):
        choices("mean", 2, TWO, wanted=["top"], origin="s")


def test_held_features_are_the_same_and_only_held_where_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "s", content="indices", levels=ONE)
    fresh = feature_set(store, spec("pyramid", 2))
    held = fresh.held(np.array([1, 2, 4, 6]))
    for rows in ([2, 4], [6, 1], [1, 2, 4, 6]):
        np.testing.assert_array_equal(held.take(np.array(rows)), fresh.take(np.array(rows)))
    assert held.take(np.array([2, 4])).base is not None  # a view, not a copy
    monkeypatch.setattr(module, "HELD_BYTES", 10)
    assert fresh.held(np.arange(7)) is fresh
