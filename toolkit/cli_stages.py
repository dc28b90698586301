"""The two stages, a command for each step: train, encode, probe, predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from . import options
from .options import Console, Input, finish

if TYPE_CHECKING:
    from toolkit_datasets.card import Card


@click.command()
@click.argument("card")
@options.takes_images
@options.objective_option
@options.device_option
@options.path_option("--out", metavar="RUN", required=True, help="The run folder to write.")
@options.resume_option
@options.overwrite_option
@options.dry_run_option
@options.common
def train(
    console: Console,
    card: Card,
    images: Input,
    device: str,
    out: Path,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Stage 1: train a VQ-VAE on the unlabelled images.

    \b
    Example:  toolkit train cats-vs-dogs --data train/ --out runs/cats
              toolkit train folder --data mine/ --out runs/mine --set train.epochs=40 --set image.size=128
              torchrun --nproc-per-node 4 -m toolkit.cli train cats-vs-dogs --data train/ --out runs/cats
    """
    from stage1_vqvae.distributed import joined

    from .describe import plan_text
    from .pipeline import train_run, without_counts
    from .runs import check_out, clear
    from .summaries import stage1_text

    with joined(device) as world:
        with world.first_ahead():
            if world.first and not dry_run:
                check_out(out, resume=resume, overwrite=overwrite)
            prepared = images.open(card, console)
            if world.first and overwrite and not dry_run:
                clear(out)
        if dry_run:
            console.show(plan_text(prepared, out, steps=("train",)))
            return
        metrics = train_run(
            prepared,
            images.where,
            out,
            command=options.typed_command(),
            device=device,
            resume=resume,
            world=world,
            progress=console.progress,
        )
        if not world.first:
            return
    console.show(stage1_text(metrics))
    console.show(f"model: {out / 'stage1'}\nnext:  toolkit encode {out}")
    console.data(without_counts(metrics))
    finish(len(prepared.skipped_files))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@options.path_option("--out", metavar="CODES", help="A folder for npy, a file for h5. [default: in RUN]")
@click.option("--format", "format_", type=click.Choice(["npy", "h5"]), help="A file each, or one HDF5. [card: npy]")
@click.option("--content", type=click.Choice(["vectors", "indices", "latents"]), help="What to write. [card: vectors]")
@options.path_option("--data", metavar="NEW", help="Encode these images instead, which the run never saw.")
@options.labels_option
@click.option("--shard", "part", metavar="K/N", help="Encode the K-th of N parts only; the last to finish joins them.")
@click.option("--join", "join_only", is_flag=True, help="Encode nothing; join the finished shards, say copied here.")
@options.workers_option
@options.fail_fast_option
@options.device_option
@options.overwrite_option
@options.common
def encode(
    console: Console,
    run: Path,
    out: Path | None,
    format_: Literal["npy", "h5"] | None,
    content: Literal["vectors", "indices", "latents"] | None,
    data: Path | None,
    labels: Path | None,
    part: str | None,
    join_only: bool,
    workers: int | None,
    fail_fast: bool,
    device: str,
    overwrite: bool,
) -> None:
    """Freeze: write the codes of the images to files.

    Each image gets a .npy file of its own, or all go to one HDF5 file. An interrupted encoding goes on where it
    stopped when the same command is given again. Many processes or machines write a shard each: under torchrun by
    themselves, elsewhere with --shard.

    \b
    Example:  toolkit encode runs/cats
              toolkit encode runs/cats --out cats.h5 --format h5
              toolkit encode runs/cats --data holiday-pictures/ --out holiday/
              toolkit encode runs/cats --out cats.h5 --shard 2/8
              torchrun --nproc-per-node 4 -m toolkit.cli encode runs/cats --out cats.h5
    """
    from toolkit_datasets.codes import Shard, join

    from .pipeline import encode_run, open_data, run_data
    from .summaries import codes_text, shard_text

    card, where, new = run_data(run, data, labels)
    if new and out is None:
        raise click.UsageError("--data needs --out: the run's own codes belong in the run folder, new ones do not")
    form: Literal["npy", "h5"] = format_ or ("h5" if out and out.suffix in (".h5", ".hdf5") else card.encode.format)
    out = out or run / ("codes.h5" if form == "h5" else "codes")
    command = f"toolkit {'predict PROBE' if new else 'probe'} {out}"
    if join_only:
        codes = join(out, overwrite=overwrite)
        console.show(codes_text(codes, then=command))
        console.data({"codes": str(out), "samples": len(codes), "levels": codes.info.to_json()["levels"]})
        return
    shard = Shard.parse(part) if part else Shard.of_process()
    prepared = open_data(card, where, split=not new, fail_fast=fail_fast, workers=workers, progress=console.progress)
    codes = encode_run(
        run,
        out,
        prepared,
        format=form,
        content=content or card.encode.content,
        device=device,
        overwrite=overwrite,
        shard=shard,
        progress=console.progress,
    )
    if codes.path == out or part:  # of processes started together the one that joins them speaks
        console.show(shard_text(codes, shard, out) if shard and codes.path != out else codes_text(codes, then=command))
        console.data({"codes": str(codes.path), "samples": len(codes), "levels": codes.info.to_json()["levels"]})
    finish(len(prepared.skipped_files))


