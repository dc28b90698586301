"""Other people than the run's own: what differs, in plain words and with the numbers.

A person is unusual in a statistic who lies beyond all of the run's own, and more than four robust standard deviations
(1.4826 times the median absolute deviation) from their median. The same holds for the median of a few new people. A
median of ten or more is steadier: it is unusual beyond the middle 95 % of the run's own and 1.5 deviations. A
difference below the tolerance in the table is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from toolkit_datasets.appearance import SKULL

from .cohort import Cohort
from .wording import amount

MANY = 10  # new people, from which on their median tells more than any of them
FAR, FAR_OF_MANY = 4.0, 1.5  # robust standard deviations
FEWEST = 5  # own people or pictures; of fewer the spread is not known


@dataclass(frozen=True)
class Statistic:
    """One number for each person or picture, and when a difference in it is worth a word."""

    group: str  # those of one group share a warning
    title: str
    least: float  # a difference below it is none, in the statistic's unit; a share of the median where `relative`
    relative: bool = False
    sides: Literal["both", "above", "below"] = "both"
    unit: str = ""


STATISTICS = {
    "spacing_R": Statistic("resolution", "voxels, left to right", 0.1, relative=True, unit=" mm"),
    "spacing_A": Statistic("resolution", "voxels, back to front", 0.1, relative=True, unit=" mm"),
    "spacing_S": Statistic("resolution", "voxels, upwards", 0.1, relative=True, unit=" mm"),
    "extent_R": Statistic("field of view", "volumes, left to right", 0.1, relative=True, unit=" mm"),
    "extent_A": Statistic("field of view", "volumes, back to front", 0.1, relative=True, unit=" mm"),
    "extent_S": Statistic("field of view", "volumes, upwards", 0.1, relative=True, unit=" mm"),
    "border": Statistic("field of view", "share of the picture's border that is head", 0.05, sides="above"),
    "empty": Statistic("field of view", "share of the wanted slices that are empty", 0.1, sides="above"),
    "outline": Statistic("skull", "depth of the dark ring under the outline", 0.05),
    "foreground": Statistic("skull", "share of a slice that is head", 0.05),
    "brightness": Statistic("intensity", "mean grey, 0 to 1", 0.03),
    "contrast": Statistic("intensity", "deviation of the grey values", 0.02),
    "colour": Statistic("intensity", "colour, 0 to 1", 0.03),
    "greys": Statistic("intensity", "Jensen-Shannon distance of the grey values", 0.05, sides="above"),
    "shorter_side": Statistic("resolution", "shorter side of the pictures", 0.5, relative=True, unit=" px"),
    "codes": Statistic("codes", "Jensen-Shannon distance of the code histogram", 0.05, sides="above"),
    "psnr": Statistic("reconstruction", "PSNR", 1.0, sides="below", unit=" dB"),
    "ssim": Statistic("reconstruction", "SSIM", 0.03, sides="below"),
    "psnr_foreground": Statistic("reconstruction", "PSNR in the foreground", 1.0, sides="below", unit=" dB"),
    "ssim_foreground": Statistic("reconstruction", "SSIM in the foreground", 0.03, sides="below"),
}
COMMON = ("codes", "psnr", "ssim")  # what a slice given as a picture and one of a volume can be compared by
MEANINGS = {
    "resolution": "another resolution than the run's own, so that edges and detail are not the same",
    "field of view": "another field of view than the run's own",
    "skull": "not stripped as the run's own {units} are",
    "intensity": "other grey values than the run's own",
    "codes": "chosen in other shares than for the run's own {units}",
    "reconstruction": "rebuilt worse than the run's own unseen {units}: errors may come from the cohort as a whole",
}


def compare(new: Cohort, own: Cohort) -> dict[str, Any]:
    """How a new cohort stands against the run's own, as plain data.

    Returns:
        own and new: how many; `statistics`: name -> title, median, min and max here, own median, min and max, the
        bounds beyond which it is unusual, and whether it is; `warnings`: sentences; `notes`: what could not be told.
    """
    notes = []
    if len(own) < FEWEST:
        notes.append(
            f"only {len(own)} of the run's own {own.units} were held out: too few to tell what is usual; nothing was "
            "compared"
        )
    if own.units != new.units:
        notes.append(
            f"these are {new.units}, the run's own are {own.units}: only codes and reconstruction were compared"
        )
    found: dict[str, dict[str, Any]] = {}
    comparable = STATISTICS if own.units == new.units else {name: STATISTICS[name] for name in COMMON}
    for name, statistic in comparable.items():
        here = _known(new.values.get(name))
        there = _known(own.values.get(name))
        if len(here) and len(there) >= FEWEST:
            found[name] = _judged(name, statistic, here, there)
    return {
        "own": len(own),
        "own_split": own.split,
        "new": len(new),
        "units": own.units,
        "statistics": found,
        "warnings": _warnings(found, own.units),
        "notes": notes,
    }


def unusual_for(cohort: Cohort, compared: Mapping[str, Any]) -> dict[str, list[str]]:
    """Which statistics are unusual for each person by himself: name -> titles."""
    found: dict[str, list[str]] = {name: [] for name in cohort.names}
    for key, entry in compared["statistics"].items():
        low, high = entry["usual"]
        for name, value in zip(cohort.names, cohort.values[key], strict=True):
            if (low is not None and value < low) or (high is not None and value > high):
                found[name].append(key)
    return found


def _known(values: np.ndarray | None) -> np.ndarray:
    return np.zeros(0) if values is None else values[np.isfinite(values)]


def _judged(name: str, statistic: Statistic, here: np.ndarray, there: np.ndarray) -> dict[str, Any]:
    middle, median = float(np.median(there)), float(np.median(here))
    low, high = usual = _bounds(statistic, there, of_many=False)
    if len(here) >= MANY:
        low, high = _bounds(statistic, there, of_many=True)
    unusual = (low is not None and median < low) or (high is not None and median > high)
    if name == "outline":  # told by what it means, not by how far it is from the others
        usual = (SKULL, None) if middle > SKULL else (None, SKULL)
        unusual = (median > SKULL) != (middle > SKULL)
    return {
        "title": statistic.title,
        "group": statistic.group,
        "unit": statistic.unit,
        **_spread(here),
        "own": _spread(there),
        "usual": list(usual),
        "unusual": unusual,
    }


def _bounds(statistic: Statistic, own: np.ndarray, *, of_many: bool) -> tuple[float | None, float | None]:
    """Between which values one new person is usual, or the median of many; None where that side never is unusual."""
    middle = float(np.median(own))
    deviation = 1.4826 * float(np.median(np.abs(own - middle)))
    margin = max(
        (FAR_OF_MANY if of_many else FAR) * deviation,
        statistic.least * (abs(middle) if statistic.relative else 1.0),
    )
    outer = np.percentile(own, [2.5, 97.5] if of_many else [0, 100])
    low, high = min(float(outer[0]), middle - margin), max(float(outer[1]), middle + margin)
    return None if statistic.sides == "above" else low, None if statistic.sides == "below" else high


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max())}


def _warnings(found: Mapping[str, Mapping[str, Any]], units: str) -> list[str]:
    """One sentence for each group with anything unusual, and its numbers."""
    groups: dict[str, list[str]] = {}
    for name, entry in found.items():
        if entry["unusual"]:
            groups.setdefault(entry["group"], []).append(name)
    sentences = []
    for group, names in groups.items():
        meaning = MEANINGS[group].format(units=units)
        if group == "skull":
            meaning = _skull(found, names, units)
        numbers = "; ".join(_numbers(found[name]) for name in names)
        sentences.append(f"{group}: {meaning} ({numbers})")
    return sentences


def _skull(found: Mapping[str, Mapping[str, Any]], names: list[str], units: str) -> str:
    if "outline" not in names:
        return f"more or less of a slice is head than in the run's own {units}: look whether skull or neck are there"
    if found["outline"]["median"] > SKULL:
        return (
            f"the skull is there, and was taken off the run's own {units}: strip these first, or train on whole heads"
        )
    return f"the skull was taken off, and the run's own {units} have theirs: give scans as they came"


def _numbers(entry: Mapping[str, Any]) -> str:
    own, unit = entry["own"], entry["unit"]
    here, middle, low, high = (amount(value) for value in (entry["median"], own["median"], own["min"], own["max"]))
    spread = "" if low == high else f" ({low} to {high})"
    return f"{entry['title']}: {here}{unit} here, {middle}{unit} there{spread}"
