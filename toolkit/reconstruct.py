"""`toolkit reconstruct`: images beside what a finished run makes of them, judged by image, by subject and as a cohort.

A folder of it holds

images.csv     a row for each image: who, where, and its scores
subjects.csv   a row for each subject: the means of its images, and what is unusual about it
summary.json   mean, sd and 95 % interval over subjects; how a new cohort differs from the run's own; what was written
grid.png       eight subjects from the best to the worst: original, reconstruction, error
…_reconstruction.nii.gz or .png   the reconstructions themselves
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.batches import check_shape, load
from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.reconstruct import reconstruct
from stage1_vqvae.side_by_side import INSIDE, SCORES, Pairs, side_by_side
from stage2_probe.intervals import Bootstrap, interval
from toolkit_datasets.atomic import replacing, write_json
from toolkit_datasets.codes import file_names, safe_name
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import Unreadable
from toolkit_datasets.progress import Progress
from toolkit_datasets.restore import restored, write_nifti
from toolkit_datasets.samples import stem_of
from toolkit_datasets.volumes import read_layout

from .cohort import Cohort, Collector, own_cohort, write_cohort
from .cohort_check import compare, unusual_for
from .plots import side_by_side_grid
from .runs import make_room
from .unseen import HELD_OUT, Unseen

SUMMARY = "summary.json"
SHOWN = 8  # subjects in the grid
FEWEST = 5  # subjects for an interval: over fewer a bootstrap is much too narrow
KINDS = {"vqvae": "VQ-VAE", "vae": "VAE"}


def reconstruct_run(
    asked: Unseen,
    out: Path,
    *,
    images: bool,
    device: str,
    overwrite: bool = False,
    workers: int | None = None,
    command: str = "",
    progress: Progress,
) -> dict[str, Any]:
    """Reconstruct what was asked about, write the folder `out`, and return what its summary.json holds.

    Args:
        asked: see `unseen.open_unseen`.
        out: the folder to write.
        images: also write every reconstruction: a NIfTI file for each volume, a PNG file for each picture.
        device: where the model runs.
        overwrite: replace earlier reconstructions there.
        workers: threads for decoding the run's own images, where a new cohort is compared with them.
        command: as typed, for the record.
        progress: counts images.

    Raises:
        ToolkitError: no model, earlier reconstructions, or a volume that cannot be read any more.
    """
    loaded = load_model(asked.run / "stage1", device)
    model = loaded.model
    check_shape(asked.prepared.images, loaded.card)
    make_room(out, kind="reconstructions", overwrite=overwrite)
    own, missing = _own(asked, model, loaded.model_hash, workers=workers, progress=progress)
    collector = Collector(asked, model)
    scores: dict[str, list[np.ndarray]] = {}
    written: list[str] = []
    names = _file_names(asked)
    rows, wholes = asked.rows, asked.samples["path"].to_numpy()
    with progress.bar("reconstruct", len(rows), "images") as bar:
        for pairs in side_by_side(
            model,
            asked.prepared.images,
            rows,
            wholes=wholes,
            batch_size=loaded.card.encode_batch,
            foreground=asked.volumes,
            bar=bar,
        ):
            for name, values in pairs.scores.items():
                scores.setdefault(name, []).append(values)
            collector.add(pairs)
            if images:
                about = f"{KINDS[model.kind]} {loaded.model_hash[:8]}"
                written.append(_write_whole(asked, pairs, out, names[int(pairs.rows[0])], about))
    cohort = collector.done(own)
    if asked.origin == next((split for split in HELD_OUT if len(asked.prepared.rows(split))), ""):
        write_cohort(asked.run / "stage1", cohort, loaded.model_hash)
    compared = compare(cohort, own) if own is not None else None
    each = _image_table(asked, {name: np.concatenate(parts) for name, parts in scores.items()})
    people = _subject_table(each, unusual_for(cohort, compared) if compared else {})
    summary: dict[str, Any] = {
        "kind": "reconstructions",
        "run": str(asked.run),
        "model_hash": loaded.model_hash,
        "card": asked.card.name,
        "data": asked.prepared.origin,
        "split": asked.origin,
        "caveat": asked.caveat,
        "images_seen_in_training": int(asked.seen.sum()),
        "images": len(each),
        "subjects": len(people),
        "volumes": asked.volumes,
        "skipped": [{"path": path, "reason": reason} for path, reason in asked.prepared.skipped_files],
        "empty_slices": len(asked.prepared.empty),
        "scores": _scores(people, seed=asked.card.seed),
        "cohort": compared,
        "notes": [note for note in (missing, asked.namesakes_text) if note],
        "command": command,
        "files": ["images.csv", "subjects.csv", "grid.png", *written],
    }
    _draw(asked, model, each, people, out / "grid.png")
    for table, name in ((each, "images.csv"), (people, "subjects.csv")):
        with replacing(out / name) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    write_json(out / SUMMARY, summary)  # last: where it stands, the folder is complete
    return summary


def _own(
    asked: Unseen, model: Autoencoder, model_hash: str, *, workers: int | None, progress: Progress
) -> tuple[Cohort | None, str]:
    """The run's own people, for new ones to be compared with; else why there are none."""
    if asked.origin != "new":
        return None, ""
    try:
        return own_cohort(asked.run, model, model_hash, workers=workers, progress=progress), ""
    except ToolkitError as error:
        return None, (
            f"not compared with the run's own, of which nothing is recorded: {error} Where the run's data are, "
            f"`toolkit reconstruct {asked.run}` records it"
        )


