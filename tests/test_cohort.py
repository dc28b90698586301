"""Other people than the run's own: how far histograms are apart, and when a difference is worth a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from toolkit.cohort import Cohort, distance, read_cohort, write_cohort
from toolkit.cohort_check import STATISTICS, compare, unusual_for

NOTHING = np.zeros((0, 0), np.int64)


def cohort(split: str = "test", n: int = 20, *, seed: int = 0, **shift: float) -> Cohort:
    """People with made-up statistics, moved by `shift`; typical of stripped brains at 2 mm."""
    rng = np.random.default_rng(seed)
    typical = {
        "spacing_R": (2.0, 0.0), "extent_S": (180.0, 1.0), "border": (0.0, 0.0), "empty": (0.0, 0.0),
        "outline": (0.0, 0.0), "foreground": (0.3, 0.01), "brightness": (0.5, 0.01), "contrast": (0.25, 0.005),
        "codes": (0.1, 0.02), "psnr_foreground": (25.0, 0.5), "ssim_foreground": (0.7, 0.01),
    }  # fmt: skip
    values = {
        name: middle + spread * rng.standard_normal(n) + shift.get(name, 0.0)
        for name, (middle, spread) in typical.items()
    }
    names = tuple(f"p{i}" for i in range(n))
    return Cohort(split, "people", values, NOTHING, np.ones(32, np.int64), names)


@given(st.lists(st.integers(0, 99), min_size=8, max_size=8), st.lists(st.integers(0, 99), min_size=8, max_size=8))
def test_the_distance_is_that_of_scipy_and_a_metric(a: list[int], b: list[int]) -> None:
    p, q = np.array(a), np.array(b)
    found = distance(p, q)
    if not p.any() or not q.any():
        assert np.isnan(found)
        return
    assert found == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)
    assert found == pytest.approx(distance(7 * q, p), abs=1e-7), "symmetric, and of shares"
    rows = distance(np.stack([p, p]), np.stack([q, p]))
    assert rows == pytest.approx(found / 2, abs=1e-7), "the mean over depths"


@pytest.mark.parametrize("seed", range(8))
def test_people_of_the_same_kind_raise_no_warning(seed: int) -> None:
    found = compare(cohort("new", 3, seed=100 + seed), cohort(seed=seed))
    assert found["warnings"] == []
    assert found["notes"] == []


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ({"spacing_R": 0.4}, ["resolution", "2.40 mm here, 2.00 mm there"]),
        ({"extent_S": 60.0}, ["field of view", "volumes, upwards: 241 mm here, 180 mm there (179 to 181)"]),
        ({"border": 0.3}, ["field of view", "border that is head: 0.300 here, 0 there"]),
        ({"outline": 0.3, "foreground": 0.2}, ["skull is there", "strip these first", "0.300 here", "0.5"]),
        ({"foreground": 0.2}, ["more or less of a slice is head"]),
        ({"brightness": -0.2}, ["intensity", "mean grey"]),
        ({"codes": 0.4}, ["codes", "Jensen-Shannon", "other shares than for the run's own people"]),
        ({"psnr_foreground": -6.0}, ["rebuilt worse", "PSNR in the foreground: 18.9", "dB here"]),
    ],
)
def test_what_is_unusual_is_said_with_the_numbers(shift: dict[str, float], words: list[str]) -> None:
    found = compare(cohort("new", 4, seed=1, **shift), cohort())
    assert len(found["warnings"]) == 1
    for word in words:
        assert word in found["warnings"][0]
    assert {name for name, entry in found["statistics"].items() if entry["unusual"]} == set(shift)


def test_better_reconstructions_and_commoner_codes_are_no_warning() -> None:
    assert compare(cohort("new", 4, psnr_foreground=9.0, codes=-0.08), cohort())["warnings"] == []


def test_a_run_on_whole_heads_tells_a_stripped_brain() -> None:
    own, new = cohort(outline=0.3), cohort("new", 2)
    (warning,) = compare(new, own)["warnings"]
    assert "the skull was taken off, and the run's own people have theirs" in warning


def test_of_many_a_smaller_difference_of_the_median_tells() -> None:
    """Moved by three of the people's own deviations: a few might be so by chance, and thirty together are not."""
    own, new = cohort(n=40), cohort("new", 30, seed=3, foreground=0.025, psnr_foreground=-1.5)
    found = compare(new, own)
    assert [warning.split(":")[0] for warning in found["warnings"]] == ["reconstruction"]
    assert found["statistics"]["foreground"]["unusual"] is False, "less than is worth a word"
    few = Cohort("new", "people", {name: values[:3] for name, values in new.values.items()}, NOTHING, NOTHING)
    assert compare(few, own)["warnings"] == []


@pytest.mark.parametrize("seed", range(8))
def test_many_of_the_same_kind_raise_no_warning(seed: int) -> None:
    assert compare(cohort("new", 30, seed=200 + seed), cohort(n=25, seed=seed))["warnings"] == []


def test_single_strangers_among_many_are_named_though_the_cohort_is_usual() -> None:
    new = cohort("new", 20, seed=5)
    new.values["codes"][7] = 0.9
    found = compare(new, cohort())
    assert found["warnings"] == []
    strange = {name: keys for name, keys in unusual_for(new, found).items() if keys}
    assert strange == {"p7": ["codes"]}


def test_what_cannot_be_told_is_not_told() -> None:
    few = compare(cohort("new", codes=0.5), cohort(n=4))
    assert (few["warnings"], few["statistics"]) == ([], {})
    assert "only 4 of the run's own people" in few["notes"][0]
    new = cohort("new", outline=np.nan, foreground=0.2)
    assert "outline" not in compare(new, cohort())["statistics"]
    pictures = Cohort("new", "pictures", {"codes": np.full(3, 0.6), "brightness": np.full(3, 0.1)}, NOTHING, NOTHING)
    found = compare(pictures, cohort())
    assert [warning.split(":")[0] for warning in found["warnings"]] == ["codes"]
    assert "only codes and reconstruction were compared" in found["notes"][0]


def test_the_record_beside_the_model_has_no_names_and_is_for_that_model_only(tmp_path: Path) -> None:
    own = cohort(outline=np.nan)
    write_cohort(tmp_path, own, "abc")
    text = (tmp_path / "cohort.json").read_text()
    assert "p7" not in text
    back = read_cohort(tmp_path, "abc")
    assert back is not None
    assert set(back.values) == set(own.values) <= set(STATISTICS)
    for name, values in own.values.items():
        assert np.array_equal(back.values[name], values, equal_nan=True)
    assert read_cohort(tmp_path, "abd") is None
    (tmp_path / "cohort.json").write_text(text[:-20])
    assert read_cohort(tmp_path, "abc") is None
