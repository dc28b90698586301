"""A picture to check the slicing by: one volume in three planes with the chosen slices drawn in, and the slices at both
ends of the range, of that volume and of others.

Planes are shown as slices are stored: right, front and top (R, A, S) at the right and at the top, all three at the
same scale in mm. See toolkit_datasets/slicing.py.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.patheffects as effects
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle

from toolkit_datasets.card_data import Slices
from toolkit_datasets.intensity import window_of
from toolkit_datasets.nifti import Header, read_volume
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.slicing import AXES, IN_PLANE, SIDES, extent, frame_of, plane

from .drawing import PALETTE, shorten, styled, write_png

COLUMNS = 8  # small pictures in a row
PLANES = ("axial", "coronal", "sagittal")
HEAD, PANEL, GAP = 0.5, 2.8, 0.15  # inches: the title, height of the three planes, at least so much between them
TILE = 1.12  # inches, height of a row of small pictures with its captions
LINES = 40  # chosen slices drawn one by one; more are drawn as a band only
CHOSEN, VIEW = PALETTE[1], PALETTE[4]


def write_volume_sheet(prepared: Prepared, path: Path) -> None:
    """Draw the first volume that decoded, and write the PNG."""
    samples = prepared.samples[prepared.samples["status"] == "ok"]
    shown = samples[samples["path"] == samples["path"].iat[0]]
    strips = _ends(samples, shown)
    with styled("volume-sheet"):
        figure = Figure(figsize=(COLUMNS * 1.15, HEAD + PANEL + 0.45 + TILE * len(strips)))
        figure.set_layout_engine("none")  # everything is placed by hand, to one scale
        _three_planes(figure, prepared, shown)
        top = (0.05 + TILE * len(strips)) / figure.get_figheight()
        grid = GridSpec(
            len(strips), COLUMNS, figure, left=0.01, right=0.99, top=top, bottom=0.005, hspace=0.42, wspace=0.04
        )
        for row, (title, rows, captions) in enumerate(strips):
            for column, (place, caption) in enumerate(zip(rows, captions, strict=True)):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(prepared.images[place].squeeze(), cmap="gray", vmin=0, vmax=255)
                axes.set_title(caption, fontsize=7, pad=2, loc="center")
                axes.set_axis_off()
                if column == 0:
                    axes.annotate(
                        title, (0, 1), xytext=(0, 12), xycoords="axes fraction", textcoords="offset points", fontsize=8
                    )
        write_png(figure, path)


def _ends(samples: pd.DataFrame, shown: pd.DataFrame) -> list[tuple[str, list[int], list[str]]]:
    """Rows of small pictures: title, rows of the sample table, captions."""
    low, high = shown.index[:COLUMNS].tolist(), shown.index[-COLUMNS:].tolist()
    strips = [("its first slices", low), ("its last slices", high)]
    if len(shown) <= COLUMNS:
        strips = [("its slices", low)]
    files = samples["path"].drop_duplicates()
    if len(files) > 1:
        chosen = files.iloc[np.linspace(0, len(files) - 1, min(COLUMNS, len(files))).astype(int)]
        by_path = samples[samples["path"].isin(chosen)].groupby("path", sort=False)
        firsts, lasts = (by_path.head(1).index.tolist(), by_path.tail(1).index.tolist())
        strips += [("the first slice of several volumes", firsts), ("the last slice of several volumes", lasts)]
    found = []
    for title, rows in strips:
        of_one = title.startswith("its")
        part = samples.loc[rows]
        captions = [
            f"{position} mm" if of_one else shorten(f"{group} {position}", 20)
            for group, position in zip(part["group"], part["position"], strict=True)
        ]
        found.append((title, rows, captions))
    return found


def _three_planes(figure: Figure, prepared: Prepared, shown: pd.DataFrame) -> None:
    wanted = prepared.card.slices
    file = Path(prepared.origin) / shown["path"].iat[0]
    volume = read_volume(file)
    header = volume.header
    window = window_of(volume.data, wanted.clip)
    foreground = volume.data > window.threshold
    lengths = [n * s for n, s in zip(header.shape, header.spacing, strict=True)]
    width, height = figure.get_size_inches()
    across = [lengths[IN_PLANE[axis][1]] for axis in PLANES]
    tall = [lengths[IN_PLANE[axis][0]] for axis in PLANES]
    scale = min(PANEL / max(tall), (width - 0.2 - 2 * GAP) / sum(across))  # inches for each mm, in all three planes
    gap = (width - 0.2 - scale * sum(across)) / 2
    positions = shown["position"].astype(float).to_numpy()
    left = 0.1
    for axis, wide, high in zip(PLANES, across, tall, strict=True):
        first, last = extent(foreground, AXES[axis], wanted.least)
        middle = (first + max(last, first + 1) - 1) // 2
        top = height - HEAD - scale * high
        axes = figure.add_axes((left / width, top / height, scale * wide / width, scale * high / height))
        left += scale * wide + gap
        up, right = IN_PLANE[axis]
        axes.imshow(
            window.grey(np.ascontiguousarray(plane(volume.data, axis, middle))),
            cmap="gray", vmin=0, vmax=255, extent=(0, lengths[right], 0, lengths[up]),
        )  # fmt: skip
        axes.set_facecolor("black")
        axes.set_title(f"{axis}, {(middle + 0.5) * header.spacing[AXES[axis]]:.0f} mm", fontsize=9, pad=3)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        _mark(axes, SIDES[axis])
        if axis == wanted.axis:
            _field_of_view(axes, wanted, header, foreground, prepared.card.image.size)
        else:
            _range(axes, positions, vertical=AXES[wanted.axis] == right, step=header.spacing[AXES[wanted.axis]])
        axes.set_xlim(0, lengths[right])
        axes.set_ylim(0, lengths[up])
    shape = "x".join(map(str, header.stored))
    spacing = "x".join(f"{side:.3g}" for side in np.linalg.norm(np.array(header.affine)[:3, :3], axis=0))
    figure.text(
        0.01, 1 - 0.08 / height, shorten(shown["path"].iat[0], 60), fontsize=10, va="top", weight="bold"
    )  # fmt: skip
    figure.text(
        0.99, 1 - 0.08 / height, f"{shape} voxels of {spacing} mm, stored as {header.orientation}",
        fontsize=8, va="top", ha="right",
    )  # fmt: skip


def _mark(axes: Axes, sides: tuple[str, str, str, str]) -> None:
    """Letters of the sides, readable on black and on white."""
    left, right, bottom, top = sides
    places = ((left, 0.03, 0.5), (right, 0.97, 0.5), (bottom, 0.5, 0.04), (top, 0.5, 0.96))
    for letter, x, y in places:
        text = axes.text(
            x, y, letter, transform=axes.transAxes, color="white", fontsize=9, weight="bold", ha="center", va="center"
        )
        text.set_path_effects([effects.withStroke(linewidth=2, foreground="black")])


def _range(axes: Axes, positions: np.ndarray, *, vertical: bool, step: float) -> None:
    """The chosen slices, seen from the side."""
    span, line = (axes.axvspan, axes.axvline) if vertical else (axes.axhspan, axes.axhline)
    low, high = positions.min() - step / 2, positions.max() + step / 2
    span(low, high, color=CHOSEN, alpha=0.12, linewidth=0)
    for edge in (low, high):
        line(edge, color=CHOSEN, linewidth=1.2)
    for position in positions if len(positions) <= LINES else ():
        line(position, color=CHOSEN, linewidth=0.3, alpha=0.5)


def _field_of_view(axes: Axes, wanted: Slices, header: Header, foreground: np.ndarray, size: int) -> None:
    """The square that becomes the picture."""
    up, right = IN_PLANE[wanted.axis]
    frame = frame_of(wanted, header, foreground, size)
    across, high = header.spacing[right], header.spacing[up]
    bottom = header.shape[up] * high - frame.bottom * high
    square = Rectangle(
        (frame.left * across, bottom), (frame.right - frame.left) * across, (frame.bottom - frame.top) * high,
        fill=False, edgecolor=VIEW, linewidth=1.4, linestyle="--",
    )  # fmt: skip
    axes.add_patch(square)