def _file_names(asked: Unseen) -> dict[int, str]:
    """Row -> name of the file for its reconstruction; of a volume the first row counts."""
    samples = asked.prepared.samples
    if not asked.volumes:
        return {row: name.removesuffix(".npy") for row, name in enumerate(file_names(samples))}
    paths = samples["path"].drop_duplicates()
    bare = {path: safe_name(stem_of(path)) for path in paths}
    taken = pd.Series([name.casefold() for name in bare.values()])
    clashes = set(taken[taken.duplicated(keep=False)])
    number = {path: place for place, path in enumerate(paths)}
    return {
        row: f"{bare[path]}-{number[path]}" if bare[path].casefold() in clashes else bare[path]
        for row, path in enumerate(samples["path"])
    }


def _write_whole(asked: Unseen, pairs: Pairs, out: Path, name: str, model: str) -> str:
    """Write one reconstruction, and return the name of its file; `model` is named in the description of a volume."""
    if not asked.volumes:
        picture = (pairs.reconstructions[0] * 255).round().astype(np.uint8)
        target = f"{name}_reconstruction.png"
        with replacing(out / target) as temporary:
            Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(temporary, format="PNG")
        return target
    target = f"{name}_reconstruction.nii.gz"
    with _still_there(file := asked.file(int(pairs.rows[0]))):
        layout = read_layout(file, asked.card, asked.prepared.samples["slice"].iloc[pairs.rows].tolist())
        voxels = restored(layout.window.values(255 * pairs.reconstructions), layout)
        limits = f"{layout.window.low:.5g} to {layout.window.high:.5g}"
        about = f"{model} reconstruction, clipped to {limits}; NaN: not taken"
        write_nifti(out / target, voxels, like=file, description=about)
    return target


@contextmanager
def _still_there(file: Path) -> Iterator[None]:
    try:
        yield
    except Unreadable as error:
        raise ToolkitError(
            f"{file} was decoded, but cannot be read any more: {error}. Restore it, and run again"
        ) from None


def _image_table(asked: Unseen, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    table = asked.samples[["id", "path", "slice", "position", "label", "split"]].reset_index(drop=True)
    table.insert(0, "subject", asked.subjects)
    table["seen_in_training"] = asked.seen
    for name in (*SCORES, *INSIDE):
        if name in scores:
            table[name] = scores[name].astype(float)
    return table


def _subject_table(images: pd.DataFrame, unusual: dict[str, list[str]]) -> pd.DataFrame:
    """Means over each subject's images, in the order of the images; scores that no image has are empty."""
    grouped = images.groupby("subject", sort=False)
    names = [name for name in (*SCORES, *INSIDE) if name in images]
    table = grouped[["label", "split"]].first()
    table["images"] = grouped.size()
    table["seen_in_training"] = grouped["seen_in_training"].any()
    table[names] = grouped[names].mean()
    table = table.reset_index()
    if unusual:
        table["unusual"] = [" ".join(unusual.get(subject, [])) for subject in table["subject"]]
    return table


def _scores(people: pd.DataFrame, *, seed: int) -> dict[str, Any]:
    """Name -> mean, sd and ci95 over subjects (None where there are too few), and over how many."""
    found: dict[str, Any] = {}
    for name in (*SCORES, *INSIDE):
        values = people[name].dropna().to_numpy(float) if name in people else np.zeros(0)
        if not len(values):
            continue
        several = len(values) >= FEWEST
        found[name] = {
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "ci95": interval(Bootstrap(np.arange(len(values)), seed=seed).means(values[None])[:, 0], len(values))
            if several
            else None,
            "n": len(values),
        }
    return found


def _draw(asked: Unseen, model: Autoencoder, images: pd.DataFrame, people: pd.DataFrame, out: Path) -> None:
    """Subjects evenly from the best to the worst, each by its middle image; of few, several images each."""
    judged = "ssim_foreground" if "ssim_foreground" in people else "ssim"
    ranked = people.sort_values(judged, ascending=False, kind="stable")["subject"].tolist()
    subjects = [
        ranked[place] for place in np.unique(np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked))).astype(int))
    ]
    of = {name: np.flatnonzero(images["subject"].to_numpy() == name) for name in subjects}
    each = SHOWN // len(subjects)
    chosen = [
        place
        for name in subjects
        for place in of[name][np.unique(((np.arange(each) + 0.5) * len(of[name]) / each).astype(int))]
    ]
    rows = asked.rows[chosen]
    decoded, _ = reconstruct(model, load(asked.prepared.images, rows, model.mean.device))
    rebuilt = (decoded * 255).round().permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)
    shown = images.iloc[chosen]
    captions = [
        f"{name.rsplit('/', 1)[-1]} {score:.2f}" for name, score in zip(shown["subject"], shown[judged], strict=True)
    ]
    who = "new to the run" if asked.origin == "new" else f"{asked.origin} split"
    if asked.seen.any():
        who += ", SEEN IN TRAINING"
    inside = ", inside the foreground" if judged == "ssim_foreground" else ""
    title = f"{who}; {'subjects' if asked.volumes else 'images'} from the best to the worst, SSIM below each{inside}"
    side_by_side_grid(np.ascontiguousarray(asked.prepared.images[rows]), rebuilt, captions, out, title=title)
