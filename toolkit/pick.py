"""One image named by a user: by its id, by its person, or by a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from toolkit_datasets.card import Card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import SUFFIXES, Decoded, Unreadable, decode_file
from toolkit_datasets.nifti import read_header
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.slicing import planned
from toolkit_datasets.strip import find_tool
from toolkit_datasets.volumes import cut

SHOWN = 5  # ids that an error gives as examples
PIECE = "#"  # between a volume's id and its slice


@dataclass(frozen=True)
class Picked:
    """An image, as the model sees it."""

    name: str
    pixels: np.ndarray  # (H, W, C) uint8
    split: str  # of the run; "" for a file that is not one of its images


def pick(prepared: Prepared, word: str) -> Picked:
    """The image of `prepared` that `word` names, or that of a file.

    `word` is the path of a picture or NIfTI file, an id of samples.csv, a group (such as a subject), or either of the
    last two with `#` and a slice. Of several slices it is the middle one.

    Raises:
        ToolkitError: nothing of that name, or a file that cannot be decoded.
    """
    samples = prepared.samples[prepared.samples["status"] == "ok"]
    file = Path(word)
    name, _, piece = word.rpartition(PIECE)
    chosen = _named(samples, word)
    if not len(chosen):
        chosen = _named(samples[samples["slice"] == piece], name)
    if not len(chosen) and file.is_file():
        chosen = samples[samples["path"] == _below(file, Path(prepared.origin))]
        if not len(chosen):
            return Picked(file.name, _decoded(file, prepared.card), "")
    if not len(chosen):
        some = ", ".join(samples["id"].drop_duplicates().head(SHOWN))
        raise ToolkitError(
            f"no image {word!r}: give the path of a file, or an id or group of samples.csv, such as {some}"
        )
    row = chosen.index[len(chosen) // 2]
    return Picked(image_name(prepared, int(row)), prepared.images[row], str(samples["split"][row]))


def image_name(prepared: Prepared, row: int) -> str:
    """How a sample is called in words: its id, and its slice where it has one."""
    identity, piece = prepared.samples["id"].iat[row], prepared.samples["slice"].iat[row]
    return f"{identity}{PIECE}{piece}" if piece else str(identity)


def _named(samples: pd.DataFrame, name: str) -> pd.DataFrame:
    return samples[((samples["id"] == name) | (samples["group"] == name)) & (name != "")]


def _below(file: Path, folder: Path) -> str:
    """The path of `file` relative to `folder`, as samples.csv has it; "" where it lies elsewhere."""
    try:
        return file.resolve().relative_to(folder).as_posix()
    except ValueError:
        return ""


def _decoded(file: Path, card: Card) -> np.ndarray:
    """A file that is none of the run's, prepared as they were; of a volume the middle one of the wanted slices."""
    try:
        if file.suffix.lower() in SUFFIXES:
            return decode_file(file, card.image).pixels
        names = planned(card.slices, read_header(file)) or [""]
        tool = "" if card.slices.strip == "none" else find_tool(card.slices.strip)
        (found,) = cut(file, card, [names[len(names) // 2]], tool=tool)
        if isinstance(found, Decoded):
            return found.pixels
        raise found
    except Unreadable as error:
        raise ToolkitError(f"{file}: {error}. Give another file.") from None
