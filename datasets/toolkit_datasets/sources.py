"""Sources: where the images of a card come from, behind one small interface."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .cache import stamp
from .card import Card
from .errors import ToolkitError
from .images import Decoded, Unreadable, decode_file, decode_image, reasons
from .progress import Progress
from .samples import Scan, file_table, scan_images

BUILTIN = ("digits",)


class Source(Protocol):
    """Files of images that can be listed and then decoded one by one, from several threads."""

    origin: str  # the place, for messages and the cache's key
    recipe: Mapping[str, Any]  # all settings that decide the decoded pixels, for the cache's key
    scan: Scan

    def stamps(self, paths: Sequence[str]) -> list[str]:
        """What tells a changed image from an unchanged one."""

    def decode(self, path: str, slices: Sequence[str]) -> Sequence[Decoded | Unreadable]:
        """Decode one file of `scan.samples.path`: a result for each of its slices, `[""]` for a picture.

        Raises:
            Unreadable: nothing of the file can be had.
        """


def open_source(
    card: Card, data: Path | None, labels: Path | None, progress: Progress, *, files: Collection[str] | None = None
) -> Source:
    """The source that the card describes, with `data` as its folder, and of that only `files` where they are named.

    Raises:
        ToolkitError: the card needs a folder and none is given, or there is nothing usable in it.
    """
    if card.source.kind == "builtin":
        if card.source.dataset not in BUILTIN:
            raise ToolkitError(f"source.dataset = {card.source.dataset!r}: bundled sets are {', '.join(BUILTIN)}")
        return Digits(card, labels)
    if data is None:
        raise ToolkitError(
            f"the card {card.name} needs --data DIR. {card.source.how_to_get}"
            + (f" See {card.source.homepage}" if card.source.homepage else "")
        )
    if card.source.kind == "torchvision":
        return Torchvision(card, data, labels, progress)
    if card.source.url:
        from .download import obtain

        obtain(card.source.url, card.source.sha256, data, progress=progress)
    if card.of_volumes:
        from .volumes import Volumes

        return Volumes(card, data, labels, files=files)
    return Folder(card, data, labels, files=files)


class Folder:
    """Image files below a folder."""

    def __init__(self, card: Card, root: Path, labels: Path | None, *, files: Collection[str] | None = None) -> None:
        self.origin, self._root, self._wanted = str(root.resolve()), root, card.image
        self.recipe: Mapping[str, Any] = card.image.model_dump()
        self.scan = scan_images(root, card, labels, files=files)

    def stamps(self, paths: Sequence[str]) -> list[str]:
        """Size and time of change of each file."""
        return [stamp(self._root, path) for path in paths]

    def decode(self, path: str, slices: Sequence[str] = ("",)) -> list[Decoded | Unreadable]:
        """Decode one file."""
        return [decode_file(self._root / path, self._wanted)]


class Listed:
    """Images that a library hands over, each with a name and a label."""

    def __init__(self, card: Card, names: list[str], labels_of: list[str], labels: Path | None) -> None:
        self._wanted = card.image
        self.recipe: Mapping[str, Any] = card.image.model_dump()
        self._row = {name: row for row, name in enumerate(names)}
        numbers = [name.rpartition("/")[2] for name in names]
        known = card.labels.names
        labels_used = [known.get(label, "") if known else label for label in labels_of]
        scan = file_table(names, card, None, labels)
        table = scan.samples.assign(number=numbers)
        if scan.table is None:
            table["label"] = labels_used
        if card.split.test_part:
            table["part"] = [name.partition("/")[0] for name in names]
        self.scan = replace(scan, samples=table)

    def stamps(self, paths: Sequence[str]) -> list[str]:
        """The library's data do not change under a given version."""
        return ["" for _ in paths]


class Digits(Listed):
    """The 1,797 handwritten digits that come with scikit-learn, 8x8 with values 0 to 16."""

    def __init__(self, card: Card, labels: Path | None) -> None:
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        self.origin = "scikit-learn digits"
        self._images: NDArray[np.uint8] = (bunch.images * (255 / 16)).round().astype(np.uint8)
        super().__init__(card, [f"{i:04d}" for i in range(len(self._images))], [str(y) for y in bunch.target], labels)

    def decode(self, path: str, slices: Sequence[str] = ("",)) -> list[Decoded | Unreadable]:
        """Enlarge one digit."""
        from PIL import Image

        row = self._row[path]
        with reasons():
            return [decode_image(Image.fromarray(self._images[row]), self._wanted)]


class Torchvision(Listed):
    """A dataset class of torchvision, downloaded by it where it is not on the disk yet."""

    def __init__(self, card: Card, root: Path, labels: Path | None, progress: Progress) -> None:
        from .torchvision_items import torchvision_items

        self._items = torchvision_items(card.source.dataset, card.source.arguments, root, progress=progress)
        self.origin = f"{root.resolve()} {card.source.dataset} {card.source.arguments}"
        names, labels_of = self._items.names, self._items.labels
        super().__init__(card, list(names), list(labels_of), labels)

    def decode(self, path: str, slices: Sequence[str] = ("",)) -> list[Decoded | Unreadable]:
        """Let torchvision open one image, and fit it."""
        row = self._row[path]
        with reasons():
            return [decode_image(self._items.image(row), self._wanted)]
