"""Columns of text in an HDF5 file: any text comes back, and equal ones are kept once."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit_datasets.codes import columns as columns_module
from toolkit_datasets.codes.columns import read_column, write_column

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)  # a name holds no zero


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=30), chunk=st.sampled_from([1, 40, 1 << 18]))
def test_columns_of_text_come_back(texts: list[str], chunk: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    with h5py.File(tmp_path_factory.mktemp("columns") / "x.h5", "w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns_module, "CHUNK_BYTES", chunk)
        write_column(file, pd.Series(texts, name="id", dtype=object))
        assert read_column(file["id"]).tolist() == texts
        assert file["id"].asstr()[:].tolist() == texts, "as everybody reads text"


def test_equal_texts_are_one_object_and_numbers_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write_column(file, pd.Series([f"label {i % 2}" for i in range(1000)], name="label"))
        assert len({id(text) for text in read_column(file["label"])}) == 2
        file["number"] = np.arange(3)
        with pytest.raises(TypeError, match="no column of text"):
            read_column(file["number"])
