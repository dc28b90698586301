from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit_datasets.card import card_from
from toolkit_datasets.card_data import Split
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.splits import assign, assign_groups, leakage, scaled


def table(labels: list[str], groups: list[str] | None = None, parts: list[str] | None = None) -> pd.DataFrame:
    n = len(labels)
    return pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(n)],
            "label": labels,
            "group": groups or [""] * n,
            "part": parts or [""] * n,
            "status": "ok",
        },
        dtype=object,
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 5))
def test_splits_are_disjoint_by_group_of_the_right_size_and_free_of_order(data: st.DataObject, seed: int) -> None:
    n = data.draw(st.integers(12, 80))
    labels = data.draw(st.lists(st.sampled_from(["a", "b", ""]), min_size=n, max_size=n))
    groups = data.draw(st.lists(st.sampled_from(["", "", "", "g1", "g2", "g3"]), min_size=n, max_size=n))
    samples = table(labels, groups)
    split = Split(unlabelled=0.4, labelled=0.3, test=0.3)
    out = assign(samples, split, seed)
    assert set(out) <= {"unlabelled", "labelled", "test", "unused"}
    for group, rows in samples.groupby("group").groups.items():
        if group:
            assert out[rows].nunique() == 1
    judged = samples["label"][out.isin(["labelled", "test"])]
    lone = samples["group"] == ""
    assert (judged[lone[judged.index]] != "").all(), "only labelled samples may be in the pool or the test set"
    shuffled = samples.sample(frac=1, random_state=seed)
    if not (samples["group"] != "").any():  # a group's label is that of its first row, so order may matter there
        assert (assign(shuffled.reset_index(drop=True), split, seed).to_numpy() == out[shuffled.index].to_numpy()).all()


def test_counts_are_exact_and_stratified() -> None:
    samples = table(["cat", "dog", "dog"] * 400)
    out = assign(samples, Split(unlabelled=300, labelled=300, test=600), seed=1)
    assert Counter(out) == {"unlabelled": 300, "labelled": 300, "test": 600}
    rest = samples["label"][out != "unlabelled"]
    for split in ("labelled", "test"):
        share = (samples["label"][out == split] == "dog").mean()
        assert share == pytest.approx((rest == "dog").mean(), abs=0.005)


def test_stage_1_never_looks_at_labels() -> None:
    labels = ["cat", "dog"] * 100
    swapped = list(np.random.default_rng(0).permutation(labels))
    first, second = (assign(table(names), Split(unlabelled=80, labelled=60, test=60), 3) for names in (labels, swapped))
    assert ((first == "unlabelled") == (second == "unlabelled")).all()


def test_images_without_a_label_train_stage_1_first() -> None:
    samples = table([""] * 50 + ["cat", "dog"] * 30)
    out = assign(samples, Split(unlabelled=60, labelled=20, test=30), 0)
    assert (out[:50] == "unlabelled").all()
    assert Counter(out) == {"unlabelled": 60, "labelled": 20, "test": 30}
    nothing = assign(table([""] * 20), Split(), 0)
    assert (nothing == "unlabelled").all()


def test_the_publishers_test_part_is_the_only_source_of_test_images() -> None:
    parts = ["Training"] * 80 + ["Testing"] * 20
    samples = table(["a", "b"] * 50, groups=["dup" if i in (3, 90) else "" for i in range(100)], parts=parts)
    out = assign(samples, Split(unlabelled=40, labelled="rest", test="rest", test_part="Testing"), 0)
    assert (out[80:] == "test").all()
    assert not (out[:80] == "test").any()
    assert out[3] == "unused", "a copy of a test picture neither judges nor teaches"
    assert (out == "unlabelled").sum() == 40


def test_skipped_samples_have_no_split() -> None:
    samples = table(["a", "b"] * 10)
    samples.loc[4, "status"] = "damaged"
    assert assign(samples, Split(), 0)[4] == ""


@pytest.mark.parametrize(
    ("split", "key"),
    [
        (Split(unlabelled=50, labelled=1, test=1), "split.unlabelled"),
        (Split(unlabelled=10, labelled=20, test=20), "labelled"),
    ],
)
def test_too_few_images_name_the_key_and_the_numbers(split: Split, key: str) -> None:
    with pytest.raises(ToolkitError) as error:
        assign(table(["a", "b"] * 20), split, 0)
    assert key in str(error.value)
    assert "--limit" in str(error.value)


def test_a_limit_shrinks_counts_and_keeps_shares() -> None:
    small = scaled(Split(unlabelled=5000, labelled=0.2, test="rest"), 0.1)
    assert (small.unlabelled, small.labelled, small.test) == (500, 0.2, "rest")


