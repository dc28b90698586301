"""The steps that the commands call, and `run`, which is all of them in one go.

Every step reads what it needs from the files of the step before, so separate commands and `run` give the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toolkit_datasets.atomic import write_json, write_text
from toolkit_datasets.card import Card, card_from, card_text, load_card
from toolkit_datasets.codes import Codes, Shard, open_codes, versions
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared, prepare
from toolkit_datasets.processes import this_process
from toolkit_datasets.progress import Progress
from toolkit_datasets.splits import leakage
from toolkit_datasets.targets import counted

from .leakage import leakage_text
from .runs import Data, check_out, clear, read_run, write_run
from .wording import model_text

if TYPE_CHECKING:
    from stage1_vqvae.distributed import World

CHANGED = (
    "The images or labels changed since the training, so images that it learned from could end up in the test split. "
    "Restore them, or encode them as new ones with --data DIR --out CODES."
)
ENCODED = ("unlabelled", "labelled", "test")  # the splits that are encoded; `unused` ones only on demand


def open_data(
    card: Card,
    data: Data,
    *,
    files: Collection[str] | None = None,
    split: bool = True,
    fail_fast: bool = False,
    workers: int | None = None,
    progress: Progress,
) -> Prepared:
    """Scan, decode and split; say what was skipped. `files` are relative paths: no others are taken then."""
    prepared = prepare(
        card,
        data.folder,
        labels=data.labels,
        files=files,
        limit=data.limit,
        split=split,
        fail_fast=fail_fast,
        workers=workers,
        progress=progress,
    )
    for note in prepared.notes:
        progress.say(f"note: {note}")
    if leaking := leakage(prepared.samples):
        progress.say(leakage_text(leaking))
    if skipped := prepared.skipped_files:
        reasons = [f"  {path}: {reason}" for path, reason in skipped]
        shown = reasons[:5] + ([f"  … and {len(reasons) - 5} more, all in samples.csv"] if len(reasons) > 5 else [])
        files, what = (
            prepared.samples["path"].nunique(),
            "volumes" if prepared.card.of_volumes else "images",
        )
        progress.say("\n".join([f"skipped {len(skipped)} of {files} {what}:", *shown]))
    return prepared


def train_run(
    prepared: Prepared,
    data: Data,
    out: Path,
    *,
    command: str,
    device: str,
    resume: bool,
    world: World | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Stage 1: train into `out/stage1`, with plots; returns the metrics, and nothing but in the first of a `world`."""
    from stage1_vqvae.distributed import ALONE
    from stage1_vqvae.train import train
    from stage1_vqvae.training_state import check_belongs

    from .plots import loss_curve, reconstruction_grid

    card, learners = prepared.card, len(prepared.rows("unlabelled"))
    folder = out / "stage1"
    if resume:  # before the record of the run is written anew
        check_belongs(prepared, folder)
    world = world or ALONE
    if world.first:
        write_run(out, prepared, data, command)
    progress.say(f"stage 1: {learners:,} unlabelled images of {card.image.size} px; {model_text(card, learners)}")
    metrics = train(prepared, folder, device=device, resume=resume, world=world, progress=progress)
    if not world.first:
        return metrics
    for history in folder.glob("history*.csv"):
        loss_curve(history, folder / history.name.replace("history", "loss").replace(".csv", ".png"))
    reconstruction_grid(folder / "examples.npz", folder / "reconstructions.png")
    return metrics


def encode_run(
    run: Path,
    out: Path,
    prepared: Prepared,
    *,
    format: Literal["npy", "h5"],
    content: Literal["vectors", "indices", "latents"],
    device: str,
    overwrite: bool,
    shard: Shard | None = None,
    progress: Progress,
) -> Codes:
    """Freeze: write the codes of the run's images (or of new ones) to `out`, or one shard of them beside it."""
    from stage1_vqvae.distributed import local_device
    from stage1_vqvae.encode import encode
    from stage1_vqvae.training_state import check_belongs

    if not (prepared.samples["split"] == "new").any():
        check_belongs(prepared, run / "stage1", advice=CHANGED)
    rows = prepared.rows("new") if (prepared.samples["split"] == "new").any() else prepared.rows(*ENCODED)
    return encode(
        run / "stage1",
        prepared,
        rows,
        out,
        format=format,
        content=content,
        device=local_device(device, this_process()),
        overwrite=overwrite,
        shard=shard,
        progress=progress,
    )


