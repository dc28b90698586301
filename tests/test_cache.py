import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit_datasets import cache, prepare
from toolkit_datasets.cache import Decodings, decoded
from toolkit_datasets.card import load_card
from toolkit_datasets.card_data import Image as Geometry
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import EMPTY, Decoded, Unreadable
from toolkit_datasets.progress import SILENT

GEOMETRY = Geometry(size=8, channels=1)


class Counting:
    """Decodes names to constant images, one for each slice; counts its calls, and fails where it is told to."""

    def __init__(self, unreadable: str = "", interrupt: str = "") -> None:
        self.calls: Counter[str] = Counter()
        self.unreadable, self.interrupt = unreadable, interrupt

    def __call__(self, name: str, slices: Sequence[str]) -> list[Decoded | Unreadable]:
        self.calls[name] += 1
        if name == self.unreadable:
            raise Unreadable("damaged: on purpose")
        if name == self.interrupt:
            raise KeyboardInterrupt
        return [self.one(name, piece) for piece in slices]

    def one(self, name: str, piece: str) -> Decoded | Unreadable:
        if piece == "9":
            return Unreadable(f"{EMPTY}: on purpose")
        value = int(name) + 10 * int(piece or 0)
        return Decoded(np.full((8, 8, 1), value, np.uint8), f"sha{name}", "L", 8, 8)


def call(decode: Counting, stamp: str = "1", names: int = 40, **options: Any) -> Decodings:
    return call_rows(decode, [(str(i), "") for i in range(names)], stamp, **options)


def call_rows(decode: Counting, rows: list[tuple[str, str]], stamp: str = "1", **options: Any) -> Decodings:
    arguments = {"geometry": GEOMETRY, "origin": "test", "fail_fast": False, "workers": 2, "progress": SILENT}
    arguments |= {"stamps": lambda names: [stamp] * len(names), "recipe": {}}
    names, slices = zip(*rows, strict=True)
    return decoded(names, slices, decode, **{**arguments, **options})


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "BLOCK_BYTES", 8 * 64)  # eight images in a block


def test_images_are_decoded_once_and_in_order() -> None:
    decode = Counting(unreadable="5")
    first = call(decode)
    assert set(decode.calls.values()) == {1}
    assert [int(image[0, 0, 0]) for image in first.images] == [0 if i == 5 else i for i in range(40)]
    assert first.details["status"].tolist()[4:7] == ["ok", "damaged: on purpose", "ok"]
    again = call(decode)
    assert set(decode.calls.values()) == {1}
    assert (again.images == first.images).all()
    assert isinstance(again.images, np.memmap)


def test_a_changed_file_or_recipe_is_decoded_again() -> None:
    decode = Counting()
    call(decode)
    call(decode, stamp="2")
    call(decode, recipe={"fit": "pad"})
    assert set(decode.calls.values()) == {3}


def test_an_interrupted_decoding_goes_on_where_it_stopped() -> None:
    with pytest.raises(KeyboardInterrupt):
        call(Counting(interrupt="20"))
    decode = Counting()
    result = call(decode)
    assert sorted(map(int, decode.calls)) == list(range(16, 40))  # two whole blocks of eight were kept
    assert [int(image[0, 0, 0]) for image in result.images] == list(range(40))
    assert result.details["sha256"].tolist() == [f"sha{i}" for i in range(40)]


SLICES = [(str(name), str(piece)) for name in range(1, 8) for piece in range(3 + name % 3)]  # 3 to 5 to a file