def cohort(people: int = 60, slices: int = 5, labels: list[str] | None = None) -> pd.DataFrame:
    """A sample table of slices: two thirds of the people from site A, half of them (or as given) labelled m or f."""
    labels = labels or ["m", "f"] * (people // 2)
    rows = [
        {
            "id": f"p{i}",
            "slice": str(k),
            "label": labels[i],
            "group": f"p{i}",
            "part": "",
            "site": "B" if i % 3 == 0 else "A",
            "status": "empty slice: x" if i == 7 and k < 2 else "ok",
        }
        for i in range(people)
        for k in range(slices)
    ]
    return pd.DataFrame(rows, dtype=object)


def people(samples: pd.DataFrame, out: pd.Series) -> pd.DataFrame:
    """One row for each person and split."""
    return samples.assign(split=out)[out != ""].drop_duplicates(["group", "split"])


def test_group_sizes_are_counts_and_shares_of_people() -> None:
    samples = cohort()
    shares = people(samples, assign_groups(samples, Split(unlabelled=0.5, labelled=0.25, test="rest"), 0))
    assert Counter(shares["split"]) == {"unlabelled": 30, "labelled": 15, "test": 15}
    counts = people(samples, assign_groups(samples, Split(unlabelled=40, labelled=6, test=10), 0))
    assert Counter(counts["split"]) == {"unlabelled": 40, "labelled": 6, "test": 10, "unused": 4}
    assert not counts["group"].duplicated().any(), "nobody is on two sides"


@given(seed=st.integers(0, 30))
@settings(max_examples=15, deadline=None)
def test_pool_and_test_have_the_labels_and_sites_of_the_rest(seed: int) -> None:
    samples = cohort(120)
    found = people(samples, assign_groups(samples, Split(unlabelled=0.4, labelled=0.3, test=0.3), seed))
    rest = found[found["split"] != "unlabelled"]
    sides = {split: Counter(zip(part["label"], part["site"], strict=True)) for split, part in rest.groupby("split")}
    assert all(abs(sides["labelled"][stratum] - sides["test"][stratum]) <= 1 for stratum in sides["labelled"])
    learners = found[found["split"] == "unlabelled"]
    assert Counter(learners["site"]) == {"A": 32, "B": 16}


def test_the_same_people_train_stage_1_for_every_target_and_for_none() -> None:
    sizes = Split(unlabelled=0.5, labelled=0.25, test="rest")
    ages = [str(20 + i) if i % 4 else "" for i in range(60)]
    splits = [
        assign_groups(cohort(), sizes, 3),
        assign_groups(cohort(labels=ages), sizes, 3, kind="continuous"),
        assign_groups(cohort(labels=[""] * 60), sizes, 3),
    ]
    learners = [set(np.flatnonzero(out == "unlabelled")) for out in splits]
    assert learners[0] == learners[1] == learners[2]
    assert Counter(people(cohort(), splits[2])["split"]) == {"unlabelled": 30, "test": 30}, "unseen people judge anyway"
    labelled = people(cohort(labels=ages), splits[1])
    of_test = labelled[labelled["split"] == "test"]
    assert (labelled["label"][labelled["split"] == "labelled"] != "").all()
    assert (of_test["label"] != "").sum() >= 10, "the pool does not take all of the scarce labels"


def test_counts_of_people_that_are_not_there_say_so() -> None:
    for sizes, words in (
        (Split(unlabelled=70, labelled=0, test=0), "split.unlabelled wants 70 groups, but there are only 60"),
        (Split(unlabelled=30, labelled=20, test=20), "split.labelled + split.test wants 40 groups"),
    ):
        with pytest.raises(ToolkitError, match=words.replace("+", r"\+")):
            assign_groups(cohort(), sizes, 0)
    with pytest.raises(ToolkitError, match="wants 20 labelled groups, but there are only 0"):
        assign_groups(cohort(labels=[""] * 60), Split(unlabelled=10, labelled=20, test=20), 0)


def test_a_publishers_test_part_holds_for_groups_too() -> None:
    samples = cohort()
    samples["part"] = ["test" if int(name[1:]) >= 50 else "train" for name in samples["group"]]
    out = assign_groups(samples, Split(unlabelled="rest", labelled=0, test="rest", test_part="test"), 0)
    assert Counter(people(samples, out)["split"]) == {"unlabelled": 50, "test": 10}
    assert set(samples["part"][out == "test"]) == {"test"}


def test_a_small_cohort_labels_the_people_that_stage_1_learns_from() -> None:
    sizes = Split(unlabelled=0.7, labelled="unlabelled", test="rest")
    assert sizes.pool == "unlabelled"
    samples = cohort(labels=["m", "f", ""] * 20)
    found = people(samples, assign_groups(samples, sizes, 0))
    assert Counter(found["split"]) == {"unlabelled": 42, "test": 18}
    apart = Split(unlabelled=0.7, labelled=0.1, test="rest")
    same = people(samples, assign_groups(samples, apart, 0))
    learners = [set(table["group"][table["split"] == "unlabelled"]) for table in (found, same)]
    assert learners[0] == learners[1], "who learns does not depend on who is labelled"
    assert leakage(samples.assign(split=assign_groups(samples, sizes, 0))) is None
    pictures = assign(table(["a", "b"] * 50), sizes, 0)
    assert Counter(pictures) == {"unlabelled": 70, "test": 30}
    assert Counter(assign(table(["a", "b"] * 50), scaled(sizes, 0.5), 0)) == Counter(pictures), "shares stay"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"labelled": "half"}, r'share from 0\.0 to 1\.0, or "rest" or "unlabelled"'),
        ({"test": "unlabelled"}, r'share from 0\.0 to 1\.0, or "rest"$'),
        ({"test": 1.5}, r'share from 0\.0 to 1\.0, or "rest"$'),
        ({"labelled": "unlabelled", "unlabelled": 0}, r"leaves it empty: set split\.unlabelled above 0"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolkitError, match=said):
        card_from({"title": "t", "split": keys}, origin="test")


def test_leakage_is_counted_from_the_split_itself() -> None:
    samples = cohort()
    honest = samples.assign(split=assign_groups(samples, Split(), 0))
    assert leakage(honest) is None
    sizes = Split(by="sample", allow_leakage=True, unlabelled=0.5, labelled=0.25, test="rest")
    leaky = samples.assign(split=assign_groups(samples, sizes, 0))
    found = leakage(leaky)
    assert found is not None
    assert found["of"] == leaky["group"][leaky["split"] == "test"].nunique()
    assert found["groups"] > 0.8 * found["of"]
    assert leakage(samples.assign(split=assign(samples, sizes, 0))) is not None


def test_cutting_groups_apart_needs_a_permission() -> None:
    with pytest.raises(ValueError, match="--allow-leakage"):
        Split(by="sample")
