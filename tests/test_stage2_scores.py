"""Draws, metrics and intervals: balance, disjointness, golden values, and the coverage that an interval promises."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as peer

from stage2_probe import metrics
from stage2_probe.draws import draw, plan
from stage2_probe.intervals import Bootstrap, interval
from stage2_probe.task import Task, task_of
from toolkit_datasets.errors import ToolkitError


def manifest(pool: dict[str, int], *, slices: int = 1, test: int = 4) -> pd.DataFrame:
    """`pool[label]` labelled subjects of `slices` images each, `test` test subjects a label, some unlabelled images."""
    rows = [("", "", "unlabelled")] * 3
    for label, count in pool.items():
        rows += [(label, f"pool-{label}-{i}", "labelled") for i in range(count) for _ in range(slices)]
        rows += [(label, f"test-{label}-{i}", "test") for i in range(test) for _ in range(slices)]
    table = pd.DataFrame(rows, columns=["label", "group", "split"])
    return table.assign(id=[str(i) for i in range(len(table))])


class TestTask:
    def test_rows_classes_and_units(self) -> None:
        task = task_of(manifest({"dog": 2, "cat": 3}))
        assert task.classes == ("cat", "dog")
        assert (len(task.pool), len(task.test), task.n_pool) == (5, 8, 5)
        assert task.pool_y.tolist() == [1, 1, 0, 0, 0]
        assert (task.grouped, task.unit) == (False, "images")

    def test_a_few_identical_pictures_are_not_grouped_data(self) -> None:
        table = manifest({"cat": 5, "dog": 5})
        table.loc[3:4, "group"] = "same"  # two pixel-identical pictures
        table.loc[5, "group"] = ""
        task = task_of(table)
        assert not task.grouped
        assert task.n_pool == 10
        assert task.pool_groups[0] == task.pool_groups[1]
        assert len(set(task.pool_groups)) == 9

    def test_subjects_with_slices_are_grouped(self) -> None:
        task = task_of(manifest({"f": 4, "m": 3}, slices=5))
        assert task.grouped
        assert (task.n_pool, len(task.pool), task.unit) == (7, 35, "groups")

    def test_one_class_is_refused(self) -> None:
        with pytest.raises(ToolkitError, match="at least two classes, but every labelled image is 'cat'"):
            task_of(manifest({"cat": 5}))

    @pytest.mark.parametrize(("split", "key"), [("labelled", r"split\.labelled"), ("test", r"split\.test")])
    def test_nothing_labelled_is_refused(self, split: str, key: str) -> None:
        table = manifest({"cat": 5, "dog": 5})
        with pytest.raises(ToolkitError, match=f"needs labelled images in the split '{split}'.*{key}"):
            task_of(table[table["split"] != split].reset_index(drop=True))
        table.loc[table["split"] == split, "label"] = ""
        with pytest.raises(ToolkitError, match="labelled images"):
            task_of(table)


class TestDraws:
    @pytest.mark.parametrize("n", [3, 6, 7, 8, 29])
    def test_balanced_distinct_and_seeded(self, n: int) -> None:
        task = task_of(manifest({"a": 10, "b": 20, "c": 15}))
        extra = set()
        for number in range(20):
            chosen = draw(task, n, number, seed=1)
            assert len(set(chosen)) == n
            counts = np.bincount(task.pool_y[chosen], minlength=3)
            assert counts.max() - counts.min() <= 1
            extra.add(tuple(counts))
            np.testing.assert_array_equal(chosen, draw(task, n, number, seed=1))
        assert (len(extra) > 1) == (n % 3 > 0)  # the remainder moves between classes
        assert not np.array_equal(draw(task, n, 0, seed=1), draw(task, n, 1, seed=1))
        assert not np.array_equal(draw(task, n, 0, seed=1), draw(task, n, 0, seed=2))

    def test_every_sample_is_as_likely(self) -> None:
        task = task_of(manifest({"a": 10, "b": 10}))
        counts = np.bincount(np.concatenate([draw(task, 4, i, seed=0) for i in range(2000)]), minlength=20)
        assert counts.sum() == 8000
        assert np.abs(counts - 400).max() < 5 * np.sqrt(400 * 0.8)

    def test_groups_come_whole_and_balanced(self) -> None:
        task = task_of(manifest({"f": 6, "m": 5}, slices=4))
        for number in range(10):
            chosen = draw(task, 6, number, seed=0)
            assert len(chosen) == 24
            units = set(task.pool_units[chosen])
            assert len(units) == 6
            assert np.isin(task.pool_units, list(units)).sum() == 24  # none of a drawn subject is left out
            assert np.bincount(task.pool_y[chosen]).tolist() == [12, 12]
        assert not set(task.pool_groups) & set(task.test_groups)

    def test_plan_drops_sizes_reuses_the_main_one_and_thins_large_ones(self) -> None:
        task = task_of(manifest({"a": 100, "b": 80}))
        planned = plan(task, labels=20, draws=8, curve=(1, 10, 20, 120, 170, 180, 1000), seed=0)
        # 1: fewer than the classes; 170: not enough of b; 1000: above the pool.
        assert {size: len(draws) for size, draws in planned.items()} == {10: 8, 20: 8, 120: 5, 180: 1}
        np.testing.assert_array_equal(planned[180][0], np.arange(180))

    @pytest.mark.parametrize(
        ("pool", "n", "message"),
        [
            (
                {"a": 5, "b": 5},
                11,
                r"probe\.labels = 11, but the labelled pool holds only 10 images: set",
            ),
            ({"a": 5, "b": 5, "c": 5}, 2, r"fewer than one for each of the 3 classes: set probe\.labels to 3"),
            ({"a": 9, "b": 2}, 6, r"need 3 images of each class.* has 2 of 'b': set probe\.labels to 4 or less"),
            ({"a": 9, "b": 0}, 4, r"has 0 of 'b': raise split\.labelled"),
        ],
    )
    def test_impossible_sizes_are_refused(self, pool: dict[str, int], n: int, message: str) -> None:
        with pytest.raises(ToolkitError, match=message):
            plan(task_of(manifest(pool)), labels=n, draws=2, curve=(), seed=0)


class TestMetrics:
    def test_golden_values_by_hand(self) -> None:
        truth, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
        counts = metrics.confusion(truth, predicted, 3)
        assert counts.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
        assert metrics.accuracy(counts) == pytest.approx(4 / 6)
        assert metrics.balanced_accuracy(counts) == pytest.approx((2 / 3 + 1 + 0) / 3)
        assert metrics.macro_f1(counts) == pytest.approx((4 / 6 + 4 / 5 + 0) / 3)
        # Pairs (negative, positive): 0.1<0.4 0.1<0.8 right, 0.4=0.4 half, 0.4<0.8 right.
        score = np.array([0.1, 0.4, 0.4, 0.8])
        assert metrics.auroc(np.array([0, 0, 1, 1]), np.stack([1 - score, score], 1)) == pytest.approx(3.5 / 4)

    @pytest.mark.parametrize("n_classes", [2, 4])
    def test_equal_to_sklearn(self, n_classes: int) -> None:
        rng = np.random.default_rng(0)
        truth = rng.integers(0, n_classes, 300)
        shares = rng.dirichlet(np.ones(n_classes), 300).round(2) + np.eye(n_classes)[truth] * 0.1
        shares /= shares.sum(axis=1, keepdims=True)
        predicted = shares.argmax(axis=1)
        counts = metrics.confusion(truth, predicted, n_classes)
        np.testing.assert_array_equal(counts, peer.confusion_matrix(truth, predicted))
        assert metrics.accuracy(counts) == pytest.approx(peer.accuracy_score(truth, predicted))
        assert metrics.balanced_accuracy(counts) == pytest.approx(peer.balanced_accuracy_score(truth, predicted))
        assert metrics.macro_f1(counts) == pytest.approx(peer.f1_score(truth, predicted, average="macro"))
        expected = peer.roc_auc_score(truth, shares[:, 1] if n_classes == 2 else shares, multi_class="ovr")
        assert metrics.auroc(truth, shares) == pytest.approx(expected)

    def test_undefined_scores_are_none(self) -> None:
        assert metrics.auroc(np.zeros(5, int), np.full((5, 2), 0.5)) is None
        assert metrics.mean_sd([0.5]) == {"mean": 0.5, "sd": None}
        assert metrics.mean_sd([None, None]) == {"mean": None, "sd": None}
        assert metrics.mean_sd([0.1] * 20)["sd"] == 0  # not 1e-17
        absent = metrics.confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)  # class 2 is not in the test set
        assert metrics.balanced_accuracy(absent) == pytest.approx(0.75)


class TestIntervals:
    def test_resamples_equal_a_plain_loop(self) -> None:
        rng = np.random.default_rng(0)
        groups = np.array([3, 3, 1, 1, 1, 7, 2, 2])
        correct = rng.random((3, 8)) < 0.5
        got = Bootstrap(groups, seed=5, resamples=20).accuracies(correct)
        replay = np.random.default_rng([5, 0])
        members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
        for b, picked in enumerate(replay.integers(0, 4, size=(20, 4))):
            rows = np.concatenate([members[group] for group in picked])
            np.testing.assert_allclose(got[b], correct[:, rows].mean(axis=1), rtol=1e-6)

    def test_resamples_are_the_same_however_much_memory_they_take(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)
        for groups in (np.arange(301), rng.integers(0, 40, 301)):
            correct = rng.random((4, 301)) < 0.7
            whole = Bootstrap(groups, seed=5, resamples=250)
            picked = [np.random.default_rng([5, 0]).integers(0, len(whole._sizes), size=(250, len(whole._sizes)))]
            counts = np.stack([np.bincount(row, minlength=len(whole._sizes)) for row in picked[0]])
            np.testing.assert_array_equal(np.concatenate([weights for _, weights in whole.weights()]), counts)
            expected = whole.accuracies(correct)
            with monkeypatch.context() as small:
                small.setattr("stage2_probe.intervals.BLOCK_BYTES", 4 * 301 * 3)
                small.setattr("stage2_probe.intervals.GROUPS", 7)
                np.testing.assert_array_equal(whole.accuracies(correct), expected)
                assert max(len(weights) for _, weights in whole.weights()) < 100

    def test_pairs_share_their_resamples(self) -> None:
        rng = np.random.default_rng(0)
        a = rng.random((6, 50)) < 0.7
        b = a.copy()
        b[:, :5] = False  # five samples lost in every draw
        resampled = Bootstrap(np.arange(50), seed=0).resample({"a": a, "b": b, "c": a})
        np.testing.assert_array_equal(resampled["a"], resampled["c"])
        difference = resampled["a"] - resampled["b"]
        assert difference.min() >= 0
        assert np.std(difference) < 0.7 * np.sqrt(np.var(resampled["a"]) + np.var(resampled["b"]))

    def test_one_draw_varies_over_test_groups_only(self) -> None:
        correct = np.random.default_rng(0).random((1, 400)) < 0.8
        values = Bootstrap(np.arange(400), seed=0).resample({"x": correct})["x"]
        low, high = interval(values, 400)
        expected = 1.96 * np.sqrt(0.8 * 0.2 / 400)
        assert (high - low) / 2 == pytest.approx(expected, rel=0.15)
        assert interval(Bootstrap(np.arange(400), seed=0).resample({"x": correct})["x"], 400) == [low, high]

    def test_covers_the_truth_about_as_often_as_it_says(self) -> None:
        """Simulated probes: every draw shifts all test samples' chances, every test group has a level of its own."""
        rng = np.random.default_rng(0)
        draws, groups, size = 20, 60, 5
        covered = too_narrow = 0
        for _ in range(300):
            draw_effect, group_effect = rng.normal(0, 0.05, (draws, 1, 1)), rng.normal(0, 0.1, (1, groups, 1))
            correct = rng.random((draws, groups, size)) < 0.7 + draw_effect + group_effect
            flat = correct.reshape(draws, -1)
            bootstrap = Bootstrap(np.repeat(np.arange(groups), size), seed=1, resamples=300)
            low, high = interval(bootstrap.resample({"x": flat})["x"], groups)
            covered += low <= 0.7 <= high
            per_draw = flat.mean(axis=1)
            half = 2.09 * per_draw.std(ddof=1) / np.sqrt(draws)  # the t-interval that takes draws for independent
            too_narrow += abs(per_draw.mean() - 0.7) <= half
        assert 0.90 <= covered / 300 <= 0.99
        assert too_narrow < covered  # what the joint bootstrap is for


def test_task_is_plain_data() -> None:
    task = task_of(manifest({"a": 2, "b": 2}))
    assert isinstance(task, Task)
    assert all(type(name) is str for name in task.classes)  # not numpy's, whose repr says so
