"""Which images of a run say what is healthy: measured once, and kept beside the model as `stage1/healthy.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stage1_vqvae.anomaly import Healthy, Inside
from stage1_vqvae.checkpoint import Loaded
from stage1_vqvae.healthy import fit_healthy, load_healthy, save_healthy
from stage1_vqvae.holdout import split_validation
from stage1_vqvae.training_state import check_belongs
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress

from .pipeline import CHANGED, open_data
from .runs import read_run

FILE = "healthy.npz"
ZONES = 10  # heights told apart: three slices of thirty each, so that a dozen people still say what is usual


def healthy_of(
    run: Path,
    loaded: Loaded,
    own: Prepared | None,
    *,
    judged: str,
    label: str,
    inside: Inside | None,
    progress: Progress,
) -> Healthy:
    """What is healthy to the model of `run`: read from beside it, or measured on the run's own images.

    Args:
        run: its folder.
        loaded: its model.
        own: the run's images where they are open already.
        judged: the split that is about to be scored, and so says nothing of what is healthy; "" for new images.
        label: of healthy images; "" for all.
        inside: which pixels count.
        progress: shows what goes on.

    Raises:
        ToolkitError: the run's images are gone or others now, or too few of them are healthy.
    """
    path = run / "stage1" / FILE
    about = {
        "model_hash": loaded.model_hash,
        "judged": judged,
        "label": label,
        "foreground": inside is not None,
        "zones": ZONES,
    }
    known = load_healthy(path, about)
    if known is not None:
        return known
    if own is None:
        own = open_data(*read_run(run), progress=progress)
        check_belongs(own, run / "stage1", advice=CHANGED)
    learned, held_out = healthy_rows(own, judged=judged, label=label)
    healthy = fit_healthy(
        loaded.model,
        own.images,
        learned=learned,
        held_out=held_out,
        zones=zones_of(own) if inside else np.zeros(len(own.samples), np.int64),  # pictures tell no height
        groups=own.samples["group"].where(own.samples["group"] != "", own.samples["id"]).to_numpy(str)[held_out],
        batch_size=loaded.card.encode_batch,
        inside=inside,
        progress=progress,
    )
    try:
        save_healthy(path, healthy, about)
    except OSError as error:  # a run that may only be read can still be used
        progress.say(f"note: {path} cannot be written ({error.strerror}), so the next call measures this again")
    return healthy


def healthy_rows(own: Prepared, *, judged: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of healthy images that the model learned from, and of those that it did not and that are not `judged`.

    The latter are the validation part of the unlabelled images, and the labelled pool; without a pool the validation
    part alone, even if it is judged. Where `label` says which images are healthy, those with another one are left out;
    those without any count as what the run was trained on, and so do all where the run knows no such label.
    """
    card = own.card
    learned, validation = split_validation(
        own.samples, own.rows("unlabelled"), share=card.train.validation, seed=card.seed
    )
    parts = {"unlabelled": validation, "labelled": own.rows("labelled")}
    held_out = np.sort(np.concatenate([rows for split, rows in parts.items() if split != judged]))
    held_out = held_out if len(held_out) else validation
    labels = own.samples["label"]
    if not label or label not in set(labels):
        return learned, held_out
    fine = labels.isin([label, ""]).to_numpy()
    return learned[fine[learned]], held_out[fine[held_out]]


def zones_of(prepared: Prepared) -> np.ndarray:
    """At which height of its volume each row's slice lies, in `ZONES` equal parts of the slices; 0 for all pictures.

    The skull's base is rebuilt worse than the crown, in everybody.
    """
    if prepared.card.source.kind != "volumes":
        return np.zeros(len(prepared.samples), np.int64)
    slices = prepared.samples.groupby("path", sort=False)["slice"]
    zones: np.ndarray = (ZONES * slices.cumcount() // slices.transform("size")).to_numpy(np.int64)
    return zones


def other_labels(run: Path, label: str) -> dict[str, int]:
    """How many images with a label other than the healthy one the model of `run` has learned from, by label.

    None where the run does not know that label, and so has others of another kind.
    """
    samples = pd.read_csv(run / "samples.csv", dtype=str, keep_default_na=False, usecols=["label", "split", "status"])
    if label not in set(samples["label"]):
        return {}
    seen = samples[(samples["split"] == "unlabelled") & (samples["status"] == "ok")]
    others = seen["label"][~seen["label"].isin([label, ""])]
    return {str(name): int(count) for name, count in others.value_counts().items()}


def check_label(label: str, known: set[str]) -> None:
    """Refuse a label that no image has.

    Raises:
        ToolkitError: naming those that there are.
    """
    if label not in known:
        names = ", ".join(sorted(known)) or "none: the images have no labels; give a table with --labels"
        raise ToolkitError(f"--healthy {label}: no image has that label. There are: {names}")
