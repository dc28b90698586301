"""What lies in a folder of volumes, and who the people are: the part of `toolkit datasets` that pictures lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from toolkit_datasets.prepare import Prepared


def volume_facts(prepared: Prepared) -> dict[str, Any]:
    """Shapes, spacings, orientations and numbers as stored, and which slices are taken; empty for pictures."""
    scan = prepared.scan
    if scan is None or scan.volumes is None:
        return {}
    present = scan.volumes[scan.volumes["path"].isin(set(prepared.samples["path"]))]
    good = present[present["problem"] == ""]
    slices = prepared.card.slices
    positions = prepared.samples["position"][prepared.samples["position"] != ""].astype(float)
    return {
        "volumes": {
            "files": len(present),
            "readable": len(good),
            **{
                name: {str(k): int(v) for k, v in good[column].value_counts().items()}
                for name, column in (
                    ("shapes", "shape"),
                    ("spacings", "spacing"),
                    ("orientations", "orientation"),
                    ("types", "dtype"),
                    ("slices_each", "slices"),
                )
            },
            "intensities": _windows(prepared),
            "slicing": slices.model_dump(),
            "positions": [float(positions.min()), float(positions.max())] if len(positions) else None,
            "empty": len(prepared.empty),
        },
        "subjects": {str(split): int(count) for split, count in _people(prepared)["split"].value_counts().items()},
    }


def people_facts(prepared: Prepared) -> dict[str, Any]:
    """Who is behind the samples, as far as names and the table tell: sites, columns, and whom the table left out."""
    scan, samples = prepared.scan, prepared.samples
    found: dict[str, Any] = {}
    named = samples[(samples["status"] == "ok") & (samples["site"] != "")] if "site" in samples else samples[:0]
    if len(named):
        subjects = named.assign(one=named["group"].where(named["group"] != "", named["id"])).drop_duplicates("one")
        found["sites"] = {str(k): int(v) for k, v in subjects["site"].value_counts().items()}
    if scan is not None and scan.table is not None:
        found["table"] = str(scan.table)
        found["demographics"] = dict(scan.demographics)
        found["exclusions"] = [{"subject": subject, "reason": reason} for subject, reason in scan.exclusions]
    return found


def volume_lines(found: Mapping[str, Any], prepared: Prepared) -> list[str]:
    """`volume_facts` for people; empty for pictures."""
    volumes = found.get("volumes")
    if not volumes:
        return []
    lines = [
        f"volumes   {volumes['files']:,} files, {volumes['readable']:,} with a readable header",
        f"shapes    {_counts(volumes['shapes'])} voxels, as stored",
        f"spacing   {_counts(volumes['spacings'])} mm, as stored",
        f"axes      {_counts(volumes['orientations'])}",
        f"numbers   {_counts(volumes['types'])}",
    ]
    if windows := volumes["intensities"]:
        low, high = windows["black"], windows["white"]
        lines.append(
            f"window    black at {_spread(low)}, white at {_spread(high)} (per volume; lowest, median, highest)"
        )
    lines.append(f"slices    {slicing_text(prepared)}" + (f"; {volumes['empty']:,} empty" if volumes["empty"] else ""))
    return lines


def people_lines(found: Mapping[str, Any]) -> list[str]:
    """`people_facts` for people."""
    lines = [f"sites     {_counts(found['sites'])} (subjects)"] if found.get("sites") else []
    if "table" in found:
        lines.append(f"table     {found['table']}")
        for column, values in found["demographics"].items():
            is_range = set(values) == {"min", "median", "max"}
            text = (
                f"{values['min']:g} to {values['max']:g}, median {values['median']:g}" if is_range else _counts(values)
            )
            lines.append(f"          {column}: {text}")
    return lines


def slicing_text(prepared: Prepared) -> str:
    """Which slices the card takes, in one line."""
    wanted = prepared.card.slices
    units = {"head": "of the head", "fraction": "of the volume", "index": "by index", "mm": "mm from the lower face"}
    whole = wanted.start is None and wanted.stop is None
    start, stop = ("" if end is None else f"{end:g}" for end in (wanted.start, wanted.stop))
    where = {"head": "the whole head", "fraction": "the whole volume"}.get(wanted.by, "the whole volume")
    where = where if whole else f"[{start}, {stop}) {units[wanted.by]}"
    many = (
        f"{wanted.count} {wanted.axis} slices a volume, evenly in" if wanted.count else f"every {wanted.axis} slice in"
    )
    positions = prepared.samples["position"][prepared.samples["position"] != ""].astype(float)
    at = f", at {positions.min():.1f} to {positions.max():.1f} mm" if len(positions) else ""
    return f"{many} {where}{at}"


def _people(prepared: Prepared) -> pd.DataFrame:
    """One row for each subject and split."""
    good = prepared.samples[prepared.samples["status"] == "ok"]
    return good.drop_duplicates(["group", "split"])


def _windows(prepared: Prepared) -> dict[str, dict[str, float]] | None:
    pairs = prepared.details["window"].drop_duplicates()
    values = pd.DataFrame([pair.split() for pair in pairs if pair], dtype=float)
    if values.empty:
        return None
    return {
        name: {"min": float(column.min()), "median": float(np.median(column)), "max": float(column.max())}
        for name, column in (("black", values[0]), ("white", values[1]))
    }


def _spread(values: Mapping[str, float]) -> str:
    return " / ".join(f"{values[key]:.4g}" for key in ("min", "median", "max"))


def _counts(counts: Mapping[str, int], most: int = 6) -> str:
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:most]]
    return ", ".join(shown + ([f"and {len(counts) - most} more"] if len(counts) > most else [])) or "none"
