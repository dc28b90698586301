"""Growth: time and peak memory of prepare, train, encode and probe as the samples become more, as rows and as a plot.

    python benchmarks/growth.py [--most 10000]

Sizes are 1,000, 10,000 and 100,000 samples of 16x16 pixels, made on the fly, and for encode and probe 1,000,000; about
six minutes on two cores. The network is as small as it can be, so that what grows is the toolkit's own share. A
straight line is one whose next samples cost what the ones before cost; flat is memory that grows by no more than a
sample's rows in the tables, which every process holds whole. Writes docs/growth.png and docs/growth.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import Row, forget_peak, machine, own_peak, seconds, toolkit, watched

DOCS = Path(__file__).parent.parent / "docs"
SIDE, SHARES = 16, {"unlabelled": 0.4, "labelled": 0.2, "test": 0.4}
SIZES = (1_000, 10_000, 100_000)
LARGEST = 1_000_000  # of encode and probe
TURNS = 3  # of a step at one size; one at the largest
TABLES = 1250  # bytes of a sample in the tables of a command, at most: docs/cluster.md
SETTINGS = (
    *(f"split.{split}={share}" for split, share in SHARES.items()),
    *(f"image.{key}" for key in (f"size={SIDE}", "channels=1")),
    *(f"vqvae.{key}" for key in ("stride=4", "width=8", "blocks=0", "codebook_size=64", "code_dim=16")),
    *("train.objective=reconstruct", "train.epochs=1", "train.batch_size=250"),
)
WHY = {  # targets that are missed
    "probe-time": "Under a profiler the bootstrap takes 0.9 s for 100,000 samples and 10.2 s for 1,000,000: its "
    "weights are held to 64 MB, so the right answers become float32 50 times and not 20. "
    "Blocks of 160 MB gave 2 % back.",
    "prepare-memory": "Not looked into.",
}


@dataclass(frozen=True)
class Point:
    """One step at one size."""

    step: str
    samples: int
    seconds: float
    peak: float  # MB


def rows(folder: Path, most: int = LARGEST) -> list[Row]:
    """Rows of growth, up to `most` samples, and the plot; no pictures needed."""
    with tempfile.TemporaryDirectory() as place:
        points = list(measured(Path(place), most))
    write_page(points)
    found = []
    for step in dict.fromkeys(point.step for point in points):
        of_step = [point for point in points if point.step == step]
        found += [*straight(of_step), *flat(of_step)]
    return found


def straight(points: list[Point]) -> Iterator[Row]:
    """Whether the last samples cost no more time than those before."""
    if len(points) < 3:
        return
    (a, b, c), step = points[-3:], points[0].step
    last, before = ((y.seconds - x.seconds) / (y.samples - x.samples) for x, y in ((b, c), (a, b)))
    yield Row(
        f"{step}-time",
        f"{step}: time of each further sample from {b.samples:,} to {c.samples:,}, against {a.samples:,} to "
        f"{b.samples:,} (straight: 1.00)",
        f"{1e6 * last:.0f} µs",
        f"{1e6 * before:.0f} µs",
        (before / last,),
        target=0.9,
        note=WHY.get(f"{step}-time", ""),
    )


def flat(points: list[Point]) -> Iterator[Row]:
    """Whether memory grows by the sample table alone."""
    if len(points) < 2:
        return
    (a, b), step = points[-2:], points[0].step
    each = 1e6 * (b.peak - a.peak) / (b.samples - a.samples)
    yield Row(
        f"{step}-memory",
        f"{step}: peak memory of each further sample from {a.samples:,} to {b.samples:,}, against its rows in "
        "the tables",
        f"{each:.0f} bytes",
        f"{TABLES} bytes",
        (TABLES / max(each, 1.0),),
        target=1.0,
        note=f"The peak at {b.samples:,} samples is {b.peak:,.0f} MB. {WHY.get(f'{step}-memory', '')}".strip(),
    )


def measured(folder: Path, most: int) -> Iterator[Point]:
    """Every step at every size up to `most`, smallest first."""
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    pictures, model = folder / "pictures", folder / f"run-{SIZES[0]}-0" / "stage1"
    of_card = ["cats-vs-dogs", "--data", pictures, *sets]
    written = 0

    def prepare(turn: str) -> Sequence[float]:
        return watched(toolkit("prepare", *of_card), env=cache_of(turn))

    def train(turn: str) -> Sequence[float]:
        return watched(toolkit("train", *of_card, "--out", folder / f"run-{turn}"), env=cache_of(turn))

    def encode(turn: str) -> Sequence[float]:
        store = folder / f"codes-{turn}.h5"
        subprocess.run([sys.executable, __file__, "--encode", turn.split("-")[0], model, store], check=True)
        found: list[float] = json.loads(store.with_suffix(".json").read_text())
        return found

    def probe(turn: str) -> Sequence[float]:
        return watched(toolkit("probe", folder / f"codes-{turn}.h5", "--out", folder / f"probe-{turn}"))

    def cache_of(turn: str) -> dict[str, str]:
        return {"TOOLKIT_CACHE": str(folder / f"cache-{turn}")}

    for n in (size for size in SIZES if size <= most):
        write_pictures(pictures, written, n)
        written = n
        for step in (prepare, train):
            yield point(step, n)
    for n in (size for size in (*SIZES, LARGEST) if size <= most):
        for step in (encode, probe):
            yield point(step, n)


def point(step: Callable[[str], Sequence[float]], samples: int) -> Point:
    """A step at one size: the median of its turns, but the largest peak; said on the terminal as well."""
    found = [step(f"{samples}-{turn}")[:2] for turn in range(TURNS if samples < LARGEST else 1)]
    took, peak = statistics.median(each[0] for each in found), max(each[1] for each in found)
    print(f"{step.__name__:8} {samples:9,} samples  {took:8.1f} s  {peak:8,.0f} MB", flush=True)
    return Point(step.__name__, samples, took, peak)


def pixels(start: int, stop: int) -> np.ndarray:
    """Made-up images (n, 16, 16, 1) uint8, each its own; those of odd number, the dogs, are a little brighter."""
    rng = np.random.default_rng([SIDE, start])
    noise = rng.integers(0, 200, (stop - start, SIDE, SIDE, 1), np.uint8)
    return noise + (10 * (np.arange(start, stop) % 2)).astype(np.uint8)[:, None, None, None]


def write_pictures(folder: Path, start: int, stop: int) -> None:
    """Images `start` to `stop` as PNG files, named as Kaggle names cats and dogs."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for i, image in enumerate(pixels(start, stop), start=start):
        Image.fromarray(image[..., 0]).save(folder / f"{'dog' if i % 2 else 'cat'}.{i}.png", compress_level=1)


