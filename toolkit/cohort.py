"""What is typical of a run's own people, or pictures, in a few numbers for each: so that others can be told from them.

The numbers of the run's own are those of its held-out split, never of what it trained on. They are kept beside the
model (`stage1/cohort.json`, without names), so that a run can be given away without its data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.side_by_side import Pairs, side_by_side
from toolkit_datasets.appearance import GREYS, grey_histogram, of_picture, of_slices
from toolkit_datasets.atomic import write_json
from toolkit_datasets.images import EMPTY
from toolkit_datasets.nifti import read_header
from toolkit_datasets.progress import Progress
from toolkit_datasets.slicing import side_mm

from .unseen import Unseen, open_held_out

NAME = "cohort.json"
FORMAT = 1
MOST = 1000  # people or pictures that are looked at, evenly spaced: 1,000 histograms of 512 codes take 4 MB


@dataclass(frozen=True)
class Cohort:
    """Some people, or pictures."""

    split: str  # of the run, or "new"
    units: str  # what is counted: "people" or "pictures"
    values: dict[str, np.ndarray]  # statistic -> (S,) float64, NaN where unknown; see check.STATISTICS
    codes: np.ndarray  # (R, K) int64: how often each code of the first level was chosen; (0, 0) without codes
    greys: np.ndarray  # (GREYS,) int64 of grey values, in the foreground where there is one
    names: tuple[str, ...] = ()  # (S,) of the people, where they are known

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))


class Collector:
    """Gathers a `Cohort` while its images pass by, whole by whole."""

    def __init__(self, asked: Unseen, model: Autoencoder) -> None:
        self._asked, self._model = asked, model
        names = list(dict.fromkeys(asked.subjects.tolist()))
        chosen = np.unique(np.linspace(0, len(names) - 1, min(MOST, len(names))).astype(int))
        self._names = [names[place] for place in chosen]
        self._subject = dict(zip(asked.rows.tolist(), asked.subjects.tolist(), strict=True))
        self._numbers: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in self._names}
        samples = asked.prepared.samples
        self._empty: dict[str, float] = (
            samples["status"].str.startswith(EMPTY).groupby(samples["path"]).mean().to_dict()
        )
        level = next((level for level in model.levels if level.codes), None)
        self._level = level.name if level else ""
        shape = (level.depth, level.codes) if level else (0, 0)
        self._codes = {name: np.zeros(shape, np.int64) for name in self._names}
        self._greys = {name: np.zeros(GREYS, np.int64) for name in self._names}

    def add(self, pairs: Pairs) -> None:
        """Look at one picture, or at the slices of one volume."""
        name = self._subject[int(pairs.rows[0])]
        if name not in self._numbers:
            return
        numbers = self._numbers[name]
        for key, value in self._looks(pairs).items():
            numbers[key].append(value)
        for key in ("psnr", "ssim", "psnr_foreground", "ssim_foreground"):
            if key in pairs.scores and np.isfinite(pairs.scores[key]).any():
                numbers[key].append(float(np.nanmean(pairs.scores[key])))
        self._greys[name] += grey_histogram(pairs.originals, foreground=self._asked.volumes)
        if self._level:
            counts = self._codes[name]
            for depth, chosen in enumerate(pairs.indices[self._level].swapaxes(0, 1)):
                counts[depth] += np.bincount(chosen.ravel(), minlength=counts.shape[1])

    def _looks(self, pairs: Pairs) -> dict[str, float]:
        if not self._asked.volumes:
            details = self._asked.prepared.details
            stored: dict[str, float] = {}
            if "width" in details and details["width"].iat[pairs.rows[0]]:
                sides = (int(details[side].iat[pairs.rows[0]]) for side in ("width", "height"))
                stored = {"shorter_side": float(min(sides))}
            return stored | of_picture(pairs.originals[0])
        card, file = self._asked.card, self._asked.file(int(pairs.rows[0]))
        header = read_header(file)
        mm = side_mm(card.slices, header, card.image.size) / card.image.size
        lengths = [count * spacing for count, spacing in zip(header.shape, header.spacing, strict=True)]
        return {
            **{f"spacing_{axis}": spacing for axis, spacing in zip("RAS", header.spacing, strict=True)},
            **{f"extent_{axis}": length for axis, length in zip("RAS", lengths, strict=True)},
            "empty": self._empty[self._asked.prepared.samples["path"].iat[pairs.rows[0]]],
            **of_slices(pairs.originals, mm),
        }

    def done(self, reference: Cohort | None = None) -> Cohort:
        """The cohort so far; code and grey histograms are compared with the reference's, or else each with all others.

        The distances become the statistics `codes` and `greys`.
        """
        seen = [name for name in self._names if self._numbers[name]]
        keys = list(dict.fromkeys(key for name in seen for key in self._numbers[name]))
        values = {
            key: np.array([np.mean(self._numbers[name][key]) if self._numbers[name][key] else np.nan for name in seen])
            for key in keys
        }
        pooled = np.sum(np.stack([self._codes[name] for name in seen]), axis=0)
        greys = np.sum(np.stack([self._greys[name] for name in seen]), axis=0)
        for key, own, every in (("codes", self._codes, pooled), ("greys", self._greys, greys)):
            theirs = None if reference is None else getattr(reference, key)
            if every.size and (theirs is None or theirs.shape == every.shape):
                values[key] = np.array(
                    [distance(own[name], every - own[name] if theirs is None else theirs) for name in seen]
                )
        units = "people" if self._asked.volumes else "pictures"
        return Cohort(self._asked.origin, units, values, pooled, greys, tuple(seen))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon distance of two histograms, 0 (the same shares) to 1 (nothing in common).

    Base 2; the mean over rows where they have any, such as the depths of residual codes; NaN where one is empty.
    Source: Endres & Schindelin 2003, doi 10.1109/TIT.2003.813506.

    >>> distance(np.array([1, 1, 0]), np.array([2, 2, 0])), distance(np.array([1, 0]), np.array([0, 3]))
    (0.0, 1.0)
    """
    p, q = np.atleast_2d(a).astype(float), np.atleast_2d(b).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        return float("nan")
    middle = (p + q) / 2

    def divergence(x: np.ndarray) -> np.ndarray:
        logs = np.log2(np.divide(x, middle, out=np.ones_like(x), where=x > 0))
        total: np.ndarray = (x * logs).sum(1)
        return total

    return float(np.sqrt(((divergence(p) + divergence(q)) / 2).clip(0, 1)).mean())


