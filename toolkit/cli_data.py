"""The commands that look: at cards and images before a training, at what a run or a code store is afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from toolkit_datasets.errors import ToolkitError

from . import options
from .options import Console, Input, finish

if TYPE_CHECKING:
    from toolkit_datasets.card import Card


@click.command()
@click.argument("card", required=False)
@options.takes_images
@options.path_option("--sheet", metavar="FILE", help="Also write a contact sheet (PNG); of volumes three planes too.")
@options.common
def datasets(
    console: Console,
    card: Card | None,
    images: Input,
    sheet: Path | None,
) -> None:
    """List the cards, or describe what one finds in a folder.

    Nothing is trained: counts per label and split, sizes, modes, and what would be skipped and why.

    \b
    Example:  toolkit datasets
              toolkit datasets cats-vs-dogs --data train/ --sheet cats.png
    """
    from .describe import cards_text, describe, described_text

    if card is None:
        text, listing = cards_text()
        console.show(text)
        console.data(listing)
        return
    problem = None
    try:
        prepared = images.open(card, console)
    except ToolkitError as error:  # what cannot be split can still be described
        problem, prepared = error, images.open(card, console, split=False)
    found = describe(prepared)
    console.show(described_text(found, prepared))
    console.data(found)
    if sheet:
        from .describe import write_sheet

        write_sheet(prepared, sheet)
        console.show(f"contact sheet: {sheet}")
    if problem:
        raise problem


@click.command()
@click.argument("card")
@options.takes_images
@options.out_option
@click.option(
    "--format", "format_", type=click.Choice(["png", "h5"]), help="Write the images to --out for other tools."
)
@options.overwrite_option
@options.common
def prepare(
    console: Console,
    card: Card,
    images: Input,
    out: Path | None,
    format_: Literal["png", "h5"] | None,
    overwrite: bool,
) -> None:
    """Decode all images, or slices of volumes, into the cache.

    Other commands do this by themselves when it is not done yet. With --out the sample table is written too. With
    --format the images are: PNG files in OUT/SPLIT/LABEL/, or one HDF5 file, each with a manifest that says where every
    image comes from.

    \b
    Example:  toolkit prepare cats-vs-dogs --data train/ --out runs/cats
              toolkit prepare ixi --data IXI/ --out ixi-slices/ --format png
              toolkit prepare ixi --data IXI/ --out ixi-slices.h5 --format h5
    """
    from .describe import describe
    from .runs import check_out, write_run

    if format_ and out is None:
        raise click.UsageError("--format needs --out: a folder for png, a file for h5")
    if overwrite and not format_:
        raise click.UsageError("--overwrite is for --format: what is decoded is kept in the cache")
    if out and format_:
        from toolkit_datasets.export import check_place, export

        check_place(out, overwrite=overwrite)
    prepared = images.open(card, console)
    decoded = int((prepared.samples["status"] == "ok").sum())
    console.show(f"{decoded:,} images decoded; next: toolkit train {card.name} …")
    if out and format_:
        written = export(prepared, out, format=format_, overwrite=overwrite, progress=console.progress)
        where = f"such as {out / written['file'].iat[0]}" if format_ == "png" else f"all in {out}"
        console.show(f"{len(written):,} images written, {where}")
    elif out:
        check_out(out, resume=False, overwrite=False)
        write_run(out, prepared, images.where, options.typed_command())
    console.data(describe(prepared))
    finish(len(prepared.skipped_files))


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@options.common
def info(console: Console, path: Path) -> None:
    """Explain a run folder, a model or a code store.

    \b
    Example:  toolkit info runs/cats
              toolkit info runs/cats/codes
    """
    from .summaries import info_of, info_text

    found = info_of(path)
    console.show(info_text(found))
    console.data(found)
