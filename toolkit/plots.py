"""Every plot of a run: PNG files beside stage 1's output, and SVG text for the report; drawing.py holds the style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .drawing import (
    INK,
    MARKERS,
    PALETTE,
    WIDTH,
    legend_above,
    look_of,
    new_figure,
    shorten,
    styled,
    svg_text,
    write_png,
)
from .wording import TITLES, amount, baseline_title, is_continuous, of_subjects


@dataclass(frozen=True)
class Measure:
    """A score that is drawn."""

    name: str  # its key in results
    title: str  # of the axis
    tick: Callable[[float], str]  # a number on the axis
    text: Callable[[float], str]  # a number beside a dot
    caption: Callable[[float], str]  # a number in a legend
    labelled: str = "labelled images"  # what a label curve counts


ACCURACY = Measure(
    "accuracy",
    "accuracy on unseen images, %",
    tick=lambda share: f"{100 * share:.3g}",
    text=lambda share: f"{100 * share:.1f}",
    caption=lambda share: f"{100 * share:.1f} %",
)


def of_people(measure: Measure, found: Mapping[str, Any]) -> Measure:
    """The measure in the words that suit the `probe` part of results: of images, or of subjects."""
    if found.get("grouped"):
        measure = replace(measure, labelled="labelled subjects")
    return replace(measure, title=measure.title.replace("images", "subjects")) if of_subjects(found) else measure


def error_measure(like: float) -> Measure:
    """The mean absolute error, in numbers with the decimals of `like`."""

    def text(error: float) -> str:
        return amount(error, like=like)

    return Measure("mae", "mean absolute error on unseen images", tick="{:g}".format, text=text, caption=text)


def loss_curve(history_csv: Path, out: Path) -> None:
    """Draw the history of a phase of stage 1 (one row per epoch) as a PNG."""
    with styled("loss"):
        write_png(_loss(pd.read_csv(history_csv)), out)


def loss_svg(history: pd.DataFrame) -> str:
    """The same curve for the report."""
    with styled("loss"):
        return svg_text(_loss(history), "loss")


def reconstruction_grid(examples_npz: Path, out: Path) -> None:
    """Draw originals above their reconstructions, PSNR and SSIM under each pair, as a PNG."""
    with np.load(examples_npz, allow_pickle=False) as examples:
        originals, reconstructions = examples["originals"], examples["reconstructions"]
        psnr, ssim = examples["psnr"], examples["ssim"]
    pairs = [np.concatenate(pair) for pair in zip(originals, reconstructions, strict=True)]  # (2H, W, C) each
    captions = [f"{p:.1f} dB, SSIM {s:.2f}" for p, s in zip(psnr, ssim, strict=True)]
    with styled("reconstructions"):
        write_png(_mosaic(pairs, captions, columns=min(8, len(pairs)), title="Original above reconstruction"), out)


def contact_sheet(images: np.ndarray, captions: Sequence[str], out: Path) -> None:
    """Draw images (n, H, W, C) uint8, eight in a row, each with its caption, as a PNG."""
    with styled("contact"):
        write_png(_mosaic(list(images), captions, columns=8), out)


def score_bars(
    rows: Sequence[tuple[str, str, Mapping[str, Any]]],
    chance: tuple[str, float] | None = None,
    measure: Measure = ACCURACY,
) -> str:
    """Draw scores as dots with their 95 % intervals; SVG.

    Args:
        rows: series name ("codes", "pixels", ...), title, and {"mean", "ci95"} of the measure.
        chance: caption and height of the line that stands for no knowledge at all.
        measure: what the numbers are.
    """
    with styled(measure.name):
        figure, axes = new_figure(0.9 + 0.36 * len(rows))
        for y, (name, _, score) in enumerate(rows):
            low, high = score.get("ci95") or (score["mean"],) * 2
            colour, marker = look_of(name, y)
            axes.plot([low, high], [y, y], color=colour, linewidth=3, alpha=0.45, solid_capstyle="butt")
            axes.plot([score["mean"]], [y], color=colour, marker=marker, markersize=7)
            axes.annotate(
                measure.text(score["mean"]), (high, y), xytext=(7, 0), textcoords="offset points", va="center"
            )
        _chance_line(axes, chance, measure, vertical=True)
        axes.set_yticks(range(len(rows)), [shorten(title, 26) for _, title, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: measure.tick(value)))
        axes.set_xlabel(f"{measure.title}, with 95 % interval")
        return svg_text(figure, measure.name)


def label_curve(
    curve: Mapping[str, Any],
    titles: Mapping[str, str] | None = None,
    chance: tuple[str, float] | None = None,
    measure: Measure = ACCURACY,
) -> str:
    """Draw a score against the number of labels, with 95 % bands; SVG.

    Args:
        curve: {"labels": [..], measure: {series: [{"mean", "ci95"} per size]}}; a size that was not run is None.
        titles: series name -> what the legend says.
        chance: caption and height of the line that stands for no knowledge at all.
        measure: what the numbers are.
    """
    with styled("curve"):
        return svg_text(_label_curve(curve, titles or {}, chance, measure), "curve")


def results_curve(results: Mapping[str, Any], out: Path) -> None:
    """Draw the label curve of a probe's results as a PNG; nothing where it has a single size."""
    curve, baselines = dict(results["curve"]), results["baselines"]
    if len(curve["labels"]) < 2:
        return
    titles = {"codes": TITLES["codes"], **{name: baseline_title(name, each) for name, each in baselines.items()}}
    chance, measure = None, ACCURACY
    if is_continuous(results["probe"]):
        measure = error_measure(results["probe"]["mae"]["mean"])
    else:
        chance = (titles["majority"], float(baselines["majority"]["accuracy"]["mean"]))
        curve["accuracy"] = {name: points for name, points in curve["accuracy"].items() if name != "majority"}
    with styled("curve"):
        write_png(_label_curve(curve, titles, chance, of_people(measure, results["probe"])), out)


