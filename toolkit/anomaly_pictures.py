"""Draws the images that are most unusual: one file for each, and an overview."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stage1_vqvae.anomaly import Detector
from toolkit_datasets.codes.names import safe_name
from toolkit_datasets.prepare import Prepared

from .drawing import shorten
from .healthy import zones_of
from .masks import Masks
from .overlays import Shown, scale_of, write_overlay, write_overview

OVERVIEW = 16  # images in it
LONGEST = 80  # characters of a file's name
TITLES = {"error": "error, sd above healthy", "surprise": "surprise of the codes, nats"}


def write_pictures(
    highest: pd.DataFrame,
    detector: Detector,
    prepared: Prepared,
    masks: Masks | None,
    out: Path,
    *,
    by: str,
    batch_size: int,
) -> tuple[dict[str, float], list[str]]:
    """Draw the images of `highest`: rows of the table of images, the most unusual first.

    What is coloured is more unusual than the highest pixels of most healthy images are.

    Returns:
        The ends of the scale of colours, {"low", "high"}, and the files below `out`; both are empty where there is
        nothing to draw.
    """
    if highest.empty:
        return {}, []
    (out / "overlays").mkdir(exist_ok=True)
    name = "surprise" if by == "surprise" else "error"
    shown = list(_shown(highest, detector, prepared, masks, name=name, batch_size=batch_size))
    low = float(np.median(detector.healthy.scores[name]))
    scale = scale_of((each.map for each in shown), low=low, title=TITLES[name])
    files = ["overview.png"]
    for rank, (each, row) in enumerate(zip(shown, highest.itertuples(), strict=True), start=1):
        what = f"{row.id}_s{int(row.slice):03d}" if row.slice else str(row.id)
        files.append(f"overlays/{rank:03d}_{safe_name(what)[-LONGEST:]}.png")
        write_overlay(each, scale, out / files[-1])
    title = "The most unusual images" + (f", {OVERVIEW} of {len(shown)}" if len(shown) > OVERVIEW else "")
    write_overview(shown[:OVERVIEW], scale, out / "overview.png", title=title)
    return {"low": scale.low, "high": scale.high}, files


def title_of(row: pd.Series, *, long: bool = True) -> str:
    """Whose image it is, where, and how unusual."""
    place = f" at {row['position']} mm" if row["position"] else ""
    label = f" ({row['label']})" if row["label"] else ""
    score = f"{row['score']:.1f}"
    if long:
        return f"{row['subject']}{place}{label}: {score}, above {100 * row['above_healthy']:.1f} % of healthy images"
    named = f" {shorten(label, 14)}" if label else ""
    return f"{shorten(str(row['subject']).rsplit('/', 1)[-1], 16)}{place}{named} {score}"


def _shown(
    highest: pd.DataFrame, detector: Detector, prepared: Prepared, masks: Masks | None, *, name: str, batch_size: int
) -> Iterator[Shown]:
    """Everything that is drawn, in the order of `highest`."""
    rows = highest.index.to_numpy()
    known = masks.of(rows) if masks else None
    place = 0
    zones = zones_of(prepared)
    for part, maps in detector.run(prepared.images, rows, zones=zones, batch_size=min(batch_size, len(rows))):
        rebuilt = (maps.rebuilt * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        named, inside = maps.named()[name].cpu().numpy(), maps.inside.cpu().numpy()
        for number, row in enumerate(part):
            yield Shown(
                image=np.asarray(prepared.images[row]),
                rebuilt=rebuilt[number],
                map=named[number],
                inside=inside[number],
                title=title_of(highest.loc[row]),
                short=title_of(highest.loc[row], long=False),
                mask=None if known is None else known[place],
            )
            place += 1