def own_cohort(run: Path, model: Autoencoder, model_hash: str, *, workers: int | None, progress: Progress) -> Cohort:
    """The run's own held-out people or pictures: as recorded, else looked at now and recorded.

    Raises:
        ToolkitError: nothing is recorded, and the run's images are gone or changed.
    """
    if (known := read_cohort(run / "stage1", model_hash)) is not None:
        return known
    progress.say(f"note: the held-out images of {run} are looked at once, to compare the new ones with")
    asked = open_held_out(run, workers=workers, progress=progress)
    collector = Collector(asked, model)
    with progress.bar("the run's own", len(asked.rows), "images") as bar:
        for pairs in side_by_side(
            model,
            asked.prepared.images,
            asked.rows,
            wholes=asked.samples["path"].to_numpy(),
            batch_size=asked.card.encode_batch,
            foreground=asked.volumes,
            bar=bar,
        ):
            collector.add(pairs)
    cohort = collector.done()
    write_cohort(run / "stage1", cohort, model_hash)
    return cohort


def write_cohort(folder: Path, cohort: Cohort, model_hash: str) -> None:
    """Keep the numbers beside the model; no names."""
    data: dict[str, Any] = {
        "format_version": FORMAT,
        "model_hash": model_hash,
        "split": cohort.split,
        "units": cohort.units,
        "values": {
            key: [None if np.isnan(value) else float(value) for value in values]
            for key, values in cohort.values.items()
        },
        "codes": cohort.codes.tolist(),
        "greys": cohort.greys.tolist(),
    }
    write_json(folder / NAME, data)


def read_cohort(folder: Path, model_hash: str) -> Cohort | None:
    """What is kept beside the model; None where there is nothing of this very model."""
    try:
        data = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if data["format_version"] != FORMAT or data["model_hash"] != model_hash:
            return None
        values = {
            str(key): np.array([np.nan if value is None else value for value in values], float)
            for key, values in data["values"].items()
        }
        codes, greys = np.array(data["codes"], np.int64), np.array(data["greys"], np.int64)
        return Cohort(str(data["split"]), str(data["units"]), values, codes, greys)
    except (OSError, ValueError, KeyError, TypeError):
        return None
