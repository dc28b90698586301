"""Plots: what they show, that labels survive, and that equal numbers give equal bytes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from toolkit import drawing, plots

NAMES = ["cat", "<b>&\"'", "$\\frac{1$", "x" * 300]


def point(mean: float) -> dict[str, Any]:
    return {"mean": mean, "sd": 0.01, "ci95": [mean - 0.02, mean + 0.02]}


def curve() -> dict[str, Any]:
    return {
        "labels": [10, 100, 1000],
        "draws": [20, 20, 5],
        "accuracy": {"codes": [point(0.5), point(0.6), None], "pixels": [point(0.5), point(0.55), point(0.6)]},
    }


def history(epochs: int = 5) -> pd.DataFrame:
    steps = np.arange(1, epochs + 1)
    return pd.DataFrame({"epoch": steps, "loss": 1 / steps, "psnr": 10.0 + steps, "validation_psnr": 9.0 + steps})


def cloud(n: int = 60, classes: int = 4) -> tuple[np.ndarray, list[str]]:
    return np.random.default_rng(0).normal(size=(n, 2)), [NAMES[i % classes] for i in range(n)]


DRAWN: dict[str, Callable[[], str]] = {
    "loss": lambda: plots.loss_svg(history()),
    "bars": lambda: plots.score_bars([("codes", "these codes", point(0.6)), ("own", NAMES[1], point(0.5))]),
    "curve": lambda: plots.label_curve(curve(), {"codes": NAMES[1]}, ("chance", 0.5)),
    "confusion": lambda: plots.confusion(np.arange(16).reshape(4, 4), NAMES),
    "usage": lambda: plots.usage([5, 3, 0, 1]),
    "map": lambda: plots.code_map(*cloud(), (0.5, 0.2)),
}


def parsed(svg: str) -> ET.Element:
    """The SVG as XML, with the namespaces that the page's HTML parser supplies by itself."""
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in parsed(svg).iter("text")]


@pytest.mark.parametrize("name", DRAWN)
def test_svg_is_well_formed_small_and_the_same_each_time(name: str) -> None:
    svg = DRAWN[name]()
    assert parsed(svg).tag == "svg"
    assert svg == DRAWN[name]()
    assert "http" not in svg
    assert "<style" not in svg
    assert not re.search(r"\b(width|height)=", svg[: svg.index(">")])  # the page decides
    assert len(svg) < 200_000


@pytest.mark.parametrize("name", DRAWN)
def test_colours_follow_the_page(name: str) -> None:
    bare = set(re.findall(r"(?<!, )#[0-9a-f]{6}", DRAWN[name]()))
    assert not bare  # all are var(--name, #fallback)


@pytest.mark.parametrize("name", DRAWN)
def test_figures_do_not_share_ids(name: str) -> None:
    ids = re.findall(r' id="([^"]+)"', DRAWN[name]())
    assert len(ids) == len(set(ids))
    assert len({i.split("-")[0] for i in ids}) <= 1


def test_style_leaves_no_trace() -> None:
    before = dict(mpl.rcParams)
    DRAWN["curve"]()
    assert dict(mpl.rcParams) == before


def test_labels_come_out_as_they_went_in() -> None:
    for svg in (DRAWN["confusion"](), DRAWN["map"]()):
        shown = texts(svg)
        assert NAMES[1] in shown
        assert NAMES[2] in shown
        assert not any(len(text) > 100 for text in shown)


def test_a_label_that_looks_like_markup_or_a_colour_is_not_rewritten() -> None:
    label = '#0072b2;" id="x'
    assert label in texts(plots.code_map(np.eye(3)[:, :2], [label] * 3, (0.5, 0.5)))


def test_scripts_without_a_glyph_do_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    assert "猫" in texts(plots.confusion(np.eye(2), ["猫", "犬"]))
    assert not recwarn.list


def test_accuracy_is_where_it_belongs() -> None:
    svg = plots.score_bars([("codes", "codes", point(0.531)), ("pixels", "pixels", point(0.543))])
    assert {"53.1", "54.3", "codes", "pixels"} <= set(texts(svg))


def test_accuracy_without_interval_is_a_dot() -> None:
    assert "60.0" in texts(plots.score_bars([("codes", "codes", {"mean": 0.6, "ci95": None})]))


def test_curve_leaves_out_sizes_that_were_not_run() -> None:
    data = curve()
    data["accuracy"]["hog"] = [None, None, None]
    shown = texts(plots.label_curve(data))
    assert {"codes", "pixels", "10", "100", "1,000"} <= set(shown)
    assert "hog" not in shown


def test_many_classes_stay_readable() -> None:
    names = [f"breed number {i}" for i in range(60)]
    small = plots.confusion(np.eye(60), names)
    assert not set(texts(small)) & set(names)  # too many to name
    shown = texts(plots.code_map(np.random.default_rng(0).normal(size=(120, 2)), names * 2, (0.5, 0.2)))
    assert "other classes" in shown
    assert sum(text.startswith("breed") for text in shown) == 12


def test_usage_of_a_large_codebook_stays_small() -> None:
    assert len(plots.usage(np.random.default_rng(0).integers(0, 100, 65536))) < 150_000


def test_usage_of_residual_levels_and_of_no_codes() -> None:
    assert {"residual code 1", "residual code 2"} <= set(texts(plots.usage(np.ones((2, 8)))))
    assert "even share (12 %)" in texts(plots.usage(np.zeros(8)))


def test_usage_of_many_codebooks_is_their_median_and_range() -> None:
    found = texts(plots.usage(np.random.default_rng(0).integers(1, 9, (64, 256))))
    assert {"median of 64 codebooks", "range"} <= set(found)
    assert not any(word.startswith("residual") for word in found)


@pytest.mark.parametrize("columns", [["epoch", "loss"], ["epoch", "psnr"], ["epoch"]])
def test_loss_draws_what_there_is(columns: list[str]) -> None:
    assert parsed(plots.loss_svg(history()[columns])).tag == "svg"
    assert parsed(plots.loss_svg(history(1))).tag == "svg"


def test_loss_axis_shows_plain_numbers() -> None:
    assert not any("mathdefault" in text or "$" in text for text in texts(DRAWN["loss"]()))


def test_loss_and_reconstructions_are_written_as_png(tmp_path: Path) -> None:
    history().to_csv(tmp_path / "history.csv", index=False)
    plots.loss_curve(tmp_path / "history.csv", tmp_path / "loss.png")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "e.npz", originals=images, reconstructions=images, psnr=np.ones(3), ssim=np.ones(3))
    plots.reconstruction_grid(tmp_path / "e.npz", tmp_path / "grid.png")
    for name in ("loss.png", "grid.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture.convert("L")).std() > 5
    first = (tmp_path / "loss.png").read_bytes()
    plots.loss_curve(tmp_path / "history.csv", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes() == first
    assert not list(tmp_path.glob(".*"))


def test_contact_sheet_shows_the_true_colours(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = np.stack([np.full((8, 8, 3), colour, dtype=np.uint8) for colour in colours])
    plots.contact_sheet(images, ["a", NAMES[2], NAMES[3]], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        found = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()}
    assert set(colours) <= found


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [("cat", 5, "cat"), ("abcdef", 5, "ab…ef"), ("abcdefg", 6, "abc…fg"), (" a\n b ", 9, "a b")],
)
def test_shorten(text: str, length: int, expected: str) -> None:
    assert drawing.shorten(text, length) == expected
