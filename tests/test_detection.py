"""Areas under curves against an independent implementation, their intervals, and what confounds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from toolkit.confounds import suspicion, trivial
from toolkit.detection import PixelCounts, areas, best_dice, detection, subject_score


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.booleans(), st.integers(1, 3)),
        min_size=2,
        max_size=40,
    ).filter(lambda rows: len({truth for _, truth, _ in rows}) == 2)
)
def test_areas_equal_an_independent_implementation_with_ties_and_weights(rows: list[tuple[int, bool, int]]) -> None:
    score, truth, weight = (np.array(column) for column in zip(*rows, strict=True))
    values = np.unique(score)[::-1]
    positive, negative = (
        np.array([weight[(score == value) & (truth == side)].sum() for value in values]) for side in (True, False)
    )
    found = areas(positive, negative)
    assert found.auroc == pytest.approx(roc_auc_score(truth, score, sample_weight=weight))
    assert found.average_precision == pytest.approx(average_precision_score(truth, score, sample_weight=weight))
    ours = detection(score.astype(float), truth, np.arange(len(score)), seed=0)
    assert ours["auroc"]["value"] == pytest.approx(roc_auc_score(truth, score))
    assert ours["average_precision"]["value"] == pytest.approx(average_precision_score(truth, score))


def test_intervals_are_of_subjects_and_not_of_their_slices() -> None:
    """Twenty slices of each person say what one says: the interval does not shrink because they are counted."""
    rng = np.random.default_rng(0)
    ill = np.arange(40) % 2 == 0
    score = rng.normal(size=40) + ill
    once = detection(score, ill, np.arange(40), seed=0)
    often = detection(score.repeat(20), ill.repeat(20), np.arange(40).repeat(20), seed=0)
    as_if = detection(score.repeat(20), ill.repeat(20), np.arange(800), seed=0)
    assert once["auroc"]["value"] == often["auroc"]["value"]
    assert often["auroc"]["ci95"] == pytest.approx(once["auroc"]["ci95"], abs=1e-9)
    width, narrow = (np.ptp(each["auroc"]["ci95"]) for each in (often, as_if))
    assert narrow < width / 3
    low, high = once["auroc"]["ci95"]
    assert 0.5 < low < once["auroc"]["value"] < high < 1


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    true = 0.7602  # P(N(1, 1) > N(0, 1))
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ill = np.arange(80) % 2 == 0
        low, high = detection(rng.normal(size=80) + ill, ill, np.arange(80), seed=seed)["auroc"]["ci95"]
        hits += low <= true <= high
    assert hits >= 52  # of 57 expected; fewer than this happens once in a hundred at 95 %


def test_what_cannot_be_measured_is_none() -> None:
    score = np.array([1.0, 2.0, 3.0])
    assert detection(score, np.ones(3, bool), np.arange(3), seed=0)["auroc"] is None
    two = detection(score, np.array([True, False, False]), np.array(["a", "b", "b"]), seed=0)
    assert two["auroc"] == {"value": 0.0, "ci95": None}
    assert (two["n"], two["positive"], two["groups"]) == (3, 1, 2)


def test_counted_pixels_come_close_to_sorted_ones() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(40_000) < 0.05
    score = rng.normal(size=40_000) * 2 + 3 * truth
    score[:5] = [-1e6, 1e6, 0, 700, -25]  # beyond the outermost ends too
    counts = PixelCounts()
    for start in range(0, 40_000, 10_000):
        part = slice(start, start + 10_000)
        counts.add(f"s{start % 20_000}", score[part], truth[part])
        counts.add(f"t{start}", score[part], truth[part])
    found = counts.measures(seed=0)
    assert (found["n"], found["positive"], found["groups"]) == (80_000, 2 * int(truth.sum()), 6)
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(truth, score), abs=1e-4)
    assert found["average_precision"]["value"] == pytest.approx(average_precision_score(truth, score), abs=1e-3)
    low, high = found["average_precision"]["ci95"]
    assert low < found["average_precision"]["value"] < high


def test_best_dice_by_hand() -> None:
    positive, negative = np.array([0, 3, 1, 0]), np.array([1, 0, 4, 9])
    # called 1, 4, 9, 18; found 0, 3, 4, 4: 0, 6/8, 8/13, 8/22
    assert best_dice(positive, negative) == pytest.approx(0.75)


def test_a_subject_is_as_unusual_as_its_worst_slices() -> None:
    healthy = np.zeros(30)
    ill = healthy.copy()
    ill[10:13] = 5
    assert subject_score(ill) == 5
    assert subject_score(healthy) == 0
    assert subject_score(np.array([7.0])) == 7


class TestConfounds:
    def test_brightness_contrast_and_sharpness(self) -> None:
        rng = np.random.default_rng(0)
        coarse = np.kron(rng.integers(60, 120, (8, 8)), np.ones((4, 4), int))
        fine = rng.permutation(coarse.ravel()).reshape(32, 32)
        images = np.stack([coarse, fine, coarse + 100, 2 * coarse]).astype(np.uint8)[..., None]
        found = trivial(images, np.ones((4, 32, 32), bool))
        assert found["brightness"][2] == pytest.approx(found["brightness"][0] + 100 / 255)
        assert found["contrast"] == pytest.approx(found["contrast"][0] * np.array([1, 1, 1, 2]), rel=1e-5)
        assert found["sharpness"][1] > 2 * found["sharpness"][0]
        assert found["sharpness"][[2, 3]] == pytest.approx(found["sharpness"][0], rel=1e-5)

    def test_only_the_pixels_inside_count(self) -> None:
        images = np.zeros((1, 16, 16, 3), np.uint8)
        images[:, 4:12, 4:12] = np.arange(64).reshape(8, 8, 1)
        inside = np.zeros((1, 16, 16), bool)
        inside[:, 4:12, 4:12] = True
        cut = trivial(images[:, 4:12, 4:12], np.ones((1, 8, 8), bool))
        whole = trivial(images, inside)
        for name, values in cut.items():
            assert whole[name] == pytest.approx(values)
        assert all(np.isfinite(each).all() for each in trivial(images, ~inside & False).values())

    def test_a_group_that_is_darker_is_said_aloud(self) -> None:
        measured = {name: {"auroc": {"value": value}} for name, value in (("brightness", 0.12), ("sharpness", 0.7))}
        assert "brightness alone" in suspicion(measured)
        assert "0.88 (less of it" in suspicion(measured)
        assert suspicion({"brightness": {"auroc": {"value": 0.55}}, "contrast": {"auroc": None}}) == ""
