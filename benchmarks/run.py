"""Speed and memory as ratios against a peer or a limit, taken in one run: `make bench`.

Each row times both sides alternately and reports the median of the ratios, so that a slow moment of the machine hits
both. Rows are printed and written to docs/benchmarks.md, with the machine and the versions.

    python benchmarks/run.py [--data FOLDER_OF_JPEGS]

Without --data the pictures are crops of the two photographs that come with scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
REPEATS = 5


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(ours: Callable[[], object], other: Callable[[], object]) -> tuple[float, float, list[float]]:
    """Median seconds of both sides, and the ratio other / ours of each repeat."""
    ours(), other()
    pairs = [(seconds(ours), seconds(other)) for _ in range(REPEATS)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        [b / a for a, b in pairs],
    )


def row(what: str, ours: str, other: str, ratios: list[float]) -> str:
    middle = statistics.median(ratios)
    return f"| {what} | {ours} | {other} | **{middle:.2f}** ({min(ratios):.2f}–{max(ratios):.2f}) |"


def decoding(folder: Path) -> str:
    """All pictures of a folder into the cache, against a plain Pillow loop that keeps nothing."""
    from PIL import Image

    from toolkit_datasets.card import load_card
    from toolkit_datasets.prepare import prepare

    files = sorted(folder.rglob("*.jpg"))[:5000]
    card = load_card("folder", ["image.size=64"])

    def ours() -> None:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TOOLKIT_CACHE"] = cache
            prepare(card, folder, limit=len(files), split=False)

    def plain() -> None:
        for path in files:
            np.asarray(Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))

    a, b, ratios = ratio(ours, plain)
    n = len(files)
    return row(
        f"decode {n:,} JPEGs to 64x64: cache with hashes and status, against a Pillow loop on one thread",
        f"{n / a:,.0f}/s",
        f"{n / b:,.0f}/s",
        ratios,
    )


def nearest_code(k: int) -> str:
    """Index-only nearest-code search, against vector-quantize-pytorch in evaluation."""
    import torch
    from vector_quantize_pytorch import VectorQuantize

    from stage1_vqvae.nearest import nearest

    tokens = torch.randn(16_384, 64, generator=torch.Generator().manual_seed(0))
    peer = VectorQuantize(dim=64, codebook_size=k).eval()
    codebook = peer.codebook.detach().clone()
    with torch.no_grad():
        a, b, ratios = ratio(lambda: nearest(tokens, codebook), lambda: peer(tokens[None]))
    return row(
        f"nearest of {k:,} codes for 16,384 tokens of 64 dimensions, against vector-quantize-pytorch (eval)",
        f"{1000 * a:.1f} ms",
        f"{1000 * b:.1f} ms",
        ratios,
    )


def encoding_memory() -> str:
    """Peak memory of encoding 25,000 images, against 5,000: flat is 1.00."""
    peaks = [peak_of_encoding(n) for n in (5_000, 25_000)]
    return row(
        "peak memory of encoding 25,000 images of 64x64 to `.npy`, against 5,000 (flat: 1.00)",
        f"{peaks[1]:,.0f} MB",
        f"{peaks[0]:,.0f} MB",
        [peaks[1] / peaks[0]],
    )


def peak_of_encoding(n: int) -> float:
    """MB at the peak of a process of its own that encodes `n` random images from a memory map."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--encode", str(n), folder]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def encode_random_images(n: int, folder: Path) -> None:
    """The body of `peak_of_encoding`: prints the peak resident memory in MB, mapped file pages included."""
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
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the images
    encode(folder / "model", prepared, np.arange(n), folder / "codes", format="npy", content="vectors")
    # Not ru_maxrss, which a child inherits from its parent.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024)


def bundled_pictures(folder: Path) -> Path:
    """2,000 crops of 80x80 from scikit-learn's two photographs, as JPEG files."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = load_sample_images().images
    for i in range(2000):
        picture = photographs[i % 2]
        top, left = rng.integers(0, picture.shape[0] - 80), rng.integers(0, picture.shape[1] - 80)
        Image.fromarray(picture[top : top + 80, left : left + 80]).save(folder / f"{i}.jpg", quality=87)
    return folder


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--encode", nargs=2, metavar=("N", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.encode:
        encode_random_images(int(arguments.encode[0]), Path(arguments.encode[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        pictures = arguments.data or bundled_pictures(Path(folder))
        source = "the folder given with --data" if arguments.data else "crops of scikit-learn's two photographs"
        rows = [decoding(pictures), *(nearest_code(k) for k in (256, 512, 1024, 4096)), encoding_memory()]
    page = [
        "# Benchmarks\n",
        f"Written by `make bench` on {date.today().isoformat()}: {machine()}. Each ratio is other / ours (memory: "
        f"ours / other), the median of {REPEATS} alternating repeats with the range; above 1 is "
        f"faster. Pictures: {source}.\n",
        "| what | ours | other | ratio |",
        "|---|---|---|---|",
        *rows,
    ]
    PAGE.write_text("\n".join(page) + "\n", encoding="utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    main()
