"""Several processes write one store: shards that resume alone, and that join to what one process would have written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import toolkit
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import digits, kill
from together import TRAININGS

from stage1_vqvae.encode import encode
from stage1_vqvae.train import train
from toolkit_datasets.codes import Codes, CodeWriter, Shard, join, open_codes, shards_folder
from toolkit_datasets.errors import ToolkitError

N, BATCH = 112, 32  # of the tiny digits: unlabelled, labelled and test, in four batches of which the last is short
FORMATS = [("h5", "indices"), ("h5", "latents"), ("npy", "vectors"), ("npy", "indices")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "stage1"
    train(digits(epochs=1), folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "stage1"
    train(digits(epochs=1, seed=1), folder, device="cpu")
    return folder


def encoded(
    model: Path, out: Path, shard: str = "", *, format: str = "h5", content: str = "indices", **more: Any
) -> Codes:
    prepared = digits(epochs=1)
    part = Shard.parse(shard) if shard else None
    rows = prepared.rows("unlabelled", "labelled", "test")
    return encode(model, prepared, rows, out, format=format, content=content, device="cpu", shard=part, **more)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but meta.json, which names devices and versions."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "meta.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@given(count=st.integers(1, 500), batch=st.integers(1, 40), of=st.integers(1, 12))
def test_shards_are_whole_batches_and_leave_nothing_out(count: int, batch: int, of: int) -> None:
    batches = -(-count // batch)
    if of > batches:
        with pytest.raises(ToolkitError, match=f"Use {batches} or fewer"):
            Shard(1, of).rows(count, batch)
        return
    parts = [Shard(number, of).rows(count, batch) for number in range(1, of + 1)]
    assert [row for part in parts for row in range(count)[part]] == list(range(count))
    assert all(part.start % batch == 0 for part in parts)
    sizes = [-(-(part.stop - part.start) // batch) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_no_such_shard(text: str) -> None:
    with pytest.raises(ToolkitError, match="is no shard: write 1/8"):
        Shard.parse(text)


@pytest.mark.parametrize(("format", "content"), FORMATS)
def test_joined_shards_are_what_one_process_writes(format: str, content: str, model: Path, tmp_path: Path) -> None:
    options = {"format": format, "content": content}
    whole = encoded(model, tmp_path / "whole", **options)
    out = tmp_path / "parts"
    for shard in ("2/3", "3/3"):  # in any order
        codes = encoded(model, out, shard, **options)
        assert codes.path.parent == shards_folder(out)
        with pytest.raises(ToolkitError, match="not joined yet"):
            open_codes(out)
    joined = encoded(model, out, "1/3", **options)
    assert joined.path == out
    assert len(joined) == N
    assert joined.manifest.equals(whole.manifest)
    assert joined.info == whole.info
    assert np.array_equal(joined.stored("codes"), whole.stored("codes"))
    assert np.array_equal(joined.codebook("codes"), whole.codebook("codes"))
    some = np.array([111, 0, 32, 31, 63, 64, 5])  # over the seams, in any order
    assert np.array_equal(joined.stored("codes", some), whole.stored("codes", some))
    if format == "npy":
        assert files(out) == files(tmp_path / "whole")
        assert not shards_folder(out).exists()
    assert len(encoded(model, out, **options)) == N, "one process finds its own work done"
    assert encoded(model, out, "2/3", **options).path == out


@pytest.mark.parametrize("format", ["h5", "npy"])
def test_every_level_is_joined(format: str, tmp_path: Path) -> None:
    prepared = digits(**TRAININGS["agree"], epochs=1)
    if not (tmp_path.parent / "agree" / "model.json").exists():
        train(prepared, tmp_path.parent / "agree", device="cpu")
    rows, stores = prepared.rows("unlabelled", "labelled", "test"), {}
    for name, shards in (("whole", [None]), ("parts", [Shard(2, 2), Shard(1, 2)])):
        for shard in shards:
            options = {"format": format, "content": "indices", "device": "cpu", "shard": shard}
            stores[name] = encode(tmp_path.parent / "agree", prepared, rows, tmp_path / name, **options)
    assert [level.name for level in stores["parts"].info.levels] == ["fine", "coarse", "patterns"]
    for level in stores["whole"].info.levels:
        assert np.array_equal(*(store.indices(level.name) for store in stores.values()))
        assert np.array_equal(*(store.codebook(level.name) for store in stores.values()))


def test_a_killed_shard_goes_on_alone(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "codes.h5"
    encoded(model, out, "2/2")
    other = (shards_folder(out) / "2-of-2.h5").stat()
    original, sizes = CodeWriter.write, []

    def counted(self: CodeWriter, arrays: dict[str, np.ndarray]) -> None:
        sizes.append(len(arrays["codes"]))
        original(self, arrays)
        if len(sizes) == 1:
            kill()

    monkeypatch.setattr(CodeWriter, "write", counted)
    with pytest.raises(RuntimeError, match="killed"):
        encoded(model, out, "1/2")
    with pytest.raises(ToolkitError, match=r"of 2 shards .* missing or unfinished: 1\..*--shard 1/2"):
        join(out)
    joined = encoded(model, out, "1/2")
    assert sizes == [32, 32], "the first batch was not encoded twice"
    assert (shards_folder(out) / "2-of-2.h5").stat().st_mtime_ns == other.st_mtime_ns
    assert np.array_equal(joined.stored("codes"), encoded(model, tmp_path / "whole.h5").stored("codes"))


def test_an_interrupted_join_of_folders_goes_on(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "codes"
    encoded(model, out, "1/2", format="npy")
    moved: list[Path] = []
    original = Path.replace

    def stopped(self: Path, target: Path) -> Path:
        if self.parent.name == "1-of-2" and self.suffix == ".npy":
            moved.append(self)
            if len(moved) == 5:
                kill()
        return original(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(RuntimeError, match="killed"):
        encoded(model, out, "2/2", format="npy")
    assert not out.exists()
    join(out)
    encoded(model, tmp_path / "whole", format="npy")
    assert files(out) == files(tmp_path / "whole")


def test_shards_of_different_models_are_not_joined(model: Path, other_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes.h5"
    encoded(other_model, out, "1/2")
    assert encoded(model, out, "2/2").path != out, "the other one is still to come"
    with pytest.raises(ToolkitError, match=r"1-of-2\.h5 and 2-of-2\.h5 .* different models.*--overwrite"):
        join(out)
    with pytest.raises(ToolkitError, match=r"holds other codes.*--overwrite"):
        encoded(model, out, "1/2")
    assert encoded(model, out, "1/2", overwrite=True).path == out
    with pytest.raises(ToolkitError, match=r"holds other codes.*--overwrite"):
        encoded(other_model, out, "1/2")


def test_shards_of_different_images_are_not_joined(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes.h5"
    encoded(model, out, "1/2")
    prepared = digits(epochs=1)
    rows = prepared.rows("labelled", "test", "unused")
    encode(model, prepared, rows, out, format="h5", content="indices", device="cpu", shard=Shard(2, 2))
    with pytest.raises(ToolkitError, match="different sets of images"):
        join(out)


def test_what_cannot_be_joined_is_said(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes.h5"
    with pytest.raises(ToolkitError, match=r"no finished shards in .*--shard 1/2"):
        join(out)
    assert not shards_folder(out).exists()
    for shard in ("1/3", "1/2", "2/2"):
        encoded(model, out, shard)
    out.unlink()
    encoded(model, out, "2/3")
    assert join(out).path == out, "two of three are no choice beside two of two"
    out.unlink()
    encoded(model, out, "3/3")
    with pytest.raises(ToolkitError, match="complete sets of 2, 3 shards"):
        out.unlink()
        join(out)


@pytest.fixture
def joined(model: Path, tmp_path: Path) -> Path:
    out = tmp_path / "in" / "codes.h5"
    for shard in ("1/2", "2/2"):
        encoded(model, out, shard)
    return out


def test_a_joined_file_moves_with_its_shards(joined: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").rename(tmp_path / "moved")
    codes = open_codes(tmp_path / "moved" / "codes.h5")
    assert np.array_equal(codes.stored("codes"), encoded(model, tmp_path / "whole.h5").stored("codes"))


def test_a_missing_or_exchanged_shard_is_never_read_as_zeros(joined: Path, other_model: Path, tmp_path: Path) -> None:
    shard = shards_folder(joined) / "2-of-2.h5"
    shard.rename(tmp_path / "away.h5")
    with pytest.raises(ToolkitError, match=r"2-of-2\.h5, which is missing"):
        open_codes(joined)
    shard.write_bytes((tmp_path / "away.h5").read_bytes()[:3000])
    with pytest.raises(ToolkitError, match=r"2-of-2\.h5 is no readable shard"):
        open_codes(joined)
    encoded(other_model, tmp_path / "other.h5", "2/2")
    shutil.copy(shards_folder(tmp_path / "other.h5") / "2-of-2.h5", shard)
    with pytest.raises(ToolkitError, match=r"2-of-2\.h5 holds other codes than when .* was joined"):
        open_codes(joined)


def test_a_file_that_replaces_a_joined_one_takes_its_shards_away(
    joined: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = open_codes(joined).stored("codes")
    original = CodeWriter.write

    def killed(self: CodeWriter, arrays: dict[str, np.ndarray]) -> None:
        original(self, arrays)
        kill()

    with monkeypatch.context() as patch:
        patch.setattr(CodeWriter, "write", killed)
        with pytest.raises(RuntimeError, match="killed"):
            encoded(model, joined, overwrite=True)
    assert np.array_equal(open_codes(joined).stored("codes"), codes), "until the new one is complete, the old one stays"
    assert np.array_equal(encoded(model, joined, overwrite=True).stored("codes"), codes)
    assert not shards_folder(joined).exists()
    with h5py.File(joined) as file:
        assert not file["levels/codes/indices"].is_virtual
    assert join(joined).path == joined, "there is nothing left to join"


def test_other_shards_than_those_of_the_replaced_file_stay(joined: Path, model: Path) -> None:
    shutil.copy(shards_folder(joined) / "1-of-2.h5", shards_folder(joined) / "3-of-4.h5")
    (shards_folder(joined) / "4-of-4.h5.partial").touch()
    precious = joined.with_name("2-of-2.h5")
    precious.touch()
    with h5py.File(joined, "r+") as file:
        own = json.loads(file.attrs["shards"])
        outside = ["../2-of-2.h5", "2-of-2.h5", f"{shards_folder(joined).name}/..", str(precious)]
        file.attrs["shards"] = json.dumps(own | dict.fromkeys(outside, "whatever"))
    encoded(model, joined, overwrite=True)
    names = {path.name for path in shards_folder(joined).iterdir()}
    assert names == {"lock", "3-of-4.h5", "4-of-4.h5.partial"}
    assert precious.exists()


def test_a_file_joined_anew_forgets_the_shards_of_the_last_time(joined: Path, model: Path) -> None:
    for shard in ("1/3", "2/3", "3/3"):
        encoded(model, joined, shard, overwrite=True)
    assert {path.name for path in shards_folder(joined).glob("*.h5")} == {f"{n}-of-3.h5" for n in (1, 2, 3)}
    assert len(open_codes(joined)) == N


@pytest.mark.parametrize("attack", ["link", "virtual", "shard outside"])
def test_a_shard_may_not_reach_further(attack: str, joined: Path, tmp_path: Path) -> None:
    shard = shards_folder(joined) / "2-of-2.h5"
    secret = tmp_path / "secret.h5"
    shutil.copy(shard, secret)
    if attack == "shard outside":
        shard.unlink()
        shard.symlink_to(secret)
    else:
        with h5py.File(shard, "r+") as file:
            shape = file["levels/codes/indices"].shape
            del file["levels/codes/indices"]
            if attack == "link":
                file["levels/codes/indices"] = h5py.ExternalLink(str(secret), "/levels/codes/indices")
            else:
                layout = h5py.VirtualLayout(shape, np.uint8)
                layout[:] = h5py.VirtualSource(str(secret), "levels/codes/indices", shape)
                file.create_virtual_dataset("levels/codes/indices", layout)
    wanted = {"link": "is a link", "virtual": "must hold its own data", "shard outside": "outside the store's folder"}
    with pytest.raises(ToolkitError, match=wanted[attack]):
        open_codes(joined)


SETS = ["split.unlabelled=200", "split.labelled=100", "split.test=100", "train.epochs=1", "encode.batch_size=32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "digits"
    toolkit("train", "digits", "--out", folder, "--objective", "reconstruct", sets=SETS)
    return folder


def test_the_commands_of_separate_machines(run: Path, tmp_path: Path) -> None:
    toolkit("encode", run, "--out", tmp_path / "whole", "--content", "indices")
    shown = toolkit("encode", run, "--out", tmp_path / "a", "--content", "indices", "--shard", "2/2")
    assert "shard:  2/2" in shown.stdout
    assert "the last one to finish joins all 2" in shown.stdout
    toolkit("encode", run, "--out", tmp_path / "b", "--content", "indices", "--shard", "1/2")
    early = toolkit("encode", run, "--out", tmp_path / "a", "--join", code=1)
    assert "missing or unfinished: 1." in early.output
    (tmp_path / "b.shards" / "1-of-2").rename(tmp_path / "a.shards" / "1-of-2")  # copied by hand
    shown = toolkit("encode", run, "--out", tmp_path / "a", "--join")
    assert f"next:   toolkit probe {tmp_path / 'a'}" in shown.stdout
    assert files(tmp_path / "a") == files(tmp_path / "whole")
    assert "is no shard" in toolkit("encode", run, "--shard", "9/8", code=1).output
    toolkit("encode", run, "--out", tmp_path / "c.h5", "--shard", "1/99", code=1)


def test_processes_started_together_take_a_shard_each(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under torchrun, which says in the environment which process it is; encoders do not talk to each other."""
    toolkit("encode", run, "--out", tmp_path / "whole.h5")
    said = []
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        said.append(toolkit("encode", run, "--out", tmp_path / "codes.h5", "--json").stdout)
    assert said[0] == "", "the one that joins them speaks"
    assert json.loads(said[1])["codes"] == str(tmp_path / "codes.h5")
    assert sorted(path.name for path in (tmp_path / "codes.h5.shards").glob("*.h5")) == ["1-of-2.h5", "2-of-2.h5"]
    whole, joined = open_codes(tmp_path / "whole.h5"), open_codes(tmp_path / "codes.h5")
    assert np.array_equal(whole.stored("codes"), joined.stored("codes"))
    assert whole.manifest.equals(joined.manifest)


def test_other_commands_are_for_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "works in one process" in toolkit("run", "digits", "--out", tmp_path / "x", code=1).output
    assert not (tmp_path / "x").exists()


def test_shards_of_real_pictures(real_data: Path, tmp_path: Path) -> None:
    sets = ["image.size=16", "train.epochs=1", "encode.batch_size=50"]
    words = ["cats-vs-dogs", "--data", real_data / "cats_vs_dogs" / "train", "--objective", "reconstruct"]
    toolkit("train", *words, "--out", tmp_path / "run", "--limit", 250, sets=sets)
    toolkit("encode", tmp_path / "run", "--out", tmp_path / "whole.h5")
    for shard in ("3/3", "1/3", "2/3"):
        toolkit("encode", tmp_path / "run", "--out", tmp_path / "parts.h5", "--shard", shard)
    whole, parts = open_codes(tmp_path / "whole.h5"), open_codes(tmp_path / "parts.h5")
    assert parts.manifest.equals(whole.manifest)
    assert np.array_equal(parts.vectors("codes"), whole.vectors("codes"))
