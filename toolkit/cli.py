"""The command line. Each command parses, makes one library call and prints; nothing heavy is imported before that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options
from .cli_data import datasets, info, prepare
from .cli_models import anomaly, decode, reconstruct, sample
from .cli_stages import encode, predict, probe, train
from .options import Console, Input, finish

if TYPE_CHECKING:
    from toolkit_datasets.card import Card


@click.group(cls=options.Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="vqvae-toolkit", message="%(package)s %(version)s")
def main(debug: bool) -> None:
    """Frozen codes from many unlabelled images, and an honest small classifier on top of them.

    \b
    Try:            toolkit run
    Your images:    toolkit run folder --data my-images/ --out runs/mine
    Step by step:   toolkit train, toolkit encode, toolkit probe
    """


@main.command()
@click.argument("card", default="digits")
@options.takes_images
@options.objective_option
@options.device_option
@options.path_option("--out", metavar="RUN", help="The run folder to write. [default: runs/CARD]")
@options.resume_option
@options.overwrite_option
@options.dry_run_option
@options.common
def run(
    console: Console,
    card: Card,
    images: Input,
    device: str,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Both stages in one go: train, encode, probe, report.

    Without a card it takes digits, which need no data.

    \b
    Example:  toolkit run
              toolkit run cats-vs-dogs --data train/ --out runs/cats
              toolkit run folder --data mine/ --labels labels.csv --out runs/mine
    """
    from .describe import plan_text
    from .pipeline import run_all
    from .summaries import results_text

    out = out or Path("runs") / card.name
    if dry_run:
        prepared = images.open(card, console)
        console.show(plan_text(prepared, out, steps=("train", "encode", "probe", "report")))
        return
    results, prepared = run_all(
        card,
        images.where,
        out,
        command=options.typed_command(),
        device=device,
        resume=resume,
        overwrite=overwrite,
        fail_fast=images.fail_fast,
        workers=images.workers,
        progress=console.progress,
    )
    console.show(results_text(results))
    console.show(f"open the report: {(out / 'report.html').resolve()}")
    console.data(results)
    finish(len(prepared.skipped_files))


for _command in (datasets, prepare, train, encode, probe, predict, reconstruct, anomaly, sample, decode, info):
    main.add_command(_command)


if __name__ == "__main__":
    main()
