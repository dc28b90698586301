from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit_datasets.card import Split
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.splits import assign, scaled


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
