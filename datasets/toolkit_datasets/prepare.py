"""From a card and a folder to samples, splits and decoded images: what every command starts from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .alike import alike
from .cache import decoded, is_fault
from .card import Card
from .card_data import Split
from .errors import ToolkitError
from .images import EMPTY
from .progress import SILENT, Progress
from .samples import Scan, natural_key
from .sources import open_source
from .splits import assign, assign_groups, rank, scaled
from .targets import check_numbers


@dataclass(frozen=True)
class Prepared:
    """A dataset, ready for both stages."""

    card: Card
    samples: pd.DataFrame  # samples.COLUMNS, one row for each sample, all text
    images: NDArray[np.uint8]  # memory map (N, H, W, C); row i belongs to row i of `samples`; zeros where skipped
    details: pd.DataFrame  # mode, width, height as stored, window and foreground (see images.Decoded) of each sample
    origin: str
    ignored: int  # files that are no images by name
    notes: tuple[str, ...] = ()
    scan: Scan | None = None  # what was known before decoding: table, exclusions, demographics, volumes

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Row numbers of the decoded samples in these splits, ascending."""
        chosen = self.samples["split"].isin(splits) & (self.samples["status"] == "ok")
        return np.flatnonzero(chosen.to_numpy())

    @property
    def skipped(self) -> pd.DataFrame:
        """The samples that should decode and do not; empty slices are not among them."""
        return self.samples[is_fault(self.samples["status"])]

    @property
    def empty(self) -> pd.DataFrame:
        """The slices left out because they show nothing."""
        return self.samples[self.samples["status"].str.startswith(EMPTY)]

    @property
    def skipped_files(self) -> list[tuple[str, str]]:
        """Path and reason of each file in `skipped`, once where all its slices share the reason."""
        skipped = self.skipped
        return list(dict.fromkeys(zip(skipped["path"], skipped["status"], strict=True)))


def prepare(
    card: Card,
    data: Path | None,
    *,
    labels: Path | None = None,
    files: Collection[str] | None = None,
    limit: int | None = None,
    split: bool = True,
    fail_fast: bool = False,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Prepared:
    """Scan, decode (or find in the cache) and split the dataset of a card.

    Args:
        card: says how.
        data: the folder, where the card needs one.
        labels: a table that labels some or all images.
        files: relative paths of those to take from the folder; None for all that fit the card.
        limit: use this many files, chosen by the seed, and shrink the split's counts in proportion.
        split: False marks every decoded sample as `new`, for a trained model to encode.
        fail_fast: stop at the first image that does not decode.
        workers: threads for decoding; None for one per core.
        progress: shows what goes on.

    Raises:
        ToolkitError: see `open_source`, `check_numbers`, `decoded` and `assign`.
    """
    source = open_source(card, data, labels, progress, files=files)
    scan, wanted = source.scan, card.split
    samples = scan.samples
    if split and card.labels.kind == "continuous":  # labels of images that are only encoded teach nobody
        check_numbers(samples, scan.table)
    files = samples["path"].drop_duplicates().tolist()
    if limit is not None and limit < len(files):
        wanted = scaled(wanted, limit / max(len(files), _counted(wanted)))
        chosen = _limited(samples, limit, card.split_seed)
        samples = samples[samples["path"].isin(chosen)].reset_index(drop=True)
    decodings = decoded(
        samples["path"].tolist(),
        samples["slice"].tolist(),
        source.decode,
        stamps=source.stamps,
        recipe=source.recipe,
        geometry=card.image,
        origin=source.origin,
        fail_fast=fail_fast,
        workers=workers,
        progress=progress,
    )
    details = decodings.details
    samples = samples.assign(status=details["status"], sha256=details["sha256"], position=details["position"])
    if not (samples["status"] == "ok").any():
        raise ToolkitError(
            f"none of the {len(samples)} images of {source.origin} could be decoded; the first: "
            f"{samples['path'].iat[0]}: {samples['status'].iat[0]}"
        )
    same = [details["pixels"].tolist()]
    if split and card.split.near_duplicates:
        numbers = alike(decodings.images, card.split.near_duplicates, progress=progress)
        same.append([str(number) for number in numbers])
    samples["group"] = _joined_groups(samples, *same)
    if split:
        by_group = assign_groups if card.counts_groups else assign
        samples["split"] = by_group(samples, wanted, card.split_seed, kind=card.labels.kind)
    else:
        samples["split"] = np.where(samples["status"] == "ok", "new", "")
    kept = details[["mode", "width", "height", "window", "foreground"]]
    return Prepared(card, samples, decodings.images, kept, source.origin, scan.ignored, scan.notes, scan)


def _limited(samples: pd.DataFrame, limit: int, seed: int) -> set[str]:
    """Paths of the first `limit` files in the seeded order."""
    files = samples.drop_duplicates("path")
    ranked = sorted(zip(files["id"], files["path"], strict=True), key=lambda pair: rank(seed, str(pair[0])))
    return {path for _, path in ranked[:limit]}


def _counted(split: Split) -> int:
    return sum(size for size in (split.unlabelled, split.labelled, split.test) if isinstance(size, int))


def _joined_groups(samples: pd.DataFrame, *same: list[str]) -> list[str]:
    """Groups such that samples of one group, or with the same text in `same`, stay together; "" for a lone sample.

    A group is named after its first sample where the card names none.
    """
    own, ids = samples["group"].tolist(), samples["id"].tolist()
    parent = list(range(len(samples)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in (own, *same):
        first: dict[str, int] = {}
        for row, value in enumerate(column):
            if value:
                a, b = root(first.setdefault(value, row)), root(row)
                parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = defaultdict(list)
    for row in range(len(samples)):
        members[root(row)].append(row)
    groups = [""] * len(samples)
    for head, rows in members.items():
        named = min({own[row] for row in rows} - {""}, key=natural_key, default="")
        if named or len(rows) > 1:
            for row in rows:
                groups[row] = named or ids[head]
    return groups
