"""The picture of `toolkit sample`: each new image beside its nearest training images, with their distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toolkit_datasets.prepare import Prepared

from .drawing import INK, PALETTE, shorten, styled, write_png
from .pick import Picked, image_name
from .sample_record import MEASURES, TAIL

if TYPE_CHECKING:
    from stage1_vqvae.sample import Comparison

SHOWN = 24  # draws in the picture: eight lines of three, with their neighbours
BLOCKS = 3  # in a line, of an image and two neighbours each
ALONE = 8  # draws in a line where nothing stands beside them
EXAMPLES = 3  # unseen images below, as a yardstick for the eye
TILE, GAP, BETWEEN = 1.2, 0.12, 0.45  # inches: side of an image, room beside it, room between two blocks
CAPTION, HEADING, NOTE, MARGIN = 0.36, 0.24, 0.2, 0.15  # inches
ALARM = PALETTE[1]
LEGEND = (
    "Root mean square of the differences; in brackets how many of the unseen images, rebuilt, are farther from all "
    f"training images. In colour above {100 * (1 - TAIL):.0f} %."
)


@dataclass(frozen=True)
class Panel:
    """An image with up to two lines below."""

    pixels: np.ndarray  # (H, W, C) uint8
    first: str = ""
    second: str = ""
    alarming: bool = False


@dataclass(frozen=True)
class Section:
    """A title and a note over lines of blocks of panels; None leaves a panel's place free."""

    title: str
    note: str
    lines: Sequence[Sequence[Sequence[Panel | None]]]


def draws_sheet(
    pictures: np.ndarray, table: pd.DataFrame, compared: Comparison | None, prepared: Prepared | None, out: Path
) -> None:
    """Draw samples with their neighbours at their right, and unseen images with theirs below."""
    names = [Path(file).stem for file in table["file"]][:SHOWN]
    of = f" (the first {SHOWN} of {len(table)})" if len(table) > SHOWN else ""
    if compared is None or prepared is None:
        blocks = [[Panel(pixels, name)] for pixels, name in zip(pictures, names, strict=False)]
        write_sheet([Section(f"Drawn{of}", "", _lines(blocks, ALONE))], out, gap=GAP)
        return
    blocks = [
        [Panel(pictures[i], name), *_neighbours(table.iloc[i], i, compared, prepared)] for i, name in enumerate(names)
    ]
    yardstick = compared.yardstick
    examples = np.unique(np.linspace(0, len(yardstick.rows) - 1, EXAMPLES + 2)[1:-1].astype(int))  # not the ends
    unseen = [
        [_named(prepared, yardstick.rows[i])]
        + [
            _named(prepared, of.rows[i], f"{measure} {of.distances[i]:.3f}")
            for measure, of in yardstick.originals.items()
        ]
        for i in examples
    ]
    sections = [
        Section(
            f"Drawn{of}, and the training images nearest to each by pixels and by latents",
            LEGEND,
            _lines(blocks, BLOCKS),
        ),
        Section(
            f"For comparison: {yardstick.split} images, real ones that the model never learned from, and theirs",
            "",
            _lines(unseen, BLOCKS),
        ),
    ]
    write_sheet(sections, out)


def walk_sheet(
    ends: Sequence[Picked],
    pictures: np.ndarray,
    table: pd.DataFrame,
    compared: Comparison | None,
    prepared: Prepared | None,
    out: Path,
) -> None:
    """Draw the way from one image to the other, with its neighbours below."""
    first, last = (Panel(end.pixels, shorten(end.name, 24), end.split or "a file") for end in ends)
    steps = [Panel(pixels, f"{share:.2f}") for pixels, share in zip(pictures, table["share"], strict=True)]
    sections = [Section(f"From {ends[0].name} to {ends[1].name}", "", [[[first], steps, [last]]])]
    if compared is not None and prepared is not None:
        found = [_neighbours(table.iloc[i], i, compared, prepared) for i in range(len(table))]
        lines = [[[None], list(column), [None]] for column in zip(*found, strict=True)]
        sections.append(Section("The training images nearest to each by pixels and by latents", LEGEND, lines))
    write_sheet(sections, out, gap=BETWEEN / 2)


def write_sheet(sections: Sequence[Section], out: Path, *, gap: float = BETWEEN) -> None:
    """Draw the sections below each other, as a PNG; `gap` inches between blocks."""
    lines = [line for section in sections for line in section.lines]
    width = 2 * MARGIN + max(sum(map(len, line)) * (TILE + GAP) + (len(line) - 1) * gap for line in lines) - GAP
    notes = sum(bool(section.note) for section in sections)
    height = 2 * MARGIN + len(lines) * (TILE + CAPTION) + len(sections) * HEADING + notes * NOTE
    with styled("samples"):
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")  # placed by hand, in inches
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        y = MARGIN
        for section in sections:
            axes.text(MARGIN, y, section.title, va="top", fontsize=9)
            y += HEADING
            if section.note:
                axes.text(MARGIN, y, section.note, va="top", fontsize=7)
                y += NOTE
            for line in section.lines:
                x = MARGIN
                for block in line:
                    for panel in block:
                        if panel is not None:
                            grey = panel.pixels.shape[-1] == 1
                            shown = np.repeat(panel.pixels, 3, axis=-1) if grey else panel.pixels
                            axes.imshow(shown, extent=(x, x + TILE, y + TILE, y), interpolation="nearest")
                            colour = ALARM if panel.alarming else INK
                            caption = f"{panel.first}\n{panel.second}"
                            axes.text(x, y + TILE + 0.03, caption, va="top", fontsize=6.5, color=colour)
                        x += TILE + GAP
                    x += gap
                y += TILE + CAPTION
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        write_png(figure, out)


def _named(prepared: Prepared, row: int, second: str = "", *, alarming: bool = False) -> Panel:
    return Panel(prepared.images[row], shorten(image_name(prepared, row), 24), second, alarming=alarming)


def _neighbours(found: pd.Series[Any], place: int, compared: Comparison, prepared: Prepared) -> list[Panel]:
    """The training images nearest to one sample, a panel for each measure."""
    panels = []
    for measure in MEASURES:
        share = found[f"{measure}_nearer_than"]
        second = f"{measure} {found[f'{measure}_distance']:.3f} ({100 * share:.0f} %)"
        panels.append(_named(prepared, compared.nearest[measure].rows[place], second, alarming=share > 1 - TAIL))
    return panels


def _lines(blocks: Sequence[Sequence[Panel]], width: int) -> list[Sequence[Sequence[Panel]]]:
    """Blocks in lines of `width`."""
    return [blocks[start : start + width] for start in range(0, len(blocks), width)]
