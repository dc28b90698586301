"""Made-up lesions: of the size, place and contrast that was asked for, and nothing else changed."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit_datasets.lesions import EDGE, Lesion, draw_lesion, put

HALF = 1 - EDGE / 2  # where a smoothstep over the outermost part is at one half


@settings(max_examples=25, deadline=None)
@given(
    radius=st.floats(5, 9),
    spacing=st.tuples(*[st.floats(0.8, 2.0)] * 3),
    contrast=st.floats(-0.8, 0.8).filter(lambda c: abs(c) > 0.05),
    seed=st.integers(0, 999),
)
def test_size_place_and_contrast(
    radius: float, spacing: tuple[float, float, float], contrast: float, seed: int
) -> None:
    shape = (44, 46, 48)
    data = np.random.default_rng(0).normal(500, 100, shape).astype(np.float32)
    inside = np.zeros(shape, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    lesion = draw_lesion(np.random.default_rng(seed), inside, spacing, radius=radius, contrast=contrast)
    added, mask = put(data, spacing, lesion, black_to_white=1000)
    assert np.prod(lesion.axes) == pytest.approx(radius**3)
    voxel = np.prod(spacing)
    assert mask.sum() * voxel == pytest.approx(4 / 3 * np.pi * (HALF * radius) ** 3, rel=0.15)
    middle = (np.argwhere(mask) + 0.5).mean(0) * spacing
    assert middle == pytest.approx(lesion.centre, abs=0.25 * max(spacing))
    change = added - data
    assert np.sign(contrast) * change.max(initial=0, where=mask) >= 0
    assert np.abs(change).max() == pytest.approx(1000 * abs(contrast), rel=0.05)
    assert np.abs(change)[mask].min() >= 0.5 * 1000 * abs(contrast) * (1 - 1e-3)
    distance = np.linalg.norm((np.indices(shape).T + 0.5) * spacing - lesion.centre, axis=-1).T
    assert (change[distance > max(lesion.axes) + 1e-3] == 0).all()


def test_the_same_seed_gives_the_same_lesion_and_the_place_hangs_on_nothing_else() -> None:
    inside = phantoms.head() > 100
    big, small = (
        draw_lesion(np.random.default_rng(3), inside, (2.0, 2.0, 2.0), radius=8, contrast=contrast)
        for contrast in (0.1, -0.5)
    )
    assert big.centre == small.centre
    assert big.axes == small.axes
    assert draw_lesion(np.random.default_rng(4), inside, (2.0, 2.0, 2.0), radius=8, contrast=0.1).centre != big.centre


def test_a_lesion_lies_within_the_head_where_the_head_is_thick_enough() -> None:
    inside = phantoms.head() > 100
    for seed in range(20):
        lesion = draw_lesion(np.random.default_rng(seed), inside, (2.0, 2.0, 2.0), radius=6, contrast=1.0)
        _, mask = put(phantoms.head(), (2.0, 2.0, 2.0), lesion, black_to_white=1.0)
        assert (mask & ~inside).sum() <= 0.02 * mask.sum()  # stretched along one axis by a little


def test_too_thin_a_place_takes_it_at_its_thickest_and_none_is_an_error() -> None:
    thin = np.zeros((20, 20, 20), bool)
    thin[:, :, 9:12] = True
    lesion = draw_lesion(np.random.default_rng(0), thin, (1.0, 1.0, 1.0), radius=6, contrast=1.0)
    assert lesion.centre[2] == pytest.approx(10.5)
    with pytest.raises(ValueError, match="no voxel"):
        draw_lesion(np.random.default_rng(0), ~thin & thin, (1.0, 1.0, 1.0), radius=6, contrast=1.0)


def test_a_lesion_outside_the_volume_changes_nothing() -> None:
    data = phantoms.head()
    added, mask = put(data, (1.0, 1.0, 1.0), Lesion((-30.0, 5.0, 5.0), (4.0, 4.0, 4.0), 1.0), black_to_white=9.0)
    assert (added == data).all()
    assert not mask.any()
