"""Labels that are numbers: reading them, refusing others, and splits that are balanced over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit_datasets.card import Split, load_card
from toolkit_datasets.codes import file_names
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import prepare
from toolkit_datasets.splits import assign
from toolkit_datasets.targets import counted, number, quantile_bins

Write = Callable[[Path, list[str]], Path]
NUMBERS = ["labels.kind=continuous", "image.size=16"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_is_read_as_it_was_written(value: float) -> None:
    assert number(repr(value)) == value


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=60), count=st.integers(1, 12))
def test_bins_are_ordered_and_equally_full(values: list[int], count: int) -> None:
    array = np.array(values, dtype=float)
    bins = quantile_bins(array, count)
    sizes = np.bincount(bins, minlength=count)
    assert sizes.max() - sizes.min() <= 1
    lows = [array[bins == b].min() for b in range(count) if sizes[b]]
    highs = [array[bins == b].max() for b in range(count) if sizes[b]]
    assert all(high <= low for high, low in zip(highs[:-1], lows[1:], strict=True))


def table(labels: list[str], groups: list[str] | None = None) -> pd.DataFrame:
    n = len(labels)
    columns = {"id": [f"s{i}" for i in range(n)], "label": labels, "group": groups or [""] * n}
    return pd.DataFrame({**columns, "part": "", "status": "ok"}, dtype=object)


def test_splits_are_balanced_over_quantiles_and_exact() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 1200)
    samples = table([f"{value:.6f}" for value in values])
    out = assign(samples, Split(unlabelled=300, labelled=300, test=600), 1, kind="continuous")
    assert Counter(out) == {"unlabelled": 300, "labelled": 300, "test": 600}
    rest = (out != "unlabelled").to_numpy()
    decile = np.argsort(np.argsort(values[rest])) * 10 // rest.sum()
    for split, each in (("labelled", 30), ("test", 60)):
        assert np.bincount(decile[(out[rest] == split).to_numpy()]).tolist() == [each] * 10
    plain = assign(samples, Split(unlabelled=300, labelled=300, test=600), 1)
    assert ((plain == "unlabelled") == (out == "unlabelled")).all(), "stage 1 never looks at labels"


def test_groups_stay_whole_and_few_of_them_lose_little() -> None:
    ages = np.repeat(np.random.default_rng(0).integers(20, 90, 40), 10)
    groups = np.repeat([f"g{i}" for i in range(40)], 10)
    samples = table([str(age) for age in ages], list(groups))
    out = assign(samples, Split(unlabelled=0, labelled=0.5, test=0.5), 0, kind="continuous")
    assert all(out[groups == group].nunique() == 1 for group in set(groups))
    assert Counter(out) == {"labelled": 200, "test": 200}


def test_counts_are_of_all_numbers_together() -> None:
    labels = pd.Series(["1.5", "", "2"])
    assert counted(labels, "continuous").tolist() == ["target", "", "target"]
    assert counted(labels, "class").tolist() == ["1.5", "", "2"]


@pytest.mark.parametrize("label", ["tall", "23,5", "inf", "1_000"])
def test_a_label_that_is_no_number_is_refused_before_decoding(
    label: str, tmp_path: Path, write_pictures: Write
) -> None:
    data = write_pictures(tmp_path / "d", [f"{i}.png" for i in range(20)])
    (tmp_path / "t.csv").write_text(
        "file;label\n" + "".join(f"{i}.png;{i / 2}\n" for i in range(19)) + f"19.png;{label}\n"
    )
    card = load_card("folder", NUMBERS)
    with pytest.raises(ToolkitError) as error:
        prepare(card, data, labels=tmp_path / "t.csv")
    for word in ("t.csv", "19.png", repr(label), "no finite number", "labels.kind=class"):
        assert word in str(error.value)
    prepared = prepare(card, data, labels=tmp_path / "t.csv", split=False)
    assert len(prepared.rows("new")) == 20, "images that are only encoded may be called anything"


def test_labels_stay_as_they_were_written_in_tables_and_file_names(tmp_path: Path, write_pictures: Write) -> None:
    data = write_pictures(tmp_path / "d", [f"{i}.png" for i in range(20)])
    (tmp_path / "t.csv").write_text("file,label\n" + "".join(f"{i}.png,{20 + i}.50\n" for i in range(18)))
    prepared = prepare(load_card("folder", NUMBERS), data, labels=tmp_path / "t.csv")
    assert prepared.samples["label"].tolist()[:2] == ["20.50", "21.50"]
    assert file_names(prepared.samples)[2] == "02_22.50.npy"


def test_names_may_hold_the_number(tmp_path: Path, write_pictures: Write) -> None:
    data = write_pictures(tmp_path / "d", [f"{age}/{age}{i}.png" for age in (31, 42, 57) for i in range(8)])
    prepared = prepare(load_card("folder", NUMBERS), data)
    assert set(prepared.samples["label"]) == {"31", "42", "57"}
    (data / "old").mkdir()
    (data / "31" / "310.png").rename(data / "old" / "310.png")
    with pytest.raises(ToolkitError, match=r"its name labels old/310\.png 'old'"):
        prepare(load_card("folder", NUMBERS), data)
