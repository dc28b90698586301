"""Rows of encoding end to end: a folder of JPEG files to code files, against limits and against a plain loop.

20,000 pictures at 64 px go through the plain VQ-VAE of the cats-vs-dogs card. Its weights are random, which costs what
trained ones cost. The limit of a warm start, where decoded images are in the cache, is the bare forward pass on images
in memory; that of a cold start adds a bare Pillow loop on as many threads. All take turns: about six minutes on two
cores.

Nothing is deleted before the end: ext4 does not give a deleted file's place to a new one for some minutes, and looks
through all such places for each new file (0.6 ms rather than 0.02 after 80,000 deletions). Where that has happened,
the rows say so; TMPDIR names another disk.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from measure import Row, seconds, toolkit, watched
from pictures import decode_plainly

IMAGES = 20_000
TURNS = 2  # of three minutes each
CARD, SETS = "cats-vs-dogs", ["train.objective=reconstruct"]


def rows(folder: Path) -> list[Row]:
    """Rows of JPEG files anywhere in `folder`, each used as often as it takes to have enough of them."""
    with tempfile.TemporaryDirectory() as place:
        bench = Bench.at(Path(place), folder)
        slow = slow_disk(Path(place))
        took = by_turns(
            {
                "bare": bench.forward,
                "h5": partial(bench.encode, "h5"),
                "npy": partial(bench.encode, "npy"),
                "command": bench.command,
                "decode": bench.decode,
                "cold h5": partial(bench.encode_cold, "h5"),
                "cold npy": partial(bench.encode_cold, "npy"),
                "plain": bench.plain_loop,
            }
        )
    took["limit"] = [bare + decode for bare, decode in zip(took["bare"], took["decode"], strict=True)]
    what, forward = f"encode {IMAGES:,} pictures of 64 px", "the bare forward pass on images in memory"
    cold = "the bare forward pass and a Pillow loop on as many threads, one after the other"
    plain = "a plain loop: ImageFolder, DataLoader with 2 workers, contiguous float32, np.save"
    shared = statistics.median(took["bare"]) / statistics.median(took["cold npy"])
    most = statistics.median(took["plain"]) / statistics.median(took["bare"])
    same = (
        f"{100 * shared:.0f} % of our time is the forward pass, which the plain loop needs as well: with nothing else "
        f"to do the ratio would be {most:.2f}."
    )
    again = f"{what}, decoded before, against"
    first = f"{what}, nothing decoded before, against"
    return [
        row(took, "h5", "bare", "encode-warm-h5", f"{again} {forward}; to HDF5", target=0.9),
        row(took, "npy", "bare", "encode-warm-npy", f"{again} {forward}; to `.npy` vectors", target=0.75, note=slow),
        row(
            took, "command", "bare", "encode-command", f"{again} {forward}; the whole command `toolkit encode`, to HDF5"
        ),
        row(took, "cold h5", "limit", "encode-cold-h5", f"{first} {cold}; to HDF5", target=0.9),
        row(took, "cold npy", "limit", "encode-cold-npy", f"{first} {cold}; to `.npy` vectors", target=0.75, note=slow),
        row(took, "cold npy", "plain", "encode-plain", f"{first} {plain}", target=3.0, note=same),
        row(took, "npy", "plain", "encode-plain-again", f"{again} {plain}, which decodes each time"),
    ]


def slow_disk(place: Path, files: int = 500) -> str:
    """What to say of a disk on which making an empty file takes unusually long; "" of others."""
    (place / "empty").mkdir()

    def make() -> None:
        for i in range(files):
            (place / "empty" / str(i)).touch()

    each = seconds(make) / files
    return f"an empty file alone took {1000 * each:.2f} ms: many were deleted a moment before" if each > 2e-4 else ""


def by_turns(functions: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each function in each turn; on nothing but what an earlier one left in the system's caches."""
    took: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(TURNS):
        for name, function in functions.items():
            took[name].append(seconds(function))
    return took


def row(
    took: dict[str, list[float]],
    ours: str,
    other: str,
    name: str,
    what: str,
    *,
    target: float | None = None,
    note: str = "",
) -> Row:
    """Pictures a second of both sides, and the ratios turn by turn."""
    mine, theirs = (f"{IMAGES / statistics.median(took[side]):,.0f}/s" for side in (ours, other))
    ratios = tuple(b / a for a, b in zip(took[ours], took[other], strict=True))
    return Row(name, what, mine, theirs, ratios, target=target, note=note)


