"""`toolkit sample`: new images of a run, each beside its nearest training images, in a folder.

sample-001.png …   the images; step-01.png … where they lie between two
grid.png           them (at most 24 draws) and their neighbours
samples.csv        a row for each: its nearest training images, and how near they are
latents.csv        of a VAE: mean and variance of each latent over the training images
summary.json       all else
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit_datasets.atomic import output_folder, replacing, write_json
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import write_image
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress
from toolkit_datasets.splits import leakage

from .pick import Picked, pick
from .pipeline import CHANGED, open_data
from .runs import read_results, read_run
from .sample_record import about_neighbours, aggregate_table, neighbour_columns
from .sample_sheet import draws_sheet, walk_sheet

if TYPE_CHECKING:
    from stage1_vqvae.checkpoint import Loaded

TABLE, SUMMARY, LATENTS, GRID = "samples.csv", "summary.json", "latents.csv", "grid.png"
KINDS = ("draws", "between")
WAYS = {
    "vae": "spherical, of the means of their latents",
    "vqvae": "linear, of their latents, which are then quantised",
}


@dataclass(frozen=True)
class Draws:
    """What to draw from the prior."""

    count: int = 18  # six lines of three, with their neighbours
    temperature: float = 1.0  # times the deviation of the prior
    seed: int = 0


@dataclass(frozen=True)
class Between:
    """Which two images to walk between."""

    ends: tuple[str, str]  # see `pick`
    steps: int = 8  # images, both ends included


@dataclass(frozen=True)
class Made:
    """Images and what is known of them so far."""

    pictures: np.ndarray  # (n, H, W, C) uint8
    table: pd.DataFrame  # a row for each
    about: dict[str, Any]
    ends: Sequence[Picked] = ()


def sample_run(
    run: Path,
    out: Path,
    wanted: Draws | Between,
    *,
    neighbours: bool = True,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Make images with the model of `run`, write them to `out`, and return what `summary.json` holds.

    Args:
        run: the run folder.
        out: a folder.
        wanted: what to make.
        neighbours: compare with the training images, which must be where they were then.
        device: where the model runs.
        workers: decoding threads.
        overwrite: replace earlier samples in `out`.
        progress: shows what goes on.

    Raises:
        ToolkitError: the model has no prior; no such image; samples in `out`; images that changed since the training.
    """
    from stage1_vqvae.checkpoint import load_model
    from stage1_vqvae.sample import compare

    check_place(out, overwrite=overwrite)
    loaded = load_model(run / "stage1", device)
    prepared: Prepared | None = None
    if isinstance(wanted, Draws):
        made = _drawn(loaded, wanted)
        if neighbours:
            prepared = _images_of(run, workers, progress)
    else:
        prepared = _images_of(run, workers, progress)
        ends = [pick(run, prepared, word, workers=workers, progress=progress) for word in wanted.ends]
        made = _walked(loaded, ends, wanted.steps)
    pictures, table, about, compared = made.pictures, made.table, made.about, None
    if prepared is not None and neighbours:
        compared = compare(loaded, prepared, pictures, progress=progress)
        table = pd.concat([table, neighbour_columns(compared, prepared)], axis=1)
        learned_end = any(end.learned for end in made.ends)
        about = about | about_neighbours(table, compared, learned_end=learned_end)
    if prepared is not None and (leaking := leakage(prepared.samples)):
        about = about | {"leakage": leaking}
    summary = {"run": str(run), "model_hash": loaded.model_hash, "images": len(pictures), **about}

    _clear(out)
    output_folder(out)
    for file, pixels in zip(table["file"], pictures, strict=True):
        write_image(out / file, pixels)
    if compared is not None and compared.aggregate is not None:
        _write_table(aggregate_table(compared.aggregate), out / LATENTS)
    if made.ends:
        walk_sheet(made.ends, pictures, table, compared, prepared, out / GRID)
    else:
        draws_sheet(pictures, table, compared, prepared, out / GRID)
    _write_table(table, out / TABLE)
    write_json(out / SUMMARY, summary)
    return summary


def check_place(out: Path, *, overwrite: bool) -> None:
    """Refuse to mix two samplings.

    Raises:
        ToolkitError: `out` holds samples, and `overwrite` is off; or files of the same names that are none of ours.
    """
    there = [name for name in (TABLE, SUMMARY, GRID, LATENTS) if (out / name).exists()]
    if there and read_results(out / SUMMARY).get("kind") not in KINDS:
        raise ToolkitError(f"{out} holds {there[0]} of something that is no sampling: choose another --out")
    if there and not overwrite:
        raise ToolkitError(f"{out} already holds samples: give --overwrite to replace them, or another --out")


def _images_of(run: Path, workers: int | None, progress: Progress) -> Prepared:
    """The images of the run, which must be those of its training."""
    from stage1_vqvae.training_state import check_belongs

    card, data = read_run(run)
    prepared = open_data(card, data, workers=workers, progress=progress)
    check_belongs(prepared, run / "stage1", advice=CHANGED)
    return prepared


def _drawn(loaded: Loaded, wanted: Draws) -> Made:
    from stage1_vqvae.prior import prior_of
    from stage1_vqvae.sample import draw

    prior = prior_of(loaded.model)
    pictures = draw(loaded, prior, wanted.count, seed=wanted.seed, temperature=wanted.temperature)
    table = pd.DataFrame({"file": [f"sample-{number:03d}.png" for number in range(1, len(pictures) + 1)]})
    return Made(pictures, table, {"kind": KINDS[0], "prior": prior.title, **asdict(wanted)})


def _walked(loaded: Loaded, ends: Sequence[Picked], steps: int) -> Made:
    from stage1_vqvae.sample import between

    pictures = between(loaded, np.stack([end.pixels for end in ends]), steps)
    table = pd.DataFrame({"file": [f"step-{number:02d}.png" for number in range(1, len(pictures) + 1)]})
    table["share"] = np.linspace(0, 1, len(pictures)).round(6)  # of the way
    named = [{"name": end.name, "split": end.split} for end in ends]
    return Made(pictures, table, {"kind": KINDS[1], "way": WAYS[loaded.model.kind], "ends": named}, ends)


def _clear(out: Path) -> None:
    """Delete what an earlier sampling left; nothing else."""
    if not (out / TABLE).is_file():
        return
    for name in [*pd.read_csv(out / TABLE, dtype=str)["file"], GRID, LATENTS, SUMMARY, TABLE]:
        if Path(name).name == name:  # a table that was tampered with does not reach other folders
            (out / name).unlink(missing_ok=True)


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