def encode_made_up(n: int, model: Path, store: Path) -> None:
    """Encode `n` made-up images that lie decoded in a memory map; leaves seconds and the peak in MB beside the store.

    A process of its own runs this. Making images and table counts in neither, but the table stands in memory.
    """
    import pandas as pd

    from stage1_vqvae.checkpoint import load_model
    from stage1_vqvae.encode import encode
    from toolkit_datasets.prepare import Prepared

    place = store.with_suffix(".npy")
    images = np.lib.format.open_memmap(place, "w+", np.uint8, (n, SIDE, SIDE, 1))
    for start in range(0, n, 10_000):
        images[start : start + 10_000] = pixels(start, min(start + 10_000, n))
    del images  # written and unmapped: what counts is the reading
    label = np.array(["cat", "dog"])[np.arange(n) % 2]
    ids = [f"{name}.{i}" for i, name in enumerate(label)]
    split = np.random.default_rng(0).permutation(np.repeat(list(SHARES), [round(n * s) for s in SHARES.values()]))
    table = {
        "id": ids,
        "path": [f"{name}.png" for name in ids],
        "number": [str(i) for i in range(n)],
        "sha256": [f"{i:064x}" for i in range(n)],
        "label": pd.Categorical(label).astype(object),  # one object for each text, as in a table that was read
        "split": pd.Categorical(split).astype(object),
        **{"slice": "", "group": "", "status": "ok", "part": ""},
    }
    samples = pd.DataFrame(table, dtype=object)
    del table, ids
    card = load_model(model, "cpu").card
    prepared = Prepared(card, samples, np.load(place, mmap_mode="r"), pd.DataFrame(), "made up", 0)
    forget_peak()
    took = seconds(lambda: encode(model, prepared, np.arange(n), store, format="h5", content="vectors"))
    store.with_suffix(".json").write_text(json.dumps([took, own_peak()]))
    place.unlink()