def probe_run(
    codes_path: Path,
    out: Path,
    *,
    card: Card | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    data: Data,
    against: Path | None = None,
    device: str,
    workers: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Stage 2: draws, baselines, scores; writes and returns what `results.json` of the probe holds.

    `against` is another store of the same images, compared with on the same draws.
    `card` goes before the one that the store was made with. Baselines that need the images are computed where
    `data` has a folder, or the card's images are bundled.
    """
    from stage2_probe.probe import probe

    from .plots import results_curve

    if (out / "run.json").is_file():
        raise ToolkitError(f"{out} is a run folder, whose results would be lost: choose another --out, or leave it out")
    codes = open_codes(codes_path)
    card = card or card_from(codes.info.card, overrides, seed=seed, origin=f"card of {codes_path}")
    other = open_codes(against) if against else None
    images: dict[str, Any] = {}
    if card.probe.baselines and (data.folder is not None or card.source.kind == "builtin"):
        from .baselines import image_baselines

        prepared = open_data(card, data, split=False, workers=workers, progress=progress)
        images = image_baselines(codes, prepared, card.probe, device=device, progress=progress)
    results = probe(
        codes,
        card.probe,
        seed=card.seed,
        out=out,
        kind=card.labels.kind,
        pool_split=card.split.pool,
        images=images,
        against=other,
        progress=progress,
    )
    write_text(out / "card.toml", card_text(card))
    results_curve(results, out / "curve.png")
    return results


def run_all(
    card: Card,
    data: Data,
    out: Path,
    *,
    command: str,
    device: str,
    resume: bool,
    overwrite: bool,
    fail_fast: bool,
    workers: int | None,
    progress: Progress,
) -> tuple[dict[str, Any], Prepared]:
    """Train, encode, probe and report; returns the content of `results.json`, and the data."""
    from .report import write_report

    check_out(out, resume=resume, overwrite=overwrite)
    prepared = open_data(card, data, fail_fast=fail_fast, workers=workers, progress=progress)
    why_not = unprobeable(prepared)
    if not why_not:
        check_draws(prepared)
    if overwrite:
        clear(out)
    metrics = train_run(prepared, data, out, command=command, device=device, resume=resume, progress=progress)
    store = out / ("codes.h5" if card.encode.format == "h5" else "codes")
    encode_run(
        out,
        store,
        prepared,
        format=card.encode.format,
        content=card.encode.content,
        device=device,
        overwrite=False,  # an old run is cleared by now, and a resumed one goes on
        progress=progress,
    )
    results = {**about_run(prepared, command), "stage1": without_counts(metrics)}
    if why_not:
        results["probe_skipped"] = why_not
    else:
        results |= probe_run(
            store, out / "probe", card=card, data=data, device=device, workers=workers, progress=progress
        )
    write_json(out / "results.json", results)
    write_report(out, prepared)
    return results, prepared


def about_run(prepared: Prepared, command: str) -> dict[str, Any]:
    """What was run, on what."""
    samples, kind = prepared.samples, prepared.card.labels.kind
    good = samples[samples["status"] == "ok"]
    counts = good.assign(label=counted(good["label"], kind)).groupby(["split", "label"]).size()
    splits: dict[str, dict[str, int]] = {}
    for (split, label), count in counts.items():
        splits.setdefault(str(split), {})[str(label)] = int(count)
    leaking = leakage(samples)
    return {
        **({"leakage": leaking} if leaking else {}),
        "card": prepared.card.name,
        "title": prepared.card.title,
        "seed": prepared.card.seed,
        "command": command,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "samples": {
            "total": len(samples),
            "ok": int((samples["status"] == "ok").sum()),
            "skipped": len(prepared.skipped),
            "labels": kind,
            "splits": splits,
        },
    }


def unprobeable(prepared: Prepared) -> str:
    """Why stage 2 has nothing to do, as a sentence; "" where it has."""
    labels = prepared.samples["label"].iloc[prepared.rows(prepared.card.split.pool, "test")]
    labels = labels[labels != ""]
    if len(labels) == 0:
        return "no image of the pool or the test split carries a label; add some with --labels table.csv"
    if labels.nunique() == 1 and prepared.card.labels.kind == "continuous":
        return f"all labelled images have the same number, {labels.iat[0]}; a regressor needs targets that differ"
    if labels.nunique() == 1:
        return f"all labelled images are called {labels.iat[0]!r}; a classifier needs two classes or more"
    return ""


def check_draws(prepared: Prepared) -> None:
    """Refuse what the probe would refuse, before any training.

    Raises:
        ToolkitError: the pool is too small for the draws that the card wants, its classifier knows no numbers, or its
            features cannot be had of such codes.
    """
    from stage1_vqvae.model import levels_of
    from stage2_probe.probe import feature_choices
    from stage2_probe.regressors import name_for
    from stage2_probe.task import task_of

    card = prepared.card
    if card.labels.kind == "continuous":
        name_for(card.probe.classifier)
    good = prepared.samples[prepared.samples["status"] == "ok"]
    task = task_of(
        good,
        card.labels.kind,
        judge=card.probe.judge,
        unit=card.probe.unit,
        pool_split=card.split.pool,
        seed=card.seed,
    )
    task.check_size(task.size(card.probe.labels))
    content = card.encode.content
    if (card.encode.format, content) == ("h5", "vectors"):
        content = "indices"  # which HDF5 keeps, and computes the vectors from
    feature_choices(levels_of(card), card.probe, content=content, origin="the run to come")


def without_counts(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics without the long list of code counts, which stays in stage1/metrics.json."""
    return {key: value for key, value in metrics.items() if key != "code_counts"}


def find_model(codes: Codes, run: Path | None) -> Path:
    """The folder of the model that made the codes: `run` if given, else the run folder that the store lies in.

    Raises:
        ToolkitError: there is none.
    """
    for folder in [run / "stage1", run] if run else [codes.path.parent / "stage1"]:
        if (folder / "model.json").is_file():
            return folder
    raise ToolkitError(
        f"no model {'in ' + str(run) if run else 'beside ' + str(codes.path)}: give the run folder with --run RUN"
    )


def decode_codes(codes: Codes, model: Path, out: Path, *, limit: int | None, device: str, progress: Progress) -> int:
    """Turn codes back into images, one PNG each under `out`; returns how many."""
    from stage1_vqvae.reconstruct import decode
    from toolkit_datasets.atomic import output_folder
    from toolkit_datasets.images import write_image

    output_folder(out)
    rows = np.arange(len(codes) if limit is None else min(limit, len(codes)))
    files = codes.manifest["file"]
    with progress.bar("decode", len(rows), "images") as bar:
        for chosen, images in decode(model, codes, rows, device=device):
            for row, image in zip(chosen, images, strict=True):
                path = out / Path(files.iat[row]).with_suffix(".png")
                path.parent.mkdir(exist_ok=True)
                write_image(path, image)
            bar.update(len(chosen))
    return len(rows)


def run_data(run: Path, new: Path | None, labels: Path | None) -> tuple[Card, Data, bool]:
    """Card and data for encoding: those of the run, or a new folder with the run's preprocessing (third value True)."""
    card, data = read_run(run)
    if new is None:
        if labels is not None:
            raise ToolkitError("--labels labels new images: give them with --data, or train again with the table")
        return card, data, False
    source = card.source.model_copy(update={"url": "", "only_matching": False})  # other cohorts have other names
    names = card.labels.model_copy(update={"table": "", "find": ()})
    if card.source.kind not in ("images", "volumes"):  # bundled or library images say nothing of how to read a folder
        plain = load_card("folder")
        source, names = plain.source, plain.labels
    return card.model_copy(update={"source": source, "labels": names}), Data(new, labels), True
