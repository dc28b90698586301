"""Pictures of what is unusual: an image, its reconstruction, and the anomaly map laid over the image.

All pictures of one call share the colours and their scale, so that spots of one colour are equally unusual.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure

from .drawing import PALETTE, shorten, styled, write_png

FEWEST_STEPS = 4.0  # of the scale above its start, in the map's unit: noise never fills the whole range of colours
FADE = 0.25  # of the scale over which the colour comes in, so that a map has no false edge
SOLID = 0.85  # opacity above: the anatomy stays visible
COLUMNS = 4  # of the overview
OUTLINE = PALETTE[4]


@dataclass(frozen=True)
class Shown:
    """One image to draw."""

    image: np.ndarray  # (H, W, C) uint8
    rebuilt: np.ndarray  # (H, W, C) uint8
    map: np.ndarray  # (H, W) float32, of what is unusual
    inside: np.ndarray  # (H, W) bool, the pixels that count
    title: str
    short: str  # the same for a small picture
    mask: np.ndarray | None = None  # (H, W) bool, what should be found


@dataclass(frozen=True)
class Scale:
    """What the colours stand for, in all pictures of one call."""

    low: float  # up to here nothing is drawn
    high: float  # the last colour, and all above
    title: str  # of the colour bar, with the unit


def scale_of(maps: Iterable[np.ndarray], *, low: float, title: str) -> Scale:
    """A scale from `low` to what one pixel in 1,000 of the maps exceeds."""
    tops = [float(np.quantile(each, 0.999)) for each in maps]
    return Scale(low, max([low + FEWEST_STEPS, *tops]), title)


def write_overlay(shown: Shown, scale: Scale, path: Path) -> None:
    """Draw one image: original, reconstruction, and the map over the original; a mask is outlined."""
    height, width = shown.image.shape[:2]
    with styled("overlay"):
        figure = Figure(figsize=(7.4, 0.55 + 2.25 * height / width))
        panels = figure.subplots(1, 3)
        pictures = (("original", shown.image), ("reconstruction", shown.rebuilt))
        for axes, (title, picture) in zip(panels[:2], pictures, strict=True):
            axes.imshow(_rgb(picture), interpolation="nearest")
            axes.set_title(title, fontsize=8)
        _overlaid(panels[2], shown, scale)
        panels[2].set_title("unusual" + (", lesion outlined" if _has(shown) else ""), fontsize=8)
        for axes in panels:
            axes.set_axis_off()
        _bar(figure, panels[2], scale, size=7)
        figure.suptitle(shorten(shown.title, 100), x=0.01, ha="left", fontsize=9)
        write_png(figure, path)


def write_overview(shown: Sequence[Shown], scale: Scale, path: Path, *, title: str) -> None:
    """Draw the maps over their images, four in a row, with one bar of colours for all."""
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    height, width = shown[0].image.shape[:2]
    with styled("overview"):
        figure = Figure(figsize=(1.9 * columns + 0.9, 0.3 + rows * (1.9 * height / width + 0.2)))
        panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, each in zip(panels, shown, strict=False):
            _overlaid(axes, each, scale)
            axes.set_title(shorten(each.short, 38), fontsize=6.5, pad=2)
        _bar(figure, panels.tolist(), scale, size=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        write_png(figure, path)


def _overlaid(axes: Axes, shown: Shown, scale: Scale) -> None:
    axes.imshow(_rgb(shown.image).mean(axis=-1), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    masked = np.ma.masked_where(~shown.inside, shown.map)
    axes.imshow(masked, cmap=_colours(), norm=Normalize(scale.low, scale.high), interpolation="nearest")
    if shown.mask is not None and _has(shown):
        axes.contour(shown.mask, levels=[0.5], colors=[OUTLINE], linewidths=0.9)
        axes.set_ylim(shown.image.shape[0] - 0.5, -0.5)


def _bar(figure: Figure, beside: Axes | list[Axes], scale: Scale, *, size: float) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(scale.low, scale.high), _colours()), ax=beside, fraction=0.05)
    bar.ax.set_facecolor("black")  # what is transparent in a picture lies on dark tissue
    bar.ax.tick_params(labelsize=size)
    bar.ax.grid(visible=False)
    bar.set_label(scale.title, fontsize=size)


def _colours() -> Colormap:
    """From clear to solid, dark red to white: brighter is more unusual, to colour-blind readers and in grey too."""
    colours = mpl.colormaps["inferno"](np.linspace(0.35, 1.0, 256))
    colours[:, 3] = SOLID * np.clip(np.linspace(0, 1 / FADE, 256), 0, 1)
    return ListedColormap(colours).with_extremes(under=(0, 0, 0, 0), bad=(0, 0, 0, 0))


def _has(shown: Shown) -> bool:
    return shown.mask is not None and bool(shown.mask.any())


def _rgb(image: np.ndarray) -> np.ndarray:
    return image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