@dataclass(frozen=True)
class Bench:
    """A folder with pictures, a run folder with a model, and the ways to encode the one with the other."""

    place: Path
    card: Any
    images: np.ndarray  # (N, H, W, C) uint8, in memory

    @classmethod
    def at(cls, place: Path, source: Path) -> Bench:
        """Everything made ready below `place`; the cache is filled."""
        from stage1_vqvae.checkpoint import save_model
        from stage1_vqvae.model import build
        from toolkit.runs import Data, write_run
        from toolkit_datasets.card import load_card
        from toolkit_datasets.prepare import prepare

        files = sorted(source.rglob("*.jpg"))
        jpegs = place / "pictures" / "all"  # ImageFolder wants a class
        jpegs.mkdir(parents=True)
        for i in range(IMAGES):
            copy(files[i % len(files)], jpegs / f"{i}.jpg")
        card = load_card(CARD, SETS)
        os.environ["TOOLKIT_CACHE"] = str(place / "cache")
        prepared = prepare(card, jpegs.parent, split=False)
        (place / "run" / "stage1").mkdir(parents=True)
        write_run(place / "run", prepared, Data(jpegs.parent), "benchmarks/encoding.py")
        save_model(place / "run" / "stage1", build(card, seed=0), card, {}, settings={})
        return cls(place, card, np.array(prepared.images))

    def model(self) -> Any:
        """The trained model."""
        from stage1_vqvae.checkpoint import load_model

        return load_model(self.place / "run" / "stage1").model

    def forward(self) -> None:
        """Encode and quantise, and keep nothing."""
        import torch

        model, size = self.model(), self.card.encode_batch
        with torch.inference_mode():
            for start in range(0, IMAGES, size):
                batch = torch.from_numpy(self.images[start : start + size]).permute(0, 3, 1, 2).to(model.mean.device)
                codes = model.quantize(model.encode(batch))
                codes["codes"].indices.cpu()

    def encode(self, format: Literal["npy", "h5"]) -> None:
        """What `toolkit encode --data` calls: open the folder (from the cache, if that is filled), encode, write."""
        from toolkit.pipeline import encode_run, open_data, run_data
        from toolkit_datasets.progress import SILENT

        run = self.place / "run"
        out = Path(tempfile.mkdtemp(dir=self.place)) / ("codes.h5" if format == "h5" else "codes")
        card, where, _ = run_data(run, self.place / "pictures", None)
        prepared = open_data(card, where, split=False, progress=SILENT)
        encode_run(run, out, prepared, format=format, content="vectors", device="auto", overwrite=True, progress=SILENT)

    def encode_cold(self, format: Literal["npy", "h5"]) -> None:
        """The same with an empty cache."""
        shutil.rmtree(self.place / "cache")
        self.encode(format)

    def command(self) -> None:
        """The same by the command, which also starts Python and imports torch."""
        words = ("--data", self.place / "pictures", "--out", self.place / "command.h5", "--overwrite", "--quiet")
        watched(toolkit("encode", self.place / "run", *words))

    def decode(self) -> None:
        """Decode all pictures by Pillow alone, on as many threads as there are cores, and keep nothing."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(decode_plainly, sorted((self.place / "pictures").rglob("*.jpg"))):
                pass

    def plain_loop(self) -> None:
        """What one writes in an afternoon, with the same model."""
        import torch
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        size = self.card.image.size
        shrink = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
        loader = torch.utils.data.DataLoader(
            ImageFolder(str(self.place / "pictures"), shrink), batch_size=self.card.encode_batch, num_workers=2
        )
        model = self.model().to(memory_format=torch.contiguous_format)
        out = Path(tempfile.mkdtemp(dir=self.place))
        done = 0
        with torch.no_grad():
            for images, _ in loader:
                codes = model.quantize(model.encode(images.to(model.mean.device)))
                for vectors in codes["codes"].vectors.cpu().numpy():
                    np.save(out / f"{done}.npy", vectors)
                    done += 1


def copy(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system gives none."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
