"""Rows of pictures: decoding them into the cache, and encoding them in flat memory."""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from measure import Row, alternate, child_peak, forget_peak, own_peak

SIZE = 64  # px


def rows(folder: Path) -> list[Row]:
    """Rows of JPEG files anywhere in `folder`."""
    return [*decoding(sorted(folder.rglob("*.jpg"))[:5000]), encoding_memory()]


def decoding(files: list[Path]) -> list[Row]:
    """Pictures into the cache, with hashes and status, against loops that keep nothing."""
    from torchvision.io import decode_jpeg, read_file

    from toolkit_datasets.card import load_card
    from toolkit_datasets.prepare import prepare

    card, n = load_card("folder", [f"image.size={SIZE}"]), len(files)
    root = Path(os.path.commonpath(files))
    names = [path.relative_to(root).as_posix() for path in files]

    def ours() -> None:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TOOLKIT_CACHE"] = cache
            prepare(card, root, files=names, split=False)

    def one_thread() -> None:
        for path in files:
            decode_plainly(path)

    def all_threads() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(decode_plainly, files):
                pass

    def torchvision() -> None:
        for path in files:
            decode_jpeg(read_file(str(path)))

    peers = {
        "decoding": ("a Pillow loop on one thread: same crop and resampling, nothing kept", one_thread),
        "decoding-threads": (f"the same Pillow loop on {os.cpu_count()} threads", all_threads),
        "decoding-torchvision": ("torchvision's decode_jpeg alone, on one thread, nothing resized", torchvision),
    }
    found = []
    for name, (peer, other) in peers.items():
        timed = alternate(ours, other)
        what = f"decode {n:,} JPEGs to {SIZE} px, in the cache with hashes and status, against {peer}"
        found.append(Row(name, what, f"{n / timed.ours:,.0f}/s", f"{n / timed.other:,.0f}/s", timed.ratios))
    return found


def decode_plainly(path: Path) -> np.ndarray:
    """A centred square of a picture by Pillow alone, with the toolkit's resampling."""
    from PIL import Image

    with Image.open(path) as image:
        (width, height), side = image.size, min(image.size)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def encoding_memory() -> Row:
    """Peak memory of encoding 25,000 images, against 5,000: flat is 1.00."""
    small, large = (peak_of_encoding(n) for n in (5_000, 25_000))
    return Row(
        "encoding-memory",
        "peak memory of encoding 25,000 images of 64x64 to `.npy`, against 5,000 (flat: 1.00)",
        f"{large:,.0f} MB",
        f"{small:,.0f} MB",
        (small / large,),
    )


def peak_of_encoding(n: int) -> float:
    """MB at the peak of a process of its own that encodes `n` random images from a memory map."""
    return child_peak(__file__, n)


def encode_random_images(n: int, folder: Path) -> None:
    """The body of `peak_of_encoding`: leaves the peak resident memory in MB, mapped file pages included."""
    import pandas as pd

    from stage1_vqvae.checkpoint import save_model
    from stage1_vqvae.encode import encode
    from stage1_vqvae.model import build
    from toolkit_datasets.card import load_card
    from toolkit_datasets.prepare import Prepared

    card = load_card("cats-vs-dogs")
    images = np.lib.format.open_memmap(folder / "x.npy", "w+", np.uint8, (n, 64, 64, 3))
    rng = np.random.default_rng(0)
    for start in range(0, n, 1000):
        images[start : start + 1000] = rng.integers(0, 255, (len(images[start : start + 1000]), 64, 64, 3), np.uint8)
    del images  # written and unmapped: what counts is the reading
    ids = [f"{i}" for i in range(n)]
    empty = dict.fromkeys(("slice", "label", "group", "sha256", "part"), "")
    table = {"id": ids, "path": ids, "number": ids, "split": "test", "status": "ok", **empty}
    samples = pd.DataFrame(table, dtype=object)
    mapped = np.load(folder / "x.npy", mmap_mode="r")
    prepared = Prepared(card, samples, mapped, pd.DataFrame(), "random", 0)
    (folder / "model").mkdir()
    save_model(folder / "model", build(card, seed=0), card, {}, settings={})
    forget_peak()  # of making the images
    encode(folder / "model", prepared, np.arange(n), folder / "codes", format="npy", content="vectors")
    (folder / "peak").write_text(str(own_peak()))


if __name__ == "__main__":
    encode_random_images(int(sys.argv[1]), Path(sys.argv[2]))