@click.command()
@click.argument("codes", type=click.Path(path_type=Path))
@options.path_option("--out", metavar="DIR", help="Folder of the results. [default: CODES-probe/]")
@options.path_option("--data", metavar="DIR", help="The encoded images, for the baselines that need them.")
@options.path_option("--against", metavar="CODES", help="Compare with these codes of the same images, draw by draw.")
@options.set_option
@options.seed_option
@options.workers_option
@options.device_option
@options.common
def probe(
    console: Console,
    codes: Path,
    out: Path | None,
    data: Path | None,
    against: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    workers: int | None,
    device: str,
) -> None:
    """Stage 2: a small classifier on the codes, and how good it is.

    Needs neither the images nor torch; with --data the image baselines are computed too.

    \b
    Example:  toolkit probe runs/cats/codes
              toolkit probe runs/cats/codes --data train/ --set probe.labels=1000 --set probe.features=vectors
              toolkit probe runs/cats/codes --against runs/plain/codes
    """
    from .pipeline import probe_run
    from .runs import Data
    from .summaries import probe_text

    out = out or codes.with_name(f"{codes.name}-probe")
    results = probe_run(
        codes,
        out,
        overrides=overrides,
        seed=seed,
        data=Data(data),
        against=against,
        device=device,
        workers=workers,
        progress=console.progress,
    )
    console.show(probe_text(results))
    console.show(f"results: {out / 'results.json'}\nnext:    toolkit predict {out} NEW-CODES")
    console.data(results)


@click.command()
@click.argument("probe", type=click.Path(path_type=Path))
@click.argument("codes", type=click.Path(path_type=Path))
@options.path_option("--out", metavar="FILE", help="CSV to write. [default: stdout]")
@click.option("--subjects", is_flag=True, help="One decision for each subject, and none for its single slices.")
@options.common
def predict(console: Console, probe: Path, codes: Path, out: Path | None, subjects: bool) -> None:
    """Label new codes with the classifier of a probe.

    Where subjects have several slices, --out FILE.csv leaves a decision for each in FILE_subjects.csv beside it.

    \b
    Example:  toolkit encode runs/cats --data holiday/ --out holiday-codes/
              toolkit predict runs/cats/probe holiday-codes/ --out labels.csv
              toolkit predict runs/ixi/probe new-heads/ --subjects
    """
    from stage2_probe.predict import predictions, write_predictions
    from toolkit_datasets.codes import open_codes

    found = predictions(probe, open_codes(codes))
    table = found.of_subjects() if subjects else found.samples
    if out:
        for path, written in write_predictions(found, out, subjects=subjects).items():
            console.show(f"{len(written):,} predictions in {path}")
    elif not console.as_json:
        click.echo(table.to_csv(index=False), nl=False)
    console.data(table.to_dict("records"))