def test_all_slices_of_a_file_are_decoded_in_one_call_and_stay_in_order() -> None:
    decode = Counting(unreadable="4")
    result = call_rows(decode, SLICES)
    assert set(decode.calls.values()) == {1}, "a volume is read once for all of its slices"
    wanted = [0 if name == "4" else int(name) + 10 * int(piece) for name, piece in SLICES]
    assert [int(image[0, 0, 0]) for image in result.images] == wanted
    bad = [name == "4" for name, _ in SLICES]
    assert (result.details["status"] == "damaged: on purpose").tolist() == bad


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_how_work_is_shared_out_changes_nothing(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "TASK_ROWS", rows)
    found = call_rows(Counting(unreadable="4"), SLICES, workers=3)
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(cache, "TASK_ROWS", 1)
    one = call_rows(Counting(unreadable="4"), SLICES, workers=1)
    assert np.array_equal(found.images, one.images)
    assert found.details.equals(one.details)
    hashes = [hashlib.sha256(image.tobytes()).hexdigest()[:32] for image in found.images]
    good = (found.details["status"] == "ok").to_numpy()
    assert good.any()
    assert (found.details["pixels"][good] == np.array(hashes)[good]).all()


def test_a_reason_may_hold_any_text() -> None:
    reason = 'claims "4 x 4", or\nso; ünreadable'

    def decode(name: str, slices: Sequence[str]) -> list[Decoded | Unreadable]:
        return [Unreadable(reason)]

    assert call(decode, names=1).details["status"].tolist() == [reason]


@pytest.mark.parametrize("stop", ["2", "3", "5", "7"])
def test_interrupted_slices_go_on_with_whole_files(stop: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        call_rows(Counting(interrupt=stop), SLICES, workers=1)
    decode = Counting()
    resumed = call_rows(decode, SLICES)
    assert max(decode.calls.values()) == 1
    assert stop in decode.calls
    if stop == "7":  # blocks of at least eight rows: files 1 and 2 (9 rows), 3 to 5 (12), then 6 and 7
        assert sorted(decode.calls) == ["6", "7"]
    assert [int(image[0, 0, 0]) for image in resumed.images] == [int(n) + 10 * int(p) for n, p in SLICES]


def test_other_slices_of_the_same_files_are_another_array() -> None:
    decode = Counting()
    call_rows(decode, SLICES)
    call_rows(decode, [row for row in SLICES if row[1] != "1"])
    assert set(decode.calls.values()) == {2}


def test_an_empty_slice_is_left_out_but_no_fault() -> None:
    result = call_rows(Counting(), [("1", "8"), ("1", "9")], fail_fast=True)
    assert result.details["status"].tolist() == ["ok", f"{EMPTY}: on purpose"]
    assert cache.is_fault(result.details["status"]).tolist() == [False, False]


def test_fail_fast_stops_and_names_the_image_also_when_cached() -> None:
    for _ in range(2):
        with pytest.raises(ToolkitError, match=r"5: damaged: on purpose.*--fail-fast"):
            call(Counting(unreadable="5"), fail_fast=True)
        call(Counting(unreadable="5"))


def test_prepare_groups_identical_pictures_and_limits(
    tmp_path: Path, write_pictures: Callable[[Path, list[str]], Path]
) -> None:
    root = write_pictures(tmp_path / "d", [f"{label}/{i}.png" for i in range(40) for label in ("a", "b")])
    (root / "a" / "copy.png").write_bytes((root / "a" / "7.png").read_bytes())
    (root / "a" / "broken.png").write_bytes(b"x")
    whole = prepare.prepare(load_card("folder"), root)
    samples = whole.samples.set_index("id")
    assert samples.loc["a/copy", "group"] == samples.loc["a/7", "group"] == "a/7"
    assert samples.loc["a/copy", "split"] == samples.loc["a/7", "split"]
    assert (samples["group"] != "").sum() == 2
    assert whole.skipped["path"].tolist() == ["a/broken.png"]
    assert len(whole.rows("unlabelled", "labelled", "test", "unused")) == 81
    counted = load_card("folder", ["split.unlabelled=40", "split.labelled=20", "split.test=20"])
    part = prepare.prepare(counted, root, limit=20)
    assert len(part.samples) == 20
    assert len(part.rows("unlabelled")) == 9  # 40 * 20 / 82 rounded down
    new = prepare.prepare(load_card("folder"), root, split=False)
    assert set(new.samples["split"]) == {"new", ""}


def test_nothing_decodes_at_all(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"x")
    with pytest.raises(ToolkitError, match=r"none of the 1 images .*1\.png: not an image"):
        prepare.prepare(load_card("folder"), tmp_path)
