"""`toolkit anomaly`: how unusual images are to a run's model, and how well that finds lesions where they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_fill_holes  # type: ignore[import-untyped]
from torch import Tensor

from stage1_vqvae.anomaly import Detector, Healthy
from stage1_vqvae.batches import check_shape
from stage1_vqvae.checkpoint import Loaded, load_model
from toolkit_datasets.atomic import replacing, write_json
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.intensity import foreground_of
from toolkit_datasets.progress import Progress

from .anomaly_pictures import write_pictures
from .anomaly_tables import Scored, judged, subject_table
from .confounds import suspicion
from .detection import detection_text
from .healthy import check_label, healthy_of, other_labels, zones_of
from .layouts import Layouts
from .masks import Masks
from .runs import make_room
from .unseen import Unseen
from .volume_maps import VolumeMaps

By = Literal["error", "surprise", "combined"]
FEW = 100  # held-out images: fewer say little of what is usual at each place
TOLD = 5  # of the highest, in the terminal
TITLES = {
    "error": "error",
    "surprise": "surprise of the codes",
    "combined": "both together",
    "mean_error": "plain mean error",
}


def find_anomalies(
    unseen: Unseen,
    out: Path,
    *,
    healthy_label: str = "",
    masks: Path | None = None,
    by: By = "error",
    most: int = 20,
    nifti: bool = True,
    device: str = "auto",
    overwrite: bool = False,
    command: str = "",
    progress: Progress,
) -> dict[str, Any]:
    """Score images, draw the most unusual ones, and say how well lesions are found; memory does not grow with images.

    Writes `images.csv`, `subjects.csv`, `summary.json`, `overview.png` and `overlays/` into `out`, and for volumes two
    NIfTI files each.

    Args:
        unseen: which images, for which run.
        out: the folder to write.
        healthy_label: of images without anything unusual; all others with a label count as ill.
        masks: folder of masks of what should be found; goes before labels.
        by: the score that ranks.
        most: how many images to draw.
        nifti: write the maps of volumes too.
        device: where the model runs.
        overwrite: replace what an earlier call wrote there.
        command: as typed, for the record.
        progress: shows what goes on.

    Returns:
        The content of `summary.json`.

    Raises:
        ToolkitError: no such model, label or mask, a score that the model cannot give, a run whose images changed, or
            earlier results in `out`.
    """
    loaded = load_model(unseen.run / "stage1", device)
    prepared, rows, size = unseen.prepared, unseen.rows, loaded.card.encode_batch
    check_shape(prepared.images, loaded.card)
    check_score(by, loaded)
    if healthy_label:
        check_label(healthy_label, set(unseen.labels) - {""})
    layouts = Layouts(prepared) if unseen.volumes else None
    known = Masks(masks, prepared, rows, layouts) if masks else None
    make_room(out, kind="anomaly", overwrite=overwrite)
    healthy = healthy_of(
        unseen.run,
        loaded,
        None if unseen.origin == "new" else prepared,
        judged="" if unseen.origin == "new" else unseen.origin,
        label=healthy_label,
        inside=head if unseen.volumes else None,
        progress=progress,
    )
    detector = Detector(loaded.model, healthy, head if unseen.volumes else None)
    volumes = VolumeMaps(out, prepared.samples, layouts) if layouts and nifti else None
    scored, zones = Scored(unseen), zones_of(prepared)
    with progress.bar("score", len(rows), "images") as bar:
        for part, maps in detector.run(prepared.images, rows, zones=zones, batch_size=size, bar=bar):
            scored.add(part, detector.scores(maps), maps, known.of(part) if known else None)
            if volumes:
                volumes.add(part, maps)
    if volumes:
        volumes.close()
    images = scored.table(healthy, by=by, healthy_label=healthy_label)
    subjects = subject_table(images)
    highest = images[images["score"].notna()].nlargest(most, "score")
    scale, drawn = write_pictures(highest, detector, prepared, known, out, by=by, batch_size=size)
    summary = about(unseen, loaded, healthy, healthy_label, by) | {
        "images": len(images),
        "subjects": len(subjects),
        "warnings": [unseen.caveat] if unseen.caveat else [],
        "highest": records(highest[["id", "slice", "position", "subject", "label", "score", "above_healthy"]]),
        "colours": scale,
        "command": command,
        "files": ["images.csv", "subjects.csv", *drawn, *(volumes.files if volumes else [])],
    }
    if healthy.held_out < FEW:
        summary["warnings"].append(
            f"what is usual was measured on {healthy.held_out} images only: a run with more in its pool "
            "(split.labelled) or validation part (train.validation) knows better"
        )
    if healthy_label and (others := other_labels(unseen.run, healthy_label)):
        named = ", ".join(f"{name} {count:,}" for name, count in others.items())
        summary["warnings"].append(
            f"the model has learned from images with other labels too ({named}), and rebuilds well what it has seen: "
            "train on healthy images only"
        )
    if known or healthy_label:
        found = judged(images, subjects, scored.pixels, seed=loaded.card.seed)
        summary["detection"] = found
        if known and known.missing:
            summary["detection"]["without_mask"] = known.missing
        summary["warnings"] += [warning] if (warning := suspicion(found["confounds"])) else []
    for name, table in (("images", images), ("subjects", subjects)):
        with replacing(out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    write_json(out / "summary.json", summary)
    return summary


def head(batch: Tensor) -> Tensor:
    """Where slices (B, C, H, W) uint8 show head, (B, H, W) bool: what is not black, and what that encloses.

    The ventricles, and whatever a lesion makes as dark as they are, are black too and lie within.
    """
    shown = foreground_of(batch.permute(0, 2, 3, 1).cpu().numpy())
    return torch.from_numpy(np.stack([binary_fill_holes(each) for each in shown])).to(batch.device)


def check_score(by: By, loaded: Loaded) -> None:
    """Refuse a score that the model cannot give.

    Raises:
        ToolkitError: the surprise of codes, of a model that has none.
    """
    if by != "error" and not loaded.model.quantizers:
        raise ToolkitError(
            f"--by {by} asks how rare an image's codes are, and the model is a VAE, which has no codes: give --by error"
        )


def about(unseen: Unseen, loaded: Loaded, healthy: Healthy, label: str, by: By) -> dict[str, Any]:
    """Of which images and model the results are."""
    return {
        "kind": "anomalies",
        "run": str(unseen.run),
        "card": unseen.card.name,
        "model": loaded.model.kind,
        "model_hash": loaded.model_hash,
        "split": unseen.origin,
        "data": unseen.prepared.origin,
        "images_seen_in_training": int(unseen.seen.sum()),
        "skipped": [{"path": path, "reason": reason} for path, reason in unseen.prepared.skipped_files],
        "empty_slices": len(unseen.prepared.empty),
        "by": by,
        "recipe": asdict(healthy.recipe),
        "healthy": {"label": label or None, "learned": healthy.learned, "held_out": healthy.held_out},
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain data."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def anomaly_text(summary: Mapping[str, Any], out: Path) -> str:
    """What came out, as lines for the terminal."""
    which = "new images" if summary["split"] == "new" else f"the {summary['split']} split"
    lines = [
        f"scored    {summary['images']:,} images of {summary['subjects']:,} subjects ({which}), "
        f"ranked by {TITLES[summary['by']]}; "
        f"usual is what {summary['healthy']['held_out']:,} held-out healthy images show"
    ]
    for number, row in enumerate(summary["highest"][:TOLD]):
        where = f" at {row['position']} mm" if row["position"] else ""
        label = f" ({row['label']})" if row["label"] else ""
        lines.append(
            f"{'highest' if number == 0 else '':10}{row['score']:6.2f}  {row['subject']}{where}{label}, "
            f"above {row['above_healthy']:.1%} of healthy images"
        )
    lines += _detection_lines(summary["detection"]) if "detection" in summary else []
    lines += [f"WARNING   {warning}" for warning in summary["warnings"]]
    volumes = sum(name.endswith(".nii.gz") for name in summary["files"])
    lines.append(
        f"see       {out / 'overview.png'}; tables: {out / 'images.csv'}, {out / 'subjects.csv'}"
        + (f"; {volumes} NIfTI files" if volumes else "")
    )
    return "\n".join(lines)


def _detection_lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for level in ("images", "subjects", "pixels"):
        measures = {name: each for name, each in found.get(level, {}).items() if each["auroc"]}
        if level in found and not measures:
            lines.append(f"found     {level}: all of them are ill, or none is: nothing to tell apart")
        for number, (name, each) in enumerate(measures.items()):
            counts = f"{level}, {each['positive']:,} of {each['n']:,} ill"
            lines.append(f"{'found' if number == 0 else '':10}{counts}: {detection_text(each)} by {TITLES[name]}")
    if found.get("without_mask"):
        lines.append(f"          {found['without_mask']:,} files have no mask and count as healthy")
    return lines
