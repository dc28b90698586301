"""The commands that ask something of a finished run: rebuild, find what is unusual, make new images, show codes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from . import options
from .options import Console, finish


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@options.asks_about
@options.path_option("--out", metavar="DIR", help="Folder to write. [default: RUN/reconstructions/SPLIT]")
@click.option(
    "--images/--no-images",
    "images",
    default=None,
    help="Write each reconstruction too, as NIfTI or PNG. [default: of volumes and FILES]",
)
@options.workers_option
@options.fail_fast_option
@options.device_option
@options.overwrite_option
@options.common
def reconstruct(
    console: Console,
    run: Path,
    files: tuple[Path, ...],
    split: str | None,
    data: Path | None,
    out: Path | None,
    images: bool | None,
    workers: int | None,
    fail_fast: bool,
    device: str,
    overwrite: bool,
) -> None:
    """Rebuild images that the run never saw, and say how well.

    By default those of its test split, beside the originals. SSIM and PSNR for each image, each subject and all of
    them, with intervals over subjects; a grid to look at; tables; of NIfTI files NIfTI files, in their own space and
    unit. New images go through the run's own preprocessing, and what is unusual about them is said.

    \b
    Example:  toolkit reconstruct runs/ixi
              toolkit reconstruct runs/ixi patient-1.nii.gz patient-2.nii.gz --out patients/
              toolkit reconstruct runs/ixi --data another-cohort/ --out another/
    """
    from .reconstruct import reconstruct_run
    from .reconstruct_text import reconstructed_text
    from .unseen import open_unseen

    if (data or files) and out is None:
        raise click.UsageError("new images need --out: what is kept in the run folder is about its own")
    asked = open_unseen(
        run, split=split, data=data, files=files, workers=workers, fail_fast=fail_fast, progress=console.progress
    )
    out = out or run / "reconstructions" / asked.origin
    summary = reconstruct_run(
        asked,
        out,
        images=(asked.volumes or bool(files)) if images is None else images,
        device=device,
        overwrite=overwrite,
        workers=workers,
        command=options.typed_command(),
        progress=console.progress,
    )
    console.show(reconstructed_text(summary))
    console.show(f"look at:  {out / 'grid.png'}; tables: {out / 'images.csv'}, {out / 'subjects.csv'}")
    console.data(summary)
    finish(len(asked.prepared.skipped_files))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@options.asks_about
@options.labels_option
@click.option("--healthy", default="", metavar="LABEL", help="Of images that show nothing unusual: all others are ill.")
@options.path_option("--masks", metavar="DIR", help="Masks of what should be found, named as the images are.")
@click.option(
    "--by",
    type=click.Choice(["error", "surprise", "combined"]),
    default="error",
    show_default=True,
    help="What ranks: the error of the reconstruction, how rare the codes are, or both.",
)
@click.option("--most", type=click.IntRange(min=0), default=20, show_default=True, help="How many images to draw.")
@click.option("--nifti/--no-nifti", default=True, help="Of volumes, also write error maps as NIfTI. [yes]")
@options.path_option("--out", metavar="DIR", help="Folder to write. [default: RUN/anomaly/SPLIT]")
@options.workers_option
@options.fail_fast_option
@options.device_option
@options.overwrite_option
@options.common
def anomaly(
    console: Console,
    run: Path,
    files: tuple[Path, ...],
    split: str | None,
    data: Path | None,
    labels: Path | None,
    healthy: str,
    masks: Path | None,
    by: Literal["error", "surprise", "combined"],
    most: int,
    nifti: bool,
    out: Path | None,
    workers: int | None,
    fail_fast: bool,
    device: str,
    overwrite: bool,
) -> None:
    """Find what is unusual: error maps and scores.

    By default of the run's test split. What a model that learned from healthy images rebuilds badly, or calls by rare
    codes, is unusual. Overlays and tables; of NIfTI files NIfTI files, in their own space. Where masks or labels tell
    what is ill, it says how well that is found, with intervals over subjects.

    \b
    Example:  toolkit anomaly runs/ixi
              toolkit anomaly runs/ixi --data patients/ --masks lesions/ --out runs/patients
              toolkit anomaly runs/slices --healthy notumor
    """
    from .anomaly import anomaly_text, find_anomalies
    from .unseen import open_unseen

    if (data or files) and out is None:
        raise click.UsageError("new images need --out: what is kept in the run folder is about its own")
    unseen = open_unseen(
        run,
        split=split,
        data=data,
        files=files,
        labels=labels,
        fail_fast=fail_fast,
        workers=workers,
        progress=console.progress,
    )
    out = out or run / "anomaly" / unseen.origin
    summary = find_anomalies(
        unseen,
        out,
        healthy_label=healthy,
        masks=masks,
        by=by,
        most=most,
        nifti=nifti,
        device=device,
        overwrite=overwrite,
        command=options.typed_command(),
        progress=console.progress,
    )
    console.show(anomaly_text(summary, out))
    console.data(summary)
    finish(len(unseen.prepared.skipped_files))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@options.path_option("--out", metavar="DIR", help="Folder of the images. [default: RUN/samples or RUN/between]")
@click.option("--count", type=click.IntRange(1, 1000), metavar="N", help="How many to draw. [default: 18]")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    metavar="T",
    help="Standard deviation of the draws; below 1 they are more alike. [default: 1]",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws. [default: 0]")
@click.option("--between", nargs=2, metavar="A B", help="Walk from one image to the other: ids, subjects or files.")
@click.option(
    "--steps", type=click.IntRange(2, 99), metavar="N", help="Images of that walk, ends included. [default: 8]"
)
@click.option("--no-neighbours", is_flag=True, help="Do not look for the nearest training images.")
@options.workers_option
@options.device_option
@options.overwrite_option
@options.common
def sample(
    console: Console,
    run: Path,
    out: Path | None,
    count: int | None,
    temperature: float | None,
    seed: int | None,
    between: tuple[str, str] | None,
    steps: int | None,
    no_neighbours: bool,
    workers: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """New images: from a VAE's prior, or between two images.

    Beside each image stand the training images nearest to it, so that a copy would be seen, and it is said whether any
    is nearer to one than real unseen images are. A volume's id or subject means its middle slice, ID#20 another one.

    \b
    Example:  toolkit sample runs/vae --count 24 --temperature 0.8
              toolkit sample runs/vae --between sub-02 sub-15 --steps 10
              toolkit sample runs/cats --between cat.1 my-dog.jpg --out walk/
    """
    from .sample_run import Between, Draws, sample_run
    from .sample_wording import sample_text

    if between and (count or temperature or seed is not None):
        raise click.UsageError("--count, --temperature and --seed are for draws: leave them out with --between")
    if steps and not between:
        raise click.UsageError("--steps is for a walk: give its ends with --between A B")
    wanted: Draws | Between
    if between:
        wanted = Between(between, steps or Between.steps)
    else:
        wanted = Draws(count or Draws.count, temperature or Draws.temperature, seed or Draws.seed)
    out = out or run / ("between" if between else "samples")
    summary = sample_run(
        run,
        out,
        wanted,
        neighbours=not no_neighbours,
        device=device,
        workers=workers,
        overwrite=overwrite,
        progress=console.progress,
    )
    console.show(sample_text(summary, out))
    console.data(summary)


@click.command()
@click.argument("codes", type=click.Path(path_type=Path))
@options.path_option("--out", metavar="DIR", required=True, help="Folder for the PNG files.")
@options.path_option("--run", metavar="RUN", help="Run folder of the model. [default: the one that CODES lies in]")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Decode the first N samples only.")
@options.device_option
@options.common
def decode(console: Console, codes: Path, out: Path, run: Path | None, limit: int | None, device: str) -> None:
    """Turn codes back into images.

    \b
    Example:  toolkit decode runs/cats/codes --out back/ --limit 20
    """
    from toolkit_datasets.codes import open_codes

    from .pipeline import decode_codes, find_model

    store = open_codes(codes)
    count = decode_codes(store, find_model(store, run), out, limit=limit, device=device, progress=console.progress)
    console.show(f"{count:,} images in {out}")
    console.data({"images": count, "folder": str(out)})
