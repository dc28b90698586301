"""Downloads against a server on this machine, and archives that mean harm."""

from __future__ import annotations

import errno
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner
from local_server import CONTENT, Site, serving, sha

from toolkit.cli import main
from toolkit_datasets import download
from toolkit_datasets.card import load_card
from toolkit_datasets.download import fetch, obtain, unpack
from toolkit_datasets.errors import ToolkitError


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving("set.bin", CONTENT) as made:
        yield made


def test_a_whole_file_is_fetched_once(site: Site, tmp_path: Path) -> None:
    path = fetch(site.url, sha(CONTENT).upper(), tmp_path)
    assert path == tmp_path / "set.bin"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["set.bin"]
    assert fetch(site.url, sha(CONTENT), tmp_path) == path
    assert len(site.asked) == 1


class Watching:
    """Progress, and its own only bar, that note what they are told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, str]] = []
        self.counted: list[int] = []

    def bar(self, title: str, total: int, unit: str, *, done: int = 0) -> Watching:
        self.seen.append((title, total, unit))
        self.counted.append(done)
        return self

    def say(self, line: str) -> None: ...

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, n: int = 1) -> None:
        self.counted.append(n)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None: ...


def test_progress_counts_every_mebibyte(site: Site, tmp_path: Path) -> None:
    watching = Watching()
    fetch(site.url, sha(CONTENT), tmp_path, progress=watching)
    assert watching.seen == [("downloading set.bin", 3, "MiB")]
    assert sum(watching.counted) == len(CONTENT) >> 20


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
def test_progress_adds_up_over_small_members(tmp_path: Path, name: str) -> None:
    small = {f"{i}.bin": CONTENT[:300_000] for i in range(10)}
    if name == "set.zip":
        archive = zipped(tmp_path, small)
    else:
        archive = tarred(tmp_path, [(key, tarfile.REGTYPE, data) for key, data in small.items()], name)
    watching = Watching()
    unpack(archive, tmp_path / "out", progress=watching)
    assert sum(watching.counted) == 3_000_000 >> 20


def test_a_broken_transfer_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.cut = [1_200_000, 700_000]
    assert fetch(site.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT
    assert [asked.get("range") for asked in site.asked] == [None, "bytes=1200000-", "bytes=1900000-"]
    assert site.asked[1]["if-range"] == '"one"'


def test_an_interrupted_command_goes_on_at_the_next_call(site: Site, tmp_path: Path) -> None:
    site.cut = [500_000] * download.ATTEMPTS
    site.ranges = False  # so that four attempts do not add up to the whole file
    with pytest.raises(ToolkitError, match=r"broke off after 500,000 bytes.*goes on where it stopped"):
        fetch(site.url, sha(CONTENT), tmp_path)
    assert (tmp_path / "set.bin.partial").stat().st_size == 500_000
    assert not (tmp_path / "set.bin").exists()
    site.ranges = True
    site.asked.clear()
    assert fetch(site.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT
    assert [asked.get("range") for asked in site.asked] == ["bytes=500000-"]


def test_a_server_that_ignores_ranges_sends_all_again(site: Site, tmp_path: Path) -> None:
    site.cut, site.ranges = [1_000_000], False
    assert fetch(site.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"two"', ""])
def test_a_file_that_changed_between_the_halves_is_fetched_anew(site: Site, tmp_path: Path, etag: str) -> None:
    (tmp_path / "set.bin.partial").write_bytes(b"old" * 1000)
    if etag:
        (tmp_path / "set.bin.partial.json").write_text(f'{{"url": "{site.url}", "validator": "\\"one\\""}}')
    site.etag = etag  # with a validator the server says so; without one only the checksum does
    assert fetch(site.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT
    assert len(site.asked) == (1 if etag else 2)


def test_a_partial_file_longer_than_the_new_one_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.bin.partial").write_bytes(CONTENT + b"more")
    assert fetch(site.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT


def test_a_whole_partial_file_only_takes_its_name(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.bin.partial").write_bytes(CONTENT)
    assert fetch(site.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT


def test_a_passing_fault_of_the_server_is_survived(site: Site, tmp_path: Path) -> None:
    site.failures = [503, 500]
    assert fetch(site.url, sha(CONTENT), tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_names_both_and_keeps_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=f"{sha(CONTENT)}, but the card says {'0' * 64}"):
        fetch(site.url, "0" * 64, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_checksum_is_refused_with_the_way_to_add_it(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"(?s)source\.sha256 = ''.*sha256sum FILE.*\[source\]"):
        fetch(site.url, "", tmp_path)
    assert not site.asked


def test_missing_file_is_named_and_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"gone\.zip: the server answered 404"):
        fetch(site.url.replace("set.bin", "gone.zip"), "0" * 64, tmp_path)
    assert len(site.asked) == 1


def test_no_network_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with pytest.raises(ToolkitError, match=r"no connection: .*put it at .*set\.tar\.gz$"):
        fetch("http://127.0.0.1:9/set.tar.gz", "0" * 64, tmp_path)  # port 9: discard, closed


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/set.zip", "set.zip", "http:///set.zip"])
def test_only_http_is_spoken(tmp_path: Path, url: str) -> None:
    with pytest.raises(ToolkitError, match="only http:// and https://"):
        fetch(url, "0" * 64, tmp_path)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_cannot_change_the_protocol(site: Site, tmp_path: Path, target: str) -> None:
    site.redirect = target
    with pytest.raises(ToolkitError, match="cannot download"):
        fetch(site.url, "0" * 64, tmp_path)


def test_full_disk_is_said_before_the_transfer(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ToolkitError, match=r"disk of .* is full \(1,000 bytes free\)"):
        fetch(site.url, sha(CONTENT), tmp_path)


def test_full_disk_while_unpacking_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(ToolkitError, match="is full"):
        unpack(zipped(tmp_path, {"a.txt": b"a"}), tmp_path / "out")


def zipped(folder: Path, members: dict[str, bytes], name: str = "set.zip", mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as file:
        for member, data in members.items():
            info = zipfile.ZipInfo(member)
            info.external_attr = mode << 16
            file.writestr(info, data, zipfile.ZIP_DEFLATED)
    return folder / name


def tarred(folder: Path, members: list[tuple[str, bytes, bytes]], name: str = "set.tar.gz") -> Path:
    """Members: name, type, and content or the target of a link."""
    with tarfile.open(folder / name, "w:" + name.rpartition(".")[2].replace("tar", "")) as file:
        for member, kind, data in members:
            info = tarfile.TarInfo(member)
            info.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = data.decode()
                file.addfile(info)
            else:
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return folder / name


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tar.xz", "set.tar.bz2"])
def test_every_kind_is_unpacked_once(tmp_path: Path, name: str) -> None:
    wanted = {"cat/1.txt": b"meow", "dog/2.txt": b"woof" * 1000, "README": b""}
    if name.endswith("zip"):
        archive = zipped(tmp_path, wanted, name)
    else:
        archive = tarred(tmp_path, [(key, tarfile.REGTYPE, data) for key, data in wanted.items()], name)
    out = tmp_path / "out"
    assert unpack(archive, out) == out
    assert files_in(out) == wanted
    (out / "README").write_bytes(b"mine now")
    unpack(archive, out)  # the marker knows this archive: nothing is touched
    assert files_in(out)["README"] == b"mine now"


def test_another_archive_of_the_same_name_is_unpacked_again(tmp_path: Path) -> None:
    unpack(zipped(tmp_path, {"a": b"1"}), tmp_path / "out")
    unpack(zipped(tmp_path, {"a": b"2"}), tmp_path / "out")
    assert files_in(tmp_path / "out") == {"a": b"2"}


REG, SYM, LNK = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
EVIL: dict[str, Callable[[Path], Path]] = {
    "zip up": lambda t: zipped(t, {"ok": b"ok", "../evil": b"x"}),
    "zip deep up": lambda t: zipped(t, {"ok": b"ok", "a/../../evil": b"x"}),
    "zip absolute": lambda t: zipped(t, {"ok": b"ok", str(t / "evil"): b"x"}),
    "zip backslash": lambda t: zipped(t, {"ok": b"ok", "..\\evil": b"x"}),
    "zip drive": lambda t: zipped(t, {"ok": b"ok", "C:evil": b"x"}),
    "zip link": lambda t: zipped(t, {"evil": b"/etc/passwd"}, mode=0o120777),
    "tar up": lambda t: tarred(t, [("ok", REG, b"ok"), ("../evil", REG, b"x")]),
    "tar absolute": lambda t: tarred(t, [("ok", REG, b"ok"), (str(t / "evil"), REG, b"x")]),
    "tar link out": lambda t: tarred(t, [("ok", REG, b"ok"), ("d", SYM, str(t).encode()), ("d/evil", REG, b"x")]),
    "tar link up": lambda t: tarred(t, [("d", SYM, b".."), ("d/evil", REG, b"x")]),
    "tar hard link": lambda t: tarred(t, [("evil", LNK, b"/etc/passwd")]),
    "tar device": lambda t: tarred(t, [("evil", tarfile.CHRTYPE, b"")]),
    "tar pipe": lambda t: tarred(t, [("evil", tarfile.FIFOTYPE, b"")]),
}


@pytest.mark.parametrize("kind", EVIL)
def test_an_archive_that_means_harm_leaves_nothing(tmp_path: Path, kind: str) -> None:
    archive = EVIL[kind](tmp_path)
    out = tmp_path / "deep" / "out"
    with pytest.raises(ToolkitError, match="nothing was unpacked"):
        unpack(archive, out)
    assert not list(out.iterdir())
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.xz"])
def test_a_bomb_is_refused(tmp_path: Path, name: str) -> None:
    zeros = bytes(5_000_000)
    archive = zipped(tmp_path, {"a": zeros}, name) if "zip" in name else tarred(tmp_path, [("a", REG, zeros)], name)
    assert archive.stat().st_size < 10_000
    with pytest.raises(ToolkitError, match=r"more than 1,000,000 bytes: refused as a bomb"):
        unpack(archive, tmp_path / "out", limit=1_000_000)
    assert not list((tmp_path / "out").iterdir())
    unpack(archive, tmp_path / "out")


def test_a_member_that_is_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path, {"a": bytes(100_000)})
    data = archive.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(data)
    with pytest.raises(ToolkitError, match="damaged"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.tar.xz"])
def test_a_damaged_archive_is_an_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    content = np.random.default_rng(0).bytes(200_000)
    archive = zipped(tmp_path, {"a": content}) if "zip" in name else tarred(tmp_path, [("a", REG, content)], name)
    data = bytearray(archive.read_bytes())
    data[100_000:100_050] = bytes(50)
    archive.write_bytes(data if "zip" in name else data[:120_000])
    with pytest.raises(ToolkitError, match="damaged"):
        unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_no_archive_is_an_error_with_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "set.rar").write_bytes(b"Rar!")
    with pytest.raises(ToolkitError, match="neither a zip nor a tar"):
        unpack(tmp_path / "set.rar", tmp_path / "out")


def test_a_file_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_bytes(b"the user's own")
    with pytest.raises(ToolkitError, match="is in the way"):
        unpack(zipped(tmp_path, {"a": b"new", "b": b"new"}), tmp_path / "out")
    assert files_in(tmp_path / "out") == {"a": b"the user's own"}


def test_obtain_goes_from_address_to_files_and_respects_own_ones(site: Site, tmp_path: Path) -> None:
    archive = zipped(tmp_path, {"cat/1": b"1", "dog/2": b"2"})
    site.files["set.zip"] = archive.read_bytes()
    url, out = site.url.replace("set.bin", "set.zip"), tmp_path / "data"
    site.cut = [50]
    obtain(url, sha(archive.read_bytes()), out)
    assert files_in(out) == {"cat/1": b"1", "dog/2": b"2"}
    assert not (out / ".download").exists()
    asked = len(site.asked)
    obtain(url, sha(archive.read_bytes()), out)
    assert len(site.asked) == asked
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.jpg").touch()
    obtain(url, sha(archive.read_bytes()), own)
    assert len(site.asked) == asked


def test_obtain_carries_on_in_a_folder_that_it_has_begun(site: Site, tmp_path: Path) -> None:
    archive = zipped(tmp_path, {"cat/1": b"1", "dog/2": b"2"})
    site.files["set.zip"] = archive.read_bytes()
    out = tmp_path / "data"
    (out / ".download").mkdir(parents=True)
    (out / ".download" / "set.zip.partial").write_bytes(archive.read_bytes()[:40])
    (out / "cat").mkdir()
    (out / "cat" / "1").write_bytes(b"1")
    obtain(site.url.replace("set.bin", "set.zip"), sha(archive.read_bytes()), out)
    assert files_in(out) == {"cat/1": b"1", "dog/2": b"2"}
    assert site.asked[0]["range"] == "bytes=40-"


def test_obtain_brings_back_deleted_files(site: Site, tmp_path: Path) -> None:
    archive = zipped(tmp_path, {"1.txt": b"1"})
    site.files["set.zip"] = archive.read_bytes()
    url, digest, out = site.url.replace("set.bin", "set.zip"), sha(archive.read_bytes()), tmp_path / "data"
    obtain(url, digest, out)
    (out / "1.txt").unlink()
    obtain(url, digest, out)
    assert files_in(out) == {"1.txt": b"1"}


def test_a_card_with_an_address_fetches_its_images_first(
    site: Site, tmp_path: Path, write_pictures: Callable[[Path, list[str]], Path]
) -> None:
    """The whole way that a user goes: a card of one's own, and `toolkit datasets` on an empty folder."""
    pictures = write_pictures(tmp_path / "pictures", [f"{label}/{i}.png" for i in range(8) for label in ("oak", "elm")])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(pictures.rglob("*.png")):
            file.write(path, path.relative_to(pictures))
    site.files["set.bin"] = archive.getvalue()
    text = load_card("folder").model_dump(mode="json", exclude_none=True)
    text["source"] |= {"url": site.url, "sha256": sha(archive.getvalue())}
    (tmp_path / "trees.toml").write_text(tomli_w.dumps(text))
    words = ["datasets", str(tmp_path / "trees.toml"), "--data", str(tmp_path / "data"), "--json"]
    for _ in range(2):  # the second time nothing is fetched again
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["labels"] == {"elm": 8, "oak": 8}
    assert len(site.asked) == 1
