"""Run folders: what lies where, and how a later command finds the data of an earlier one again.

card.toml      the resolved card
run.json       where the data were, and the command that was typed
samples.csv    the sample table
stage1/        the model, its history and figures
codes/         the code store (codes.h5 for HDF5)
probe/         draws, predictions, the saved classifier
samples/       new images, where `toolkit sample` was told no other place; between/ those between two images
results.json   every number of the run
report.html    the page to look at
reconstructions/  what `toolkit reconstruct` wrote, a folder for each split
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit_datasets.atomic import output_folder, replacing, write_json, write_text
from toolkit_datasets.card import Card, card_text, load_card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared

OWN = (
    "card.toml",
    "run.json",
    "samples.csv",
    "stage1",
    "codes",
    "codes.h5",
    "probe",
    "results.json",
    "report.html",
    "reconstructions",
    "samples",
    "between",
)
DESCRIBED = ("card.toml", "run.json", "samples.csv")  # what can be made again at any time


@dataclass(frozen=True)
class Data:
    """Where a run's images and labels are."""

    folder: Path | None = None
    labels: Path | None = None
    limit: int | None = None


def check_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the run folder and make sure that a run may be written there, before any work.

    Raises:
        ToolkitError: a run is there and neither `resume` nor `overwrite` was given; or the folder cannot be written to.
    """
    there = [name for name in OWN if (out / name).exists()]
    if set(there) <= set(DESCRIBED):  # `toolkit prepare` was here: nothing to lose
        there = []
    if there and not (resume or overwrite):
        raise ToolkitError(
            f"{out} already holds a run ({', '.join(there)}): give --resume to go on with it, "
            "--overwrite to replace it, or another --out"
        )
    output_folder(out)


def clear(out: Path) -> None:
    """Delete what an earlier run wrote into its folder; nothing else is ever deleted."""
    for name in [*OWN, *(f"{store}.{rest}" for store in ("codes", "codes.h5") for rest in ("partial", "shards"))]:
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def make_room(out: Path, *, kind: str, overwrite: bool) -> None:
    """Make a folder for results that end in a `summary.json`, which lists their `files`.

    Args:
        out: the folder.
        kind: what will be in it, such as "anomalies", for messages.
        overwrite: take away what an earlier call wrote, as its summary lists it; nothing else is ever deleted.

    Raises:
        ToolkitError: it is a run folder, holds earlier results and `overwrite` is not given, or cannot be written to.
    """
    if (out / "run.json").is_file():
        raise ToolkitError(f"{out} is a run folder: choose another --out, such as {out / kind}")
    old = out / "summary.json"
    if old.is_file():
        if not overwrite:
            raise ToolkitError(f"{out} already holds results: give --overwrite to replace them, or another --out")
        root = out.resolve()
        for name in json.loads(old.read_text(encoding="utf-8")).get("files", []):
            path = (out / name).resolve()
            if root in path.parents and path.is_file():
                path.unlink()
        old.unlink()
    output_folder(out)


def write_run(out: Path, prepared: Prepared, data: Data, command: str) -> None:
    """Record the card, the samples and where the data are."""
    write_text(out / "card.toml", card_text(prepared.card))
    with replacing(out / "samples.csv") as temporary:
        prepared.samples.to_csv(temporary, index=False)
    places = {key: str(value.resolve()) if isinstance(value, Path) else value for key, value in asdict(data).items()}
    write_json(out / "run.json", {"data": places, "command": command})


def read_run(run: Path) -> tuple[Card, Data]:
    """The card and the data of a run folder.

    Raises:
        ToolkitError: it is no run folder.
    """
    if not (run / "card.toml").is_file() or not (run / "run.json").is_file():
        raise ToolkitError(
            f"{run} is no run folder (no card.toml and run.json): make one with "
            f"`toolkit train CARD --data DIR --out {run}`"
        )
    places = json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
    folder, labels = (Path(places[key]) if places[key] else None for key in ("folder", "labels"))
    return load_card(str(run / "card.toml")), Data(folder, labels, places["limit"])


def read_results(path: Path) -> dict[str, object]:
    """A results file as plain data; empty where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
