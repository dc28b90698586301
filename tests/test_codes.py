"""The contract between the stages: whatever is written comes back, in every format, and nothing else is believed."""

import hashlib
import json
import os
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_store import random_arrays, sample_table, write_store

from toolkit_datasets.codes import (
    CodeWriter,
    Level,
    StoreInfo,
    file_names,
    fingerprint,
    lookup,
    manifest_of,
    match,
    open_codes,
    sinks,
)
from toolkit_datasets.codes import names as names_module
from toolkit_datasets.codes.sinks import HDF5File
from toolkit_datasets.errors import ToolkitError


def samples(n: int, **columns: Any) -> pd.DataFrame:
    return sample_table([f"train/cat.{i}" for i in range(n)], **{"label": "cat", **columns})


def info(content: str = "vectors", levels: tuple[Level, ...] = (Level("codes", 1, 16, 4, 3, 2),)) -> StoreInfo:
    return StoreInfo(content, levels, "hash", {"title": "t"}, 0.5, {"batch": 4}, {"python": "3"})


def store(path: Path, about: StoreInfo, n: int = 11, **options: Any) -> dict[str, np.ndarray]:
    books, data = random_arrays(about, n)
    write_store(path, about, samples(n), books, data, block=4, **options)
    return data


LEVELS = st.lists(
    st.builds(
        lambda depth, codes, dim, h, w: (depth, codes, dim, h, w),
        st.integers(1, 3),
        st.sampled_from([2, 256, 257, 700]),
        st.integers(1, 5),
        st.integers(1, 4),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=2,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=LEVELS, content=st.sampled_from(["vectors", "indices", "latents"]), n=st.integers(1, 9))
def test_both_formats_give_back_what_was_written(
    shapes: list[tuple[int, ...]], content: str, n: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("codes")
    about = info(content, tuple(Level(f"level{i}", *shape) for i, shape in enumerate(shapes)))
    books, _ = random_arrays(about, n)
    data = store(folder / "npy", about, n)
    store(folder / "x.h5", about, n)
    a, b = open_codes(folder / "npy"), open_codes(folder / "x.h5")
    assert a.info == b.info == about
    pd.testing.assert_frame_equal(a.manifest, b.manifest, check_dtype=False)
    some = np.array([n - 1, 0])
    for level in about.levels:
        first, second = a.vectors(level.name), b.vectors(level.name)
        assert first.tobytes() == second.tobytes()
        assert a.vectors(level.name, some).tobytes() == first[some].tobytes() == b.vectors(level.name, some).tobytes()
        assert (a.codebook(level.name) == books[level.name]).all()
        if content == "latents":
            assert (first == data[level.name]).all()
        else:
            assert first.tobytes() == lookup(books[level.name], data[level.name]).tobytes()
            assert (b.indices(level.name) == data[level.name]).all()
            if content == "indices" or level.depth == 1:
                assert (a.indices(level.name) == data[level.name]).all()


def test_the_files_are_plain_numpy_arrays_named_after_their_source(tmp_path: Path) -> None:
    data = store(tmp_path / "codes", info(), n=101)
    book = np.load(tmp_path / "codes" / "codebook.npy")
    file = np.load(tmp_path / "codes" / "002_cat.npy")
    assert file.shape == (4, 3, 2)
    assert (file == book[data["codes"][2, 0]].transpose(2, 0, 1)).all()
    assert json.loads((tmp_path / "codes" / "meta.json").read_text())["model_hash"] == "hash"


def test_names_number_stem_slice_label_and_collisions() -> None:
    table = samples(
        6,
        id=["a/7", "b/7", "x/odd name!", "sub-1", "CASE", "case"],
        number=["7", "7", "", "", "", ""],
        slice=["", "", "", "12", "", ""],
        label=["cat", "cat", "dog/../x", "", "", ""],
    )
    names = file_names(table)
    assert names[2] == "odd-name-_dog-..-x.npy"
    assert names[3] == "sub-1_s012.npy"
    assert len({name.casefold() for name in names}) == 6
    assert names[0].startswith("7_cat-")
    assert file_names(samples(1000))[2] == "002_cat.npy"


def test_a_part_of_the_table_keeps_the_names_of_the_whole() -> None:
    whole = samples(1000)
    assert manifest_of(whole, np.array([2]))["file"].tolist() == ["002_cat.npy"]


@pytest.mark.parametrize("length", [30, 600])
def test_an_hdf5_manifest_holds_any_text(length: int, tmp_path: Path) -> None:
    """Short texts are stored at a fixed width, longer ones at their own; h5py reads both in the same way."""
    about = info("indices")
    books, data = random_arrays(about, 4)
    texts = ["", "ünï/cödé 図", "a" * length, 'x, "y"\nz']
    write_store(tmp_path / "x.h5", about, samples(4, path=texts, group=texts), books, data)
    codes = open_codes(tmp_path / "x.h5")
    assert codes.manifest["path"].tolist() == codes.manifest["group"].tolist() == texts
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["path"].asstr()[2] == "a" * length
        assert (h5py.check_string_dtype(file["path"].dtype).length is None) == (length > 512)


def test_a_store_with_texts_of_variable_length_is_read(tmp_path: Path) -> None:
    """As stores were written before their manifests were compressed."""
    data = store(tmp_path / "x.h5", info("indices"))
    wanted = open_codes(tmp_path / "x.h5").manifest
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        for name in wanted:
            del file[name]
            file.create_dataset(name, data=wanted[name].to_numpy(object), dtype=h5py.string_dtype())
    codes = open_codes(tmp_path / "x.h5")
    assert codes.manifest.equals(wanted)
    assert np.array_equal(codes.indices("codes"), data["codes"])


def test_many_files_are_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "SHARD_ABOVE", 8)
    monkeypatch.setattr(names_module, "SHARD_SIZE", 5)
    data = store(tmp_path / "codes", info("indices"), n=11)
    assert sorted(p.name for p in (tmp_path / "codes").iterdir() if p.is_dir()) == ["0000", "0001", "0002"]
    assert (open_codes(tmp_path / "codes").indices("codes") == data["codes"]).all()


@pytest.mark.parametrize("name", ["codes", "codes.h5"])
def test_an_interrupted_writer_goes_on_and_the_result_is_the_same(name: str, tmp_path: Path) -> None:
    about, n = info("indices"), 11
    books, data = random_arrays(about, n)
    manifest = manifest_of(samples(n), np.arange(n))

    def writer() -> CodeWriter:
        form = "h5" if name.endswith("h5") else "npy"
        return CodeWriter(tmp_path / name, format=form, info=about, manifest=manifest, codebooks=books)

    with pytest.raises(KeyboardInterrupt), writer() as first:
        first.write({"codes": data["codes"][:4]})
        raise KeyboardInterrupt
    with pytest.raises(ToolkitError, match="unfinished"):
        open_codes(tmp_path / name)
    with writer() as second:
        assert second.rows_done == 4
        second.write({"codes": data["codes"][4:]})
    assert (open_codes(tmp_path / name).indices("codes") == data["codes"]).all()
    with writer() as third:
        assert third.rows_done == n, "a finished store of the same codes is left alone"
    assert [p.name for p in tmp_path.iterdir()] == [name]


TWO = (Level("fine", 1, 300, 4, 8, 8), Level("coarse", 4, 256, 2, 1, 1))  # rows of 128 and of 4 bytes


def test_an_hdf5_file_written_bit_by_bit_is_as_small_as_one_written_at_once(tmp_path: Path) -> None:
    """Room is reserved for each batch, and what is not used of it given back: it once made files 1.6 times as large."""
    about, n = info("indices", TWO), 5000  # five chunks of 1,024 rows of the one level
    books, data = random_arrays(about, n)
    for name, block in (("whole.h5", n), ("bits.h5", 250)):
        write_store(tmp_path / name, about, samples(n), books, data, block=block)
    whole, bits = (open_codes(tmp_path / name) for name in ("whole.h5", "bits.h5"))
    for level in about.levels:
        assert np.array_equal(bits.indices(level.name), data[level.name])
        assert np.array_equal(whole.indices(level.name), data[level.name])
    assert bits.path.stat().st_size == pytest.approx(whole.path.stat().st_size, rel=0.05)


def test_a_killed_hdf5_writer_goes_on_from_its_last_batch(tmp_path: Path) -> None:
    about, n = info("indices", TWO), 23
    books, data = random_arrays(about, n)
    manifest = manifest_of(samples(n), np.arange(n))

    def sink() -> HDF5File:
        return HDF5File(tmp_path / "x.h5", about, manifest, books, {"fingerprint": "own"})

    killed = sink()
    killed.append({name: array[:9] for name, array in data.items()})
    on_disk = (tmp_path / "x.h5").read_bytes()  # what a process leaves that is killed here
    killed.close()
    assert len((tmp_path / "x.h5").read_bytes()) < len(on_disk), "with the room that it had reserved"
    (tmp_path / "x.h5").write_bytes(on_disk)
    resumed = sink()
    assert resumed.rows_done == 9
    resumed.append({name: array[9:] for name, array in data.items()})
    resumed.close()
    codes = open_codes(tmp_path / "x.h5")
    for level in about.levels:
        assert np.array_equal(codes.indices(level.name), data[level.name])


@pytest.mark.parametrize("name", ["codes", "codes.h5"])
def test_other_codes_are_replaced_only_on_demand(name: str, tmp_path: Path) -> None:
    store(tmp_path / name, info("indices"))
    other = StoreInfo("indices", info().levels, "another model", {}, 0.5)
    with pytest.raises(ToolkitError, match="--overwrite"):
        store(tmp_path / name, other)
    store(tmp_path / name, other, overwrite=True)
    assert open_codes(tmp_path / name).info.model_hash == "another model"


def test_a_damaged_store_is_mended_by_overwriting_it(tmp_path: Path) -> None:
    data = store(tmp_path / "codes", info("indices"))
    (tmp_path / "codes" / "03_cat.npy").unlink()
    store(tmp_path / "codes", info("indices"))  # the store counts as finished, and is left alone
    with pytest.raises(ToolkitError, match="--overwrite"):
        open_codes(tmp_path / "codes").indices("codes")
    store(tmp_path / "codes", info("indices"), overwrite=True)
    assert (open_codes(tmp_path / "codes").indices("codes") == data["codes"]).all()


def test_an_unfinished_store_of_another_model_is_not_carried_on(tmp_path: Path) -> None:
    books, data = random_arrays(info("indices"), 11)
    manifest = manifest_of(samples(11), np.arange(11))
    options: dict[str, Any] = {"format": "npy", "manifest": manifest, "codebooks": books}
    with pytest.raises(KeyboardInterrupt), CodeWriter(tmp_path / "c", info=info("indices"), **options) as first:
        first.write({"codes": data["codes"][:4]})
        raise KeyboardInterrupt
    other = StoreInfo("indices", info().levels, "another model", {}, 0.5)
    with pytest.raises(KeyboardInterrupt), CodeWriter(tmp_path / "c", info=other, **options) as second:
        assert second.rows_done == 0
        raise KeyboardInterrupt


def test_an_error_in_the_writing_thread_reaches_the_caller(tmp_path: Path) -> None:
    books, data = random_arrays(info("indices"), 11)
    manifest = manifest_of(samples(11), np.arange(11))
    with (
        pytest.raises(OSError, match="directory"),
        CodeWriter(tmp_path / "c", format="npy", info=info("indices"), manifest=manifest, codebooks=books) as writer,
    ):
        (tmp_path / "c.partial" / "00_cat.npy").mkdir()  # stands in the way of the first file
        for start in range(0, 11, 4):
            writer.write({"codes": data["codes"][start : start + 4]})


def test_a_file_that_the_disk_cuts_short_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only a part fits, the system takes that part and reports it, and fails at the next write only."""
    original = os.write
    monkeypatch.setattr(sinks.os, "write", lambda file, content: original(file, content[:-1]))
    with pytest.raises(OSError, match="No space left on device"):
        store(tmp_path / "codes", info("vectors"))
    monkeypatch.undo()
    data = store(tmp_path / "codes", info("vectors"))
    assert (open_codes(tmp_path / "codes").indices("codes") == data["codes"]).all()


def test_match_refuses_vectors_that_are_no_codes() -> None:
    book = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    with pytest.raises(ToolkitError, match="not codes"):
        match(book, np.zeros((1, 4, 2, 2), np.float32))
    book[5] = book[2]
    assert (match(book, np.broadcast_to(book[5][:, None, None], (1, 4, 2, 2))) == 2).all()


def test_matching_needs_little_more_room_than_the_vectors() -> None:
    rng = np.random.default_rng(0)
    book = rng.normal(size=(256, 64)).astype(np.float32)
    indices = rng.integers(0, 256, (20, 1, 32, 32)).astype(np.uint8)
    vectors = lookup(book[None], indices)
    tracemalloc.start()
    found = match(book, vectors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found == indices[:, 0]).all()
    assert peak < 3 * vectors.nbytes, "a copy with the codes side by side, and one of the codes found"


def damage(folder: Path) -> Iterator[tuple[str, Any]]:
    """Ways to damage `folder/codes`, each with a word of the error that must follow."""
    file = folder / "codes" / "03_cat.npy"
    yield "03_cat", lambda: file.write_bytes(file.read_bytes()[:-3])
    yield "03_cat", lambda: np.save(file, np.zeros((2, 2), np.float32))
    yield "03_cat", lambda: file.write_bytes(pickle.dumps([1]))
    yield "not on the disk", lambda: file.unlink()
    meta = folder / "codes" / "meta.json"
    yield "cannot be read", lambda: meta.write_text("{")
    yield "version", lambda: meta.write_text(json.dumps({**json.loads(meta.read_text()), "format_version": 99}))
    manifest = folder / "codes" / "manifest.csv"
    yield "outside", lambda: manifest.write_text(manifest.read_text().replace("03_cat", "../03_cat"))
    yield "columns", lambda: manifest.write_text("file,id\n")


@pytest.mark.parametrize("which", range(8))
def test_a_damaged_folder_gives_a_clear_error(which: int, tmp_path: Path) -> None:
    store(tmp_path / "codes", info("vectors"))
    word, harm = list(damage(tmp_path))[which]
    harm()
    with pytest.raises(ToolkitError, match=word):
        open_codes(tmp_path / "codes").vectors("codes")


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    store(tmp_path / "codes", info("vectors"))
    np.save(tmp_path / "codes" / "03_cat.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ToolkitError, match="pickle"):
        open_codes(tmp_path / "codes").vectors("codes")


def test_the_fingerprint_does_not_depend_on_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished stores and shards of earlier versions go on: theirs was of the whole text at once."""
    manifest, about = manifest_of(samples(11), np.arange(11)), info("indices")
    levels = [vars(level) for level in about.levels]
    text = json.dumps(["h5", "indices", "hash", levels]) + manifest.to_csv(index=False)
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint("h5", about, manifest) == expected
    monkeypatch.setattr("toolkit_datasets.codes.writer.HASHED", 4)
    assert fingerprint("h5", about, manifest) == expected


def test_an_hdf5_file_may_not_reach_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "x.h5"
    store(tmp_path / "other.h5", info("indices"))
    for number, attack in enumerate(("external link", "soft link", "virtual", "raw")):
        store(path, info("indices"), overwrite=True)
        with h5py.File(path, "r+") as file:
            shape = file["levels/codes/indices"].shape
            del file["levels/codes/indices"]
            if attack == "external link":
                file["levels/codes/indices"] = h5py.ExternalLink("../other.h5", "/levels/codes/indices")
            elif attack == "soft link":
                file["levels/codes/indices"] = h5py.SoftLink("/levels/codes/codebook")
            elif attack == "virtual":
                layout = h5py.VirtualLayout(shape, np.uint8)
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "levels/codes/indices", shape)
                file.create_virtual_dataset("levels/codes/indices", layout)
            else:
                external = [(str(tmp_path / "other.h5"), 0, h5py.h5f.UNLIMITED)]
                file.create_dataset("levels/codes/indices", shape, np.uint8, external=external)
        with pytest.raises(ToolkitError, match="link" if number < 2 else "outside"):
            open_codes(path)


def test_a_truncated_hdf5_file_gives_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    store(path, info("indices"))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ToolkitError, match="cut short"):
        open_codes(path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ToolkitError, match="HDF5"):
        open_codes(tmp_path / "text.h5")
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ToolkitError, match="no code store"):
        open_codes(tmp_path / "plain.h5")
    with pytest.raises(ToolkitError, match="toolkit encode"):
        open_codes(tmp_path / "nowhere")


def test_what_a_store_cannot_give_is_said(tmp_path: Path) -> None:
    store(tmp_path / "latents", info("latents"))
    with pytest.raises(ToolkitError, match="latents"):
        open_codes(tmp_path / "latents").indices("codes")
    store(tmp_path / "deep", info("vectors", (Level("codes", 2, 16, 4, 3, 2),)))
    with pytest.raises(ToolkitError, match="--content indices"):
        open_codes(tmp_path / "deep").indices("codes")
    with pytest.raises(ToolkitError, match="this store has codes"):
        open_codes(tmp_path / "deep").indices("other")
