"""One decision for each subject: how answers are pooled, who is one case, what intervals resample, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from tiny_store import relabelled, sample_table, splits_of, store_of

from stage2_probe.classifiers import create
from stage2_probe.groups import by_group, group_means
from stage2_probe.intervals import Bootstrap, interval, share_interval
from stage2_probe.predict import predictions, write_predictions
from stage2_probe.probe import probe
from stage2_probe.regressors import create as create_regressor
from stage2_probe.task import ClassTask, task_of
from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import Codes, open_codes
from toolkit_datasets.errors import ToolkitError

SLICES = 5
QUICK = Probe(labels=8, draws=3, curve=(6, 8), features="histogram")


def subjects(people: int, *, slices: int = SLICES) -> pd.DataFrame:
    """`people` of two sexes in turn, `slices` each; 1 : 2 : 4 unlabelled, labelled, test."""
    who = np.arange(people).repeat(slices)
    return sample_table(
        [f"sub-{i:03d}" for i in who],
        slice=[str(k) for _ in range(people) for k in range(slices)],
        label=np.where(who % 2, "m", "f"),
        group=[f"sub-{i:03d}" for i in who],
        split=splits_of(who // 2),
        number="",
    )


def store(path: Path, table: pd.DataFrame, *, content: str = "indices") -> Codes:
    """Codes that tell a sex by its own half of the codebook, of every person more or less clearly."""
    rng = np.random.default_rng(0)
    shape = (len(table), 1, 4, 4)
    own = rng.integers(0, 4, shape) + 4 * (table["label"] == "m").to_numpy()[:, None, None, None]
    clear = rng.uniform(0, 0.3, len(table) // SLICES).repeat(SLICES)[:, None, None, None]
    indices = np.where(rng.random(shape) < clear, own, rng.integers(0, 8, shape))
    return store_of(path, table, indices, content=content)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Codes:
    return store(tmp_path_factory.mktemp("store") / "codes.h5", subjects(84))


@pytest.fixture(scope="module")
def done(codes: Codes, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("probe")
    rng = np.random.default_rng(1)
    size = 1300 + 90 * (codes.manifest["label"] == "m").to_numpy() + rng.normal(0, 60, 84).repeat(SLICES)
    images = {"head_size": np.stack([size / 8, size], axis=1), "hog": rng.normal(size=(len(codes), 4))}
    return probe(codes, QUICK, seed=3, out=out, images=images), out


class TestPooling:
    @given(st.data())
    @settings(max_examples=30, deadline=None)
    def test_means_equal_a_plain_loop_in_any_order(self, data: st.DataObject) -> None:
        groups = np.array(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=20)))
        values = np.random.default_rng(len(groups)).normal(size=(2, len(groups), 3))
        expected = np.stack([values[:, groups == name].mean(axis=1) for name in np.unique(groups)], axis=1)
        np.testing.assert_allclose(group_means(values, groups), expected, atol=1e-12)

    def test_log_odds_by_hand(self) -> None:
        """Odds of 9 and of 1 have the geometric mean 3: a probability of 3 / 4."""
        answers = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
        pooled = create("logistic", n_classes=2).pooled(answers, np.array([7, 2, 7]))
        np.testing.assert_allclose(pooled, [[0.2, 0.8], [0.75, 0.25]])

    def test_one_certain_slice_does_not_outvote_the_rest(self) -> None:
        answers = np.array([[1e-12, 1 - 1e-12]] + [[0.9, 0.1]] * 4)
        assert create("knn", n_classes=2).pooled(answers, np.zeros(5))[0, 0] > 0.5
        assert np.isfinite(create("knn", n_classes=2).pooled(np.array([[1.0, 0.0]]), np.zeros(1))).all()

    def test_a_linear_classifier_says_what_it_says_of_the_mean_slice(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(60, 5)).astype(np.float32) + np.arange(60)[:, None] % 2 * 0.5
        fitted = create("logistic", n_classes=2).fit(x, np.arange(60) % 2)
        person = rng.normal(size=(12, 5)).astype(np.float32)
        of_mean = fitted.answers(person.mean(axis=0, keepdims=True))
        np.testing.assert_allclose(fitted.pooled(fitted.answers(person), np.zeros(12)), of_mean, rtol=1e-4)

    def test_predictions_of_numbers_are_averaged(self) -> None:
        pooled = create_regressor("ridge").pooled(np.array([[20.0], [50.0], [40.0]]), np.array([1, 0, 1]))
        assert pooled[:, 0].tolist() == [50, 30]


def test_subjects_are_pooled_whole_from_blocks_that_cut_between_them(
    codes: Codes, done: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage2_probe.features.BLOCK_BYTES", 7 * 4 * 8)  # seven slices, and five are a subject
    found = probe(codes, QUICK, seed=3, out=tmp_path)
    assert found["probe"]["accuracy"] == done[0]["probe"]["accuracy"]
    for name in ("predictions.csv", "predictions_subjects.csv"):
        small, whole = (pd.read_csv(folder / name) for folder in (tmp_path, done[1]))
        pd.testing.assert_frame_equal(small, whole, atol=2e-6)


class TestWhoIsOneCase:
    def test_each_test_subject_once_with_its_label(self, codes: Codes) -> None:
        task = task_of(codes.manifest)
        assert (task.grouped, task.by_group) == (True, True)
        whole = by_group(task)
        assert isinstance(whole, ClassTask)
        named = codes.manifest.iloc[whole.test]
        assert named["group"].is_unique
        assert set(named["group"]) == set(codes.manifest["group"].iloc[task.test])
        assert [whole.classes[y] for y in whole.test_y] == named["label"].tolist()
        assert whole.pool is task.pool

    def test_ages_of_a_subject_are_averaged(self, codes: Codes) -> None:
        table = codes.manifest.assign(label=[str(i) for i in range(len(codes))])
        task = task_of(table, "continuous", unit="group")
        assert task.by_group
        np.testing.assert_allclose(by_group(task).test_y[0], task.test_y[:SLICES].mean())
        assert not task_of(table, "continuous").by_group, "labels of single slices are not a subject's"

    def test_slices_of_two_classes_are_decided_one_by_one(self, codes: Codes) -> None:
        labels = np.where(np.arange(240) % SLICES < 2, "tumour", "none")
        other = relabelled(codes, "test", labels)
        other = relabelled_pool(other, np.where(np.arange(120) % SLICES < 2, "tumour", "none"))
        task = task_of(other)
        assert (task.grouped, task.by_group) == (True, False), "draws still keep subjects whole"
        with pytest.raises(ToolkitError, match=r"'sub-\d+' holds samples of several classes: set probe\.unit=sample"):
            task_of(other, unit="group")

    def test_the_card_decides(self, codes: Codes) -> None:
        task = task_of(codes.manifest, unit="sample")
        assert (task.grouped, task.by_group, task.unit, task.n_pool) == (False, False, "images", 120)
        assert len(np.unique(task.pool_groups)) == 24, "cross-validation and intervals keep subjects whole all the same"
        single = codes.manifest.drop_duplicates("group")
        assert not task_of(single).by_group
        assert task_of(single, unit="group").by_group

    def test_the_unlabelled_split_may_be_the_pool(self, codes: Codes) -> None:
        task = task_of(codes.manifest, pool_split="unlabelled")
        assert set(codes.manifest["split"].iloc[task.pool]) == {"unlabelled"}
        with pytest.raises(ToolkitError, match=r'holds only 12 groups: set probe\.labels to 12 or less, or to "all"'):
            task.check_size(13)
        with pytest.raises(ToolkitError, match=r"in the split 'unlabelled'.*split\.unlabelled above 0"):
            task_of(relabelled(codes, "unlabelled", np.full(60, "")).manifest, pool_split="unlabelled")


def relabelled_pool(codes: Codes, labels: np.ndarray) -> pd.DataFrame:
    """The manifest with other labels in the pool."""
    manifest = codes.manifest.copy()
    manifest.loc[manifest["split"] == "labelled", "label"] = labels
    return manifest


class TestResults:
    def test_scores_are_of_subjects_and_those_of_slices_stand_beside(self, done: tuple[dict[str, Any], Path]) -> None:
        found = done[0]["probe"]
        assert (found["decided"], found["unit"], found["n_test"], found["n_test_groups"]) == (
            "group",
            "groups",
            240,
            48,
        )
        assert np.sum(found["confusion"]) == pytest.approx(48)
        beside = found["per_sample"]
        assert (beside["n"], beside["of"]) == (240, "slices")
        assert found["accuracy"]["mean"] > beside["accuracy"]["mean"] + 0.05, "five slices know more than one"
        assert found["auroc"]["mean"] > beside["auroc"]["mean"]
        for scores in (found, beside):
            low, high = scores["auroc"]["ci95"]
            assert low < scores["auroc"]["mean"] < high
        assert done[0]["curve"]["accuracy"]["codes"][1] == found["accuracy"]

    def test_baselines_are_judged_on_the_same_subjects(self, done: tuple[dict[str, Any], Path]) -> None:
        found = done[0]["baselines"]
        assert list(found) == ["majority", "hog", "head_size"]
        size = found["head_size"]
        assert size["auroc"]["mean"] > 0.75
        assert size["accuracy"] == size["per_sample"]["accuracy"], "all slices of a head have one volume"
        assert size["difference"]["mean"] == pytest.approx(
            done[0]["probe"]["accuracy"]["mean"] - size["accuracy"]["mean"]
        )
        assert abs(found["hog"]["auroc"]["mean"] - 0.5) < 0.2

    def test_files_hold_both(self, done: tuple[dict[str, Any], Path], codes: Codes) -> None:
        returned, out = done
        slices = pd.read_csv(out / "predictions.csv")
        people = pd.read_csv(out / "predictions_subjects.csv")
        assert list(people) == ["group", "samples", "label", "predicted", "p_f", "p_m", "share_right"]
        assert (len(slices), len(people)) == (240, 48)
        assert set(people["samples"]) == {SLICES}
        right = (people["label"] == people["predicted"]).mean()
        assert right == pytest.approx(returned["probe"]["saved_classifier"]["accuracy"])
        odds = np.log(slices["p_m"] / slices["p_f"]).groupby(slices["id"]).mean()
        np.testing.assert_allclose(odds[people["group"]], np.log(people["p_m"] / people["p_f"]), atol=1e-3)
        truth = codes.manifest.drop_duplicates("group").set_index("group")["label"]
        assert (truth[people["group"]].to_numpy() == people["label"]).all()
        assert json.loads((out / "classifier.json").read_text())["decided"] == "group"

    def test_single_slices_on_request(self, codes: Codes, tmp_path: Path) -> None:
        settings = QUICK.model_copy(update={"curve": ()})
        probe(codes, settings, seed=0, out=tmp_path)
        assert (tmp_path / "predictions_subjects.csv").is_file()
        found = probe(codes, settings.model_copy(update={"unit": "sample"}), seed=0, out=tmp_path)["probe"]
        assert (found["decided"], found["unit"], found["n_pool"]) == ("sample", "images", 120)
        assert "per_sample" not in found
        assert not (tmp_path / "predictions_subjects.csv").exists(), "an earlier probe's file would not belong here"
        low, high = found["accuracy"]["ci95"]
        assert high - low > 2 * 1.96 * np.sqrt(0.25 / 240) * 0.9, "subjects are resampled, not slices"

    def test_ages(self, codes: Codes, tmp_path: Path) -> None:
        age = np.random.default_rng(0).uniform(20, 80, 84).round(1).repeat(SLICES)
        other = open_codes(codes.path)
        other.manifest = codes.manifest.assign(label=[str(value) for value in age])
        size = (age[:, None] + np.random.default_rng(1).normal(0, 20, (len(age), 1))).astype(np.float32)
        found = probe(other, QUICK, seed=0, out=tmp_path, kind="continuous", images={"head_size": size})
        one, many = found["baselines"]["head_size"]["per_sample"], found["baselines"]["head_size"]
        assert many["mae"]["mean"] < one["mae"]["mean"], "errors of slices cancel"
        assert set(found["probe"]["per_sample"]) == {"n", "of", "mae", "r2", "rmse", "pearson"}
        people = pd.read_csv(tmp_path / "predictions_subjects.csv")
        assert list(people) == ["group", "samples", "target", "prediction", "mean_absolute_error"]
        assert people["mean_absolute_error"].mean() == pytest.approx(found["probe"]["mae"]["mean"])

    def test_the_whole_pool_is_one_draw_with_an_interval_over_subjects(self, codes: Codes, tmp_path: Path) -> None:
        settings = QUICK.model_copy(update={"labels": "all", "curve": ()})
        found = probe(codes, settings, seed=0, out=tmp_path, pool_split="unlabelled")["probe"]
        assert (found["n_labelled"], found["n_pool"], found["draws"], found["pool"]) == (12, 12, 1, "unlabelled")
        assert found["accuracy"]["sd"] is None
        assert found["accuracy"]["ci95"][0] < found["accuracy"]["mean"] < found["accuracy"]["ci95"][1]
        drawn = pd.read_csv(tmp_path / "draws.csv")["id"]
        assert set(drawn) == set(codes.manifest["id"][codes.manifest["split"] == "unlabelled"])


class TestPredictions:
    def test_new_codes_get_both_in_either_format(self, done: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
        copy = store(tmp_path / "npy", subjects(84), content="vectors")
        rows = np.flatnonzero(copy.manifest["split"] == "test")
        again = predictions(done[1], copy, rows).of_subjects()
        of_probe = pd.read_csv(done[1] / "predictions_subjects.csv")
        assert list(again) == ["group", "samples", "predicted", "p_f", "p_m"]
        assert again["group"].tolist() == of_probe["group"].tolist()
        np.testing.assert_allclose(again["p_m"], of_probe["p_m"], atol=1e-6)

    def test_codes_without_subjects_say_so(self, done: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
        single = store_of(tmp_path / "single.h5", subjects(6, slices=1), np.zeros((6, 1, 4, 4), int))
        found = predictions(done[1], single)
        assert (len(found.samples), found.groups) == (6, None)
        assert list(write_predictions(found, tmp_path / "out.csv")) == [tmp_path / "out.csv"]
        with pytest.raises(ToolkitError, match="hold no subjects with several samples"):
            write_predictions(found, tmp_path / "out.csv", subjects=True)


class TestIntervals:
    def test_auroc_equals_a_plain_loop_over_resampled_subjects(self) -> None:
        rng = np.random.default_rng(0)
        groups = np.array([3, 3, 1, 1, 1, 7, 2, 2, 9])
        positive = np.isin(groups, [3, 2, 9])
        shares = rng.random((2, 9)).round(1)  # with ties
        got = Bootstrap(groups, seed=5, resamples=30).auroc(shares, positive)
        names = np.unique(groups)
        for b, picked in enumerate(np.random.default_rng([5, 0]).integers(0, 5, size=(30, 5))):
            rows = np.concatenate([np.flatnonzero(groups == names[group]) for group in picked])
            if len(set(positive[rows])) < 2:
                assert np.isnan(got[b]).all()
            else:
                expected = [roc_auc_score(positive[rows], share[rows]) for share in shares]
                np.testing.assert_allclose(got[b], expected, rtol=1e-5)

    def test_few_subjects_are_covered_more_often_than_by_plain_percentiles(self) -> None:
        rng = np.random.default_rng(0)
        covered = plain = 0
        for _ in range(400):
            values = rng.normal(0, 1, (1, 10))
            resampled = Bootstrap(np.arange(10), seed=1, resamples=400).means(values)[:, 0]
            low, high = interval(resampled, 10) or (0, 0)
            covered += low <= 0 <= high
            low, high = np.percentile(resampled, [2.5, 97.5])
            plain += low <= 0 <= high
        assert plain + 8 < covered
        assert 0.91 < covered / 400 < 0.98

    @pytest.mark.parametrize("right", [14, 0])
    def test_all_right_or_all_wrong_has_the_exact_limit(self, right: int) -> None:
        correct = np.full((3, 14), right == 14)
        values = Bootstrap(np.arange(14), seed=0).resample({"x": correct})["x"]
        exact = binomtest(right, 14).proportion_ci(method="exact")
        assert share_interval(values, 14) == pytest.approx([exact.low, exact.high])
        assert share_interval(np.array([0.5, 1.0, 1.0]), 14) == interval(np.array([0.5, 1.0, 1.0]), 14)
