"""Images that a finished run is asked about: one of its own splits, a folder, or single files from anywhere.

Whatever they are, they go through the run's own preprocessing, and it is known whether the model learned from them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from toolkit_datasets.card import Card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import SUFFIXES as PICTURES
from toolkit_datasets.nifti import SUFFIXES as VOLUMES
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress
from toolkit_datasets.splits import leakage

from .leakage import leakage_text
from .pipeline import open_data, run_data

SPLITS = ("test", "labelled", "unlabelled")
HELD_OUT = SPLITS[:2]  # from training, the better one first
CHANGED = (
    "The images changed since the training, so images that it learned from could end up in the test split. Restore "
    "them, or give them as new ones: --data DIR, or the files themselves."
)


@dataclass(frozen=True)
class Unseen:
    """Images for a trained model, with the model's preprocessing."""

    run: Path
    card: Card  # of the run; its source is the one of these images
    prepared: Prepared
    rows: NDArray[np.int64]  # of `prepared.samples`: the decoded ones that are asked about
    origin: str  # one of SPLITS, or "new"
    seen: NDArray[np.bool_]  # (rows,) whether the model learned from the very image
    leaking: str = ""  # what is wrong with the run's split, as a sentence; "" for nothing
    namesakes: tuple[str, ...] = ()  # new people who are called as some that the model learned from

    @property
    def samples(self) -> pd.DataFrame:
        """The rows of the sample table."""
        return self.prepared.samples.iloc[self.rows]

    @property
    def subjects(self) -> NDArray[np.str_]:
        """(rows,) Whom each image shows: its group where there is one (people, identical pictures), else its id."""
        samples = self.samples
        return np.array(samples["group"].where(samples["group"] != "", samples["id"]), dtype=str)

    @property
    def labels(self) -> NDArray[np.str_]:
        """(rows,) "" where there is none."""
        return np.array(self.samples["label"], dtype=str)

    @property
    def volumes(self) -> bool:
        """Whether the images are slices of volumes."""
        return self.card.of_volumes

    @property
    def caveat(self) -> str:
        """What every result must say before anything else; "" where these images are strangers to the model."""
        if self.origin == "unlabelled":
            return "SEEN IN TRAINING: stage 1 learned from the unlabelled split; of unseen images expect worse."
        if self.seen.any():
            return (
                f"SEEN IN TRAINING: the run learned from {int(self.seen.sum()):,} of these {len(self.rows):,} images; "
                "of unseen ones expect worse."
            )
        return self.leaking

    @property
    def namesakes_text(self) -> str:
        """A remark on people who may have been in the training with another scan; "" where there are none."""
        if not self.namesakes:
            return ""
        some = ", ".join(self.namesakes[:5]) + (" …" if len(self.namesakes) > 5 else "")
        return (
            f"{len(self.namesakes):,} of these people are called as some whom stage 1 learned from ({some}): if they "
            "are the same, they are not unseen"
        )

    def file(self, row: int) -> Path:
        """The file of a row of `prepared.samples`, where the images are files."""
        return Path(self.prepared.origin) / str(self.prepared.samples["path"].iat[row])


def open_unseen(
    run: Path,
    *,
    split: str | None = None,
    data: Path | None = None,
    files: Sequence[Path] = (),
    labels: Path | None = None,
    fail_fast: bool = False,
    workers: int | None = None,
    progress: Progress,
) -> Unseen:
    """Scan and decode (or find in the cache) what a finished run is asked about.

    Args:
        run: the run folder.
        split: one of the run's own; `test` unless `data` or `files` are given.
        data: a folder of new images, read as the run's own were; their names need not fit the card's patterns.
        files: new images, or new volumes, from any folders.
        labels: a table for the new ones.
        fail_fast: stop at the first image that does not decode.
        workers: threads for decoding; None for one per core.
        progress: shows what goes on.

    Raises:
        ToolkitError: no run, an empty split, a missing file, a kind of file that the run cannot take, or images of the
            run that changed since its training.
    """
    if sum((split is not None, data is not None, len(files) > 0)) > 1:
        raise ToolkitError(
            "a split of the run, --data DIR and single files exclude each other: choose one of the three"
        )
    if files:
        return _of_files(run, files, labels, fail_fast=fail_fast, workers=workers, progress=progress)
    card, where, new = run_data(run, data, labels)
    prepared = open_data(card, where, split=not new, fail_fast=fail_fast, workers=workers, progress=progress)
    if new:
        return _new(run, card, prepared)
    wanted = split or "test"
    asked = _of_split(run, card, prepared, wanted)
    if not len(asked.rows):
        there = {name: len(prepared.rows(name)) for name in SPLITS}
        choices = ", ".join(f"--split {name} ({count:,} images)" for name, count in there.items() if count)
        raise ToolkitError(
            f"{run} has no image in its {wanted} split: choose {choices}, or give new ones with --data DIR or as files"
        )
    return asked


