"""Datasets from the network: an archive at the address that a card gives.

`obtain` = `fetch` + `unpack`. Nothing downloaded is trusted: the card's checksum decides, only http and https are
spoken (also after a redirect), and an archive may write nothing but plain files below its folder.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import lzma
import re
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO

from .atomic import output_folder, write_text
from .errors import ToolkitError
from .progress import Bar, Progress, Silent

BLOCK = 1 << 20  # bytes read at once, and the unit of progress: 1 MiB
TIMEOUT = 30.0  # seconds without a byte before a transfer counts as broken
ATTEMPTS = 4  # each goes on where the last one broke off
BOMB_RATIO, BOMB_FLOOR = 200, 1 << 30  # unpacked size: at most 200 times the archive and 1 GiB; images shrink little
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    FileExistsError, IsADirectoryError, NotADirectoryError,  # members that contradict one another
    NotImplementedError, RuntimeError,  # zip: an unknown method, a password
)  # fmt: skip
STORE = ".download"  # the folder of archives that `obtain` has under way, inside the data folder


def obtain(url: str, sha256: str, folder: Path, *, progress: Progress | None = None) -> None:
    """Fill `folder` with the unpacked archive at `url`, going on with an interrupted attempt.

    Does nothing where the folder already holds the archive's content, or files that are the user's own. The archive
    itself is deleted afterwards.

    Raises:
        ToolkitError: see `fetch` and `unpack`.
    """
    store = folder / STORE
    visible = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if visible and not store.exists():
        return
    archive = fetch(url, sha256, store, progress=progress)
    if not visible:  # the marker of an earlier unpacking says nothing once its files are deleted
        _marker(archive, folder).unlink(missing_ok=True)
    unpack(archive, folder, progress=progress)
    shutil.rmtree(store, ignore_errors=True)


def fetch(url: str, sha256: str, folder: Path, *, progress: Progress | None = None) -> Path:
    """Download `url` into `folder`, going on with an interrupted download, and verify it.

    The file grows as `<name>.partial` and takes its name when its checksum is right. A file of that name whose
    checksum is right (also one put there by hand) is not downloaded again.

    Args:
        url: http or https.
        sha256: hex digest of the file.
        folder: made if it is not there.
        progress: shows MiB done.

    Raises:
        ToolkitError: no checksum, another scheme, no network, an error of the server, a wrong checksum, a full disk.
    """
    progress = progress or Silent()
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ToolkitError(f"source.url = {url!r}: only http:// and https:// addresses are downloaded")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ToolkitError(
            f"source.sha256 = {sha256!r} is no SHA-256 checksum, and nothing is unpacked unchecked. Download {url} "
            "yourself, compare it with what the publisher states, and write what `sha256sum FILE` says into the card, "
            'under [source]: sha256 = "..."'
        )
    name = re.sub(r"[^\w.-]+|^\.+", "-", urllib.parse.unquote(PurePosixPath(parts.path).name)) or "download"
    final, partial = output_folder(folder) / name, folder / f"{name}.partial"
    if final.is_file() and _digest(final) == sha256.lower():
        return final
    with _full_disk(folder):
        resumed = _download(url, partial, progress)
        if resumed and _digest(partial) != sha256.lower():
            # The file changed between the two halves and the server did not say so: once more, from its beginning.
            _forget(partial)
            _download(url, partial, progress)
    found = _digest(partial)
    if found != sha256.lower():
        _forget(partial)
        raise ToolkitError(
            f"{url} has the SHA-256 checksum {found}, but the card says {sha256.lower()}: the file was changed or "
            "damaged, and it was deleted. Ask the publisher which is right; if the new one is, write it into the card"
        )
    partial.replace(final)
    _forget(partial)
    return final


def unpack(archive: Path, folder: Path, *, limit: int | None = None, progress: Progress | None = None) -> Path:
    """Unpack a zip or tar file (also .gz, .bz2, .xz) into `folder`, once: a marker remembers the archive's checksum.

    Everything is unpacked beside its place first, so a refused or interrupted archive leaves nothing behind.

    Args:
        archive: the file.
        folder: made if it is not there.
        limit: most bytes that may come out; None for 200 times the archive, and at least 1 GiB.
        progress: shows MiB done.

    Raises:
        ToolkitError: not an archive or damaged; a member outside the folder; a link or a device; too large;
            another file already in the place of a member; a full disk.
    """
    progress = progress or Silent()
    digest, marker = _digest(archive), _marker(archive, folder)
    if marker.is_file() and marker.read_text(encoding="utf-8").strip() == digest:
        return folder
    limit = max(BOMB_FLOOR, BOMB_RATIO * archive.stat().st_size) if limit is None else limit
    staging = output_folder(folder) / f".{archive.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        with _full_disk(folder), progress.bar(f"unpacking {archive.name}", 0, "MiB") as bar:
            if tarfile.is_tarfile(archive):  # asked first: a tar file that ends in a zip file passes for one
                _unpack_tar(archive, staging, limit, bar)
            elif zipfile.is_zipfile(archive):
                _unpack_zip(archive, staging, limit, bar)
            else:
                raise ToolkitError(f"{archive} is neither a zip nor a tar file (.tar, .tar.gz, .tar.bz2, .tar.xz)")
            _merge(staging, folder)
    except DAMAGED as error:
        raise ToolkitError(f"{archive} is damaged or protected ({error}): delete it and download it again") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    write_text(marker, digest + "\n")
    return folder


def _download(url: str, partial: Path, progress: Progress) -> bool:
    """Bring `partial` to its full length; True if some of it came from an earlier attempt (so it may not fit)."""
    resumed = partial.is_file() and partial.stat().st_size > 0
    problem = ""
    for attempt in range(ATTEMPTS):
        time.sleep(0.5 * attempt)
        try:
            if _transfer(url, partial, progress):
                return resumed or attempt > 0
            problem = f"it broke off after {partial.stat().st_size:,} bytes"
        except urllib.error.HTTPError as error:
            if error.code == 416 and partial.is_file():
                return True  # nothing after the end of what we have: it is whole, or of another version
            problem = f"the server answered {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break
        except urllib.error.URLError as error:
            problem = f"no connection: {error.reason}"
        except (HTTPException, TimeoutError, ConnectionError) as error:
            problem = f"it broke off: {error or type(error).__name__}"
    raise ToolkitError(
        f"cannot download {url}: {problem}. Check the address and the network and run the command again: it goes on "
        f"where it stopped. Or download it elsewhere and put it at {partial.with_suffix('')}"
    )


def _transfer(url: str, partial: Path, progress: Progress) -> bool:
    """One request for what is missing; True when the file is complete by the server's own count."""
    have = partial.stat().st_size if partial.is_file() else 0
    notes = partial.with_name(f"{partial.name}.json")
    headers = {"User-Agent": "vqvae-toolkit", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        validator = _read_validator(notes, url)
        if validator:
            headers["If-Range"] = validator  # a changed file then comes whole, as 200
    with _opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        assert isinstance(response, HTTPResponse)
        goes_on = response.status == 206 and f"bytes {have}-" in response.headers.get("Content-Range", "")
        if response.status == 206 and not goes_on:
            raise HTTPException(f"asked from byte {have}, the server sent {response.headers.get('Content-Range')!r}")
        have = have if goes_on else 0  # 200: the server ignores ranges, or the file is another one
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        write_text(notes, json.dumps({"url": url, "validator": validator}))
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total is not None and total - have > shutil.disk_usage(partial.parent).free:
            raise OSError(errno.ENOSPC, f"{total - have:,} bytes are needed")
        title = f"downloading {partial.stem}"
        shown = progress.bar(title, -(-(total or 0) // BLOCK), "MiB", done=have // BLOCK)
        with partial.open("ab" if goes_on else "wb") as file, shown as bar:
            while block := response.read(BLOCK):
                file.write(block)
                bar.update((have + len(block)) // BLOCK - have // BLOCK)
                have += len(block)
    return total is None or have == total


def _opener() -> urllib.request.OpenerDirector:
    """Like urllib's own, but without file:, ftp: and data:, which a redirect could name."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _read_validator(notes: Path, url: str) -> str:
    """The ETag or date under which the first part of the file came; "" if unknown."""
    try:
        data = json.loads(notes.read_text(encoding="utf-8"))
        return str(data["validator"]) if data["url"] == url else ""
    except (OSError, ValueError, KeyError):
        return ""


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_name(f"{partial.name}.json").unlink(missing_ok=True)


def _marker(archive: Path, folder: Path) -> Path:
    return folder / f".{archive.name}.unpacked"


def _unpack_zip(archive: Path, staging: Path, limit: int, bar: Bar) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        _bounded(archive, sum(member.file_size for member in members), limit)
        done = 0
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ToolkitError(f"{archive}: {member.filename!r} is a link or a device: nothing was unpacked")
            target = _inside(archive, staging, member.filename)
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            with file.open(member) as source:  # reads no more than file_size, and checks the CRC
                done = _write(source, target, bar, done)


def _unpack_tar(archive: Path, staging: Path, limit: int, bar: Bar) -> None:
    with tarfile.open(archive, "r:*") as file:
        total = done = 0
        for member in file:
            if not (member.isreg() or member.isdir()):
                raise ToolkitError(f"{archive}: {member.name!r} is a link or a device: nothing was unpacked")
            target = _inside(archive, staging, member.name)
            total += member.size
            _bounded(archive, total, limit)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            checked = tarfile.data_filter(member, str(staging))  # the library's own check as a second lock
            source = file.extractfile(checked)
            assert source is not None
            done = _write(source, target, bar, done)


def _inside(archive: Path, staging: Path, name: str) -> Path:
    """Where a member goes; refused unless that is below `staging` by its mere spelling, on every system."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise ToolkitError(f"{archive}: {name!r} would lie outside the folder: nothing was unpacked")
    return staging / path


def _write(source: IO[bytes], target: Path, bar: Bar, done: int) -> int:
    """Write one member; `done` bytes of the archive were written before it, the sum after it is returned."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while block := source.read(BLOCK):
            file.write(block)
            bar.update((done + len(block)) // BLOCK - done // BLOCK)
            done += len(block)
    return done


def _bounded(archive: Path, total: int, limit: int) -> None:
    if total > limit:
        raise ToolkitError(
            f"{archive} would unpack to more than {limit:,} bytes: refused as a bomb. "
            "If it is right, unpack it yourself and give the folder with --data"
        )


def _merge(staging: Path, folder: Path) -> None:
    """Move what was unpacked into place; equal files of an interrupted move are replaced, others refused."""
    files = [path for path in staging.rglob("*") if path.is_file()]
    for path in files:
        target = folder / path.relative_to(staging)
        if target.exists() and (not target.is_file() or target.stat().st_size != path.stat().st_size):
            raise ToolkitError(f"{target} is in the way of the archive's file: move it, or choose another folder")
    for path in staging.rglob("*"):
        target = folder / path.relative_to(staging)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
    for path in files:
        path.replace(folder / path.relative_to(staging))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Say plainly that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder).free
        raise ToolkitError(
            f"the disk of {folder} is full ({free:,} bytes free): make room, or choose another folder; "
            "a download goes on where it stopped"
        ) from None