def write_page(points: list[Point]) -> None:
    """docs/growth.md and docs/growth.png."""
    plot(points)
    lines = [
        "# Growth\n",
        "Written by `benchmarks/growth.py`: made-up images of 16x16 pixels and the smallest network, so that what "
        "grows is the toolkit's own share. `train` is one pass over 40 % of the samples; `encode` writes HDF5 from "
        "decoded images; `probe` is the whole default command, with 40 % of the samples in the test set. "
        f"Seconds are the median of {TURNS} turns, at {LARGEST:,} samples of one.\n",
        "![Seconds and peak memory against the number of samples](growth.png)\n",
        "| command | samples | seconds | µs each further one | peak memory, MB | bytes each further one |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in table(points)),
        f"\nMeasured on {machine()}.",
    ]
    (DOCS / "growth.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(points: list[Point]) -> Iterator[tuple[str, ...]]:
    """A line for each point, with what the samples since the point before cost."""
    before: Point | None = None
    for each in points_by_step(points):
        time = room = ""
        if before and before.step == each.step:
            extra = each.samples - before.samples
            time = f"{1e6 * (each.seconds - before.seconds) / extra:,.0f}"
            room = f"{1e6 * (each.peak - before.peak) / extra:,.0f}"
        yield each.step, f"{each.samples:,}", f"{each.seconds:.1f}", time, f"{each.peak:,.0f}", room
        before = each


def points_by_step(points: list[Point]) -> list[Point]:
    """Step after step, in the order in which they first came."""
    steps = list(dict.fromkeys(point.step for point in points))
    return sorted(points, key=lambda each: (steps.index(each.step), each.samples))


def plot(points: list[Point]) -> None:
    """Seconds, and peak memory, against the number of samples."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    from toolkit.drawing import INK, MARKERS, PALETTE, WIDTH, legend_above, styled, write_png

    sizes = sorted({each.samples for each in points})
    with styled("growth"):
        figure = Figure(figsize=(WIDTH, 3.2))
        axes = dict(zip(("seconds", "peak"), figure.subplots(1, 2), strict=True))
        for order, step in enumerate(dict.fromkeys(point.step for point in points)):
            of_step = [each for each in points if each.step == step]
            for what, each_axes in axes.items():
                each_axes.plot(
                    [each.samples for each in of_step],
                    [getattr(each, what) for each in of_step],
                    color=PALETTE[order],
                    marker=MARKERS[order],
                    label=step,
                )
        for title, each_axes in zip(("seconds", "peak memory, MB"), axes.values(), strict=True):
            each_axes.set_title(title)
            each_axes.set_xscale("log")
            each_axes.set_xticks(sizes, [f"{n // 1000}k" if n < LARGEST else f"{n // LARGEST}M" for n in sizes])
            each_axes.xaxis.set_minor_locator(NullLocator())
            each_axes.set_xlabel("samples (log scale)")
        axes["seconds"].set_yscale("log")
        axes["seconds"].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        tables = [TABLES * n / 1e6 for n in sizes]
        look: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (4, 3)), "marker": ""}
        axes["peak"].plot(sizes, tables, label=f"{TABLES:,} bytes a sample", **look)
        axes["peak"].set_ylim(bottom=0)
        legend_above(figure, axes["peak"])
        write_png(figure, DOCS / "growth.png")


def main() -> None:
    """Measure up to `--most` samples, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=LARGEST, help="samples of the largest step")
    parser.add_argument("--encode", nargs=3, metavar=("N", "MODEL", "STORE"), help="what a process of its own does")
    arguments = parser.parse_args()
    if arguments.encode:
        n, model, store = arguments.encode
        encode_made_up(int(n), Path(model), Path(store))
        return
    for row in rows(Path(), arguments.most):
        print(f"{row.what}: {row.ours}, other {row.other}, ratio {row.ratio:.2f}")


if __name__ == "__main__":
    main()