def _label_curve(
    curve: Mapping[str, Any], titles: Mapping[str, str], chance: tuple[str, float] | None, measure: Measure
) -> Figure:
    figure, axes = new_figure(3.5)
    for order, (name, points) in enumerate(curve[measure.name].items()):
        known = [(n, p) for n, p in zip(curve["labels"], points, strict=False) if p and p.get("mean") is not None]
        if not known:
            continue
        colour, marker = look_of(name, order)
        labels = [n for n, _ in known]
        band = [p.get("ci95") or (p["mean"],) * 2 for _, p in known]
        axes.fill_between(labels, [b[0] for b in band], [b[1] for b in band], color=colour, alpha=0.16, linewidth=0)
        title = shorten(titles.get(name, name))
        axes.plot(labels, [p["mean"] for _, p in known], color=colour, marker=marker, label=title)
    _chance_line(axes, chance, measure, vertical=False)
    axes.set_xscale("log")
    axes.set_xticks(curve["labels"], [f"{n:,}" for n in curve["labels"]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: measure.tick(value)))
    axes.set_xlabel(f"{measure.labelled} (log scale)")
    axes.set_ylabel(measure.title)
    legend_above(figure, axes)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Draw the confusion matrix (truth in rows, prediction in columns; counts), each row shaded by its shares; SVG."""
    matrix = np.asarray(matrix, dtype=float)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-12)
    n = len(classes)
    with styled("confusion"):
        figure, axes = new_figure(min(6.0, 1.5 + max(0.55 * n, 1.1)))
        # One colour at growing strength, never so strong that the number on it is lost, in light or in dark.
        shaded = np.argwhere(shares > 0.005)
        corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
        cells = shaded[:, None, ::-1] + corners  # (cells, 4, 2), x first
        strengths = 0.6 * shares[tuple(shaded.T)]
        axes.add_collection(PolyCollection(list(cells), facecolors=[(PALETTE[0], s) for s in strengths], linewidths=0))
        for truth, predicted in np.ndindex(n, n) if n <= 12 else ():
            share = f"\n{100 * shares[truth, predicted]:.0f} %" if n <= 5 else ""
            text = f"{matrix[truth, predicted]:,.0f}{share}"
            axes.text(predicted, truth, text, ha="center", va="center", fontsize=10 if n <= 5 else 8)
        names = [shorten(name, 18) for name in classes] if n <= 40 else [""] * n
        turned = max(map(len, names)) > 60 // n
        axes.set_xticks(range(n), names, rotation=90 if turned else 0, fontsize=9 if n <= 16 else 6)
        axes.set_yticks(range(n), names, fontsize=9 if n <= 16 else 6)
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_ylim(n - 0.5, -0.5)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return svg_text(figure, "confusion")


def usage(counts: Sequence[int] | np.ndarray) -> str:
    """Draw how often each code is used, most used first, against an even share; SVG. `counts` is (K,) or (R, K).

    Up to four codebooks have a line each; of more there is the median, and the range of all.
    """
    rows = np.atleast_2d(np.asarray(counts, dtype=float))  # (R, K)
    ranks = np.unique(np.linspace(1, rows.shape[1], min(rows.shape[1], 600)).round().astype(int))  # show every shape
    shares = 100 * np.sort(rows)[:, ::-1][:, ranks - 1] / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    with styled("usage"):
        figure, axes = new_figure(2.7)
        if len(rows) > 4:
            low, high = shares.min(axis=0), shares.max(axis=0)
            axes.fill_between(ranks, low, high, step="mid", color=PALETTE[0], alpha=0.25, linewidth=0, label="range")
            lines = {f"median of {len(rows)} codebooks": np.median(shares, axis=0)}
        elif len(rows) > 1:
            lines = {f"residual code {depth + 1}": each for depth, each in enumerate(shares)}
        else:
            axes.fill_between(ranks, shares[0], step="mid", color=PALETTE[0], alpha=0.3, linewidth=0)
            lines = {"share of all codes": shares[0]}
        for order, (name, each) in enumerate(lines.items()):
            axes.step(ranks, each, where="mid", color=PALETTE[order], linewidth=1.2, label=name)
        even = 100 / rows.shape[1]
        axes.axhline(even, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label=f"even share ({even:.2g} %)")
        axes.set_xlim(0.5, rows.shape[1] + 0.5)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("code, most used first")
        axes.set_ylabel("share of all codes, %")
        axes.legend()
        return svg_text(figure, "usage")


def code_map(points: np.ndarray, labels: Sequence[str], shares: tuple[float, float]) -> str:
    """Draw points (n, 2) in the colours and marks of their labels ("" = none); SVG.

    Args:
        points: the first two principal components.
        labels: one per point; the twelve commonest are told apart, the others share one grey.
        shares: of the variance along each component, from 0 to 1.
    """
    names, counts = np.unique(np.asarray(labels, dtype=str), return_counts=True)
    commonest = sorted(names[np.argsort(-counts, kind="stable")][:12]) if len(names) > 12 else list(names)
    array = np.asarray(labels, dtype=str)
    with styled("map"):
        figure, axes = new_figure(4.6)
        rest = ~np.isin(array, commonest)
        if rest.any():
            axes.plot(*points[rest].T, ".", color=PALETTE[-1], markersize=3, alpha=0.5, label="other classes")
        for order, name in enumerate(commonest):
            chosen = points[array == name]
            marker = MARKERS[(order + order // len(PALETTE)) % len(MARKERS)]
            axes.plot(
                *chosen.T, linestyle="none", marker=marker, color=PALETTE[order % len(PALETTE)],
                markersize=3.6, markeredgewidth=0, alpha=0.65, label=shorten(name) or "no label",
            )  # fmt: skip
        axes.set_xlabel(f"first component ({100 * shares[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second component ({100 * shares[1]:.0f} %)")
        legend_above(figure, axes, marker_scale=2.0)
        return svg_text(figure, "map")


def _loss(history: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.7))
    agreeing, latent = "agreement" in history, "kl" in history
    left, right, *more = figure.subplots(1, 3 if latent else 2)
    lines = (
        ("loss", "training" if agreeing else "loss", left, 0),
        ("validation_loss", "held out", left, 1),
        ("reconstruction", "reconstruction", left, 1),
        ("psnr", "training", right, 0),
        ("validation_psnr", "held out", right, 1),
        ("agreement", "training", right, 0),
        ("validation_agreement", "held out", right, 1),
        *((("kl", "training", more[0], 0), ("validation_kl", "held out", more[0], 1)) if latent else ()),
    )
    for column, title, axes, order in lines:
        if column in history and history[column].notna().any():
            values = 100 * history[column] if "agreement" in column else history[column]
            colour, marker = PALETTE[order], MARKERS[order] if len(history) <= 40 else ""
            axes.plot(history["epoch"], values, color=colour, marker=marker, markersize=3.5, label=title)
    left.set_title("agreement: loss" if agreeing else "training loss (log scale)")
    right.set_title("views that find each other, %" if agreeing else "PSNR, dB")
    positive = any(np.any(np.asarray(line.get_ydata(), dtype=float) > 0) for line in left.lines)
    if positive and not agreeing:
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # plain: mathematics is off
        left.yaxis.set_minor_locator(NullLocator())
    for axes in more:
        axes.set_title("KL, nats per image")
    for axes in (left, right, *more):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if axes.lines:
            axes.legend()
    return figure


def _mosaic(images: Sequence[np.ndarray], captions: Sequence[str], *, columns: int, title: str = "") -> Figure:
    """Images of one size (H, W, C) in a grid with captions below; one axes for all, in pixels."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    cell_w, cell_h = width * 1.06, height + width * 0.22  # room for a caption
    figure = Figure(figsize=(1.25 * columns, 1.25 * rows * cell_h / cell_w + (0.3 if title else 0)))
    axes = figure.add_subplot()
    axes.set_axis_off()
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = (i % columns) * cell_w, (i // columns) * cell_h
        picture = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
        axes.imshow(picture, extent=(x, x + width, y + height, y), interpolation="nearest")
        axes.text(x, y + height + width * 0.03, shorten(caption, 19), va="top", fontsize=6.5)
    axes.set_xlim(0, columns * cell_w)
    axes.set_ylim(rows * cell_h, 0)
    if title:
        axes.set_title(title)
    return figure


def _chance_line(axes: Axes, chance: tuple[str, float] | None, measure: Measure, *, vertical: bool) -> None:
    if chance is None:
        return
    caption, height = chance
    draw = axes.axvline if vertical else axes.axhline
    draw(height, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label=f"{caption} ({measure.caption(height)})")
    if vertical:
        axes.legend(handles=axes.get_lines()[-1:], loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
