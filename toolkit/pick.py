"""One image named by a user: by its id, by its person, or by a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress

from .unseen import open_unseen

SHOWN = 5  # ids that an error gives as examples
LEARNED = "unlabelled"  # the split that stage 1 learns from
PIECE = "#"  # between a volume's id and its slice


@dataclass(frozen=True)
class Picked:
    """An image, as the model sees it."""

    name: str
    pixels: np.ndarray  # (H, W, C) uint8
    split: str  # of the run; "" for a file that it did not learn from

    @property
    def learned(self) -> bool:
        """Whether the model may have learned from it."""
        return self.split == LEARNED


def pick(run: Path, prepared: Prepared, word: str, *, workers: int | None = None, progress: Progress) -> Picked:
    """The image that `word` names.

    Args:
        run: the run folder.
        prepared: its images.
        word: an id of samples.csv, a group of it (such as a subject), either of the two with `#` and a slice, or the
            path of a picture or volume. Of several slices it is the middle one.
        workers: decoding threads.
        progress: shows what goes on.

    Raises:
        ToolkitError: nothing of that name, or a file that cannot be decoded.
    """
    samples = prepared.samples[prepared.samples["status"] == "ok"]
    name, _, piece = word.rpartition(PIECE)
    chosen = _named(samples, word)
    if not len(chosen):
        chosen = _named(samples[samples["slice"] == piece], name)
    if len(chosen):
        row = int(chosen.index[len(chosen) // 2])
        return Picked(image_name(prepared, row), prepared.images[row], str(samples["split"][row]))
    if Path(word).is_file():
        asked = open_unseen(run, files=[Path(word)], workers=workers, progress=progress)
        middle = len(asked.rows) // 2
        shown = image_name(asked.prepared, int(asked.rows[middle]))
        return Picked(shown, asked.prepared.images[asked.rows[middle]], LEARNED if asked.seen[middle] else "")
    some = ", ".join(samples["id"].drop_duplicates().head(SHOWN))
    raise ToolkitError(f"no image {word!r}: give the path of a file, or an id or group of samples.csv, such as {some}")


def image_name(prepared: Prepared, row: int) -> str:
    """How a sample is called in words: its id, and its slice where it has one."""
    identity, piece = prepared.samples["id"].iat[row], prepared.samples["slice"].iat[row]
    return f"{identity}{PIECE}{piece}" if piece else str(identity)


def _named(samples: pd.DataFrame, name: str) -> pd.DataFrame:
    return samples[((samples["id"] == name) | (samples["group"] == name)) & (name != "")]