def open_held_out(run: Path, *, workers: int | None = None, progress: Progress) -> Unseen:
    """The run's own images that stage 1 did not learn from: test, else labelled, else those it kept for validation.

    Raises:
        ToolkitError: no run, or its images are gone or changed.
    """
    from stage1_vqvae.holdout import split_validation

    card, where, _ = run_data(run, None, None)
    prepared = open_data(card, where, workers=workers, progress=progress)
    for split in HELD_OUT:
        asked = _of_split(run, card, prepared, split)
        if len(asked.rows):
            return asked
    asked = _of_split(run, card, prepared, "unlabelled")
    _, kept = split_validation(prepared.samples, asked.rows, share=card.train.validation, seed=card.seed)
    return replace(asked, rows=kept, seen=np.zeros(len(kept), dtype=bool))


def _of_split(run: Path, card: Card, prepared: Prepared, split: str) -> Unseen:
    from stage1_vqvae.training_state import check_belongs

    check_belongs(prepared, run / "stage1", advice=CHANGED)
    rows, found = prepared.rows(split), leakage(prepared.samples)
    seen = np.full(len(rows), split == "unlabelled")
    return Unseen(run, card, prepared, rows, split, seen, leakage_text(found) if found else "")


def _of_files(
    run: Path,
    files: Sequence[Path],
    labels: Path | None,
    *,
    fail_fast: bool,
    workers: int | None,
    progress: Progress,
) -> Unseen:
    own = run_data(run, None, None)[0]
    kind = _kind_of(files, own)
    places = list(dict.fromkeys(Path(os.path.normpath(file.absolute())) for file in files))
    root = Path(os.path.commonpath([place.parent for place in places]))
    card, where, _ = run_data(run, root, labels)
    if kind == "images" and own.of_volumes:
        card = card.model_copy(update={"source": card.source.model_copy(update={"kind": "images", "patterns": ()})})
        progress.say(
            "note: pictures for a run on volumes are taken as slices already cut, windowed and oriented as its own"
        )
    names = [place.relative_to(root).as_posix() for place in places]
    prepared = open_data(card, where, files=names, split=False, fail_fast=fail_fast, workers=workers, progress=progress)
    return _new(run, card, prepared)


def _kind_of(files: Sequence[Path], card: Card) -> Literal["images", "volumes"]:
    """Pictures or volumes, by their names.

    Raises:
        ToolkitError: one is missing or a folder, they are of both kinds or of neither, or volumes for a run on
            pictures.
    """
    for file in files:
        if file.is_dir():
            raise ToolkitError(f"{file} is a folder: give it with --data {file}")
        if not file.exists():
            raise ToolkitError(f"there is no file {file}: check the path")
    scans = [file for file in files if file.name.lower().endswith(VOLUMES)]
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    if other := [file for file in files if file not in scans and file not in pictures]:
        takes = f"volumes ({' '.join(VOLUMES)}) and " if card.of_volumes else ""
        raise ToolkitError(
            f"{other[0]} is no image by its name: this run takes {takes}pictures ({' '.join(sorted(PICTURES))})"
        )
    if scans and pictures:
        raise ToolkitError(
            f"{scans[0]} is a volume and {pictures[0]} a picture: give them to two commands, each with its own --out"
        )
    if scans and card.source.kind != "volumes":
        raise ToolkitError(
            f"{scans[0]} is a volume, and the run learned from pictures ({card.title}): its card says nothing "
            f"of which slices to take. Give it pictures ({' '.join(sorted(PICTURES))}), or ask a run on volumes"
        )
    return "volumes" if scans else "images"


def _new(run: Path, card: Card, prepared: Prepared) -> Unseen:
    rows = prepared.rows("new")
    samples, learned = prepared.samples.iloc[rows], _learned_from(run)
    seen = samples["sha256"].isin(set(learned["sha256"]) - {""}).to_numpy(dtype=bool)
    namesakes: tuple[str, ...] = ()
    if card.of_volumes:  # pictures are called 1, 2, 3 in every folder
        strangers = samples["group"][~seen]
        namesakes = tuple(strangers[strangers.isin(set(learned["group"]))].drop_duplicates())
    return Unseen(run, card, prepared, rows, "new", seen, namesakes=namesakes)


def _learned_from(run: Path) -> pd.DataFrame:
    """The files that stage 1 learned from: sha256 and group."""
    path, columns = run / "samples.csv", ["split", "sha256", "group"]
    if not path.is_file():
        return pd.DataFrame(columns=columns, dtype=str)
    samples = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=columns)
    return samples[samples["split"] == "unlabelled"]
