"""Where the slices of volumes lie, read again from the files: what it takes to cut masks, and to put maps back."""

from __future__ import annotations

from pathlib import Path

from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import Unreadable
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.volumes import Layout, read_layout


class Layouts:
    """The layouts of a prepared dataset's volumes, each read once: some numbers for each, and no voxels."""

    def __init__(self, prepared: Prepared) -> None:
        self._card, self._root = prepared.card, Path(prepared.origin)
        parts = prepared.samples.groupby("path", sort=False)["slice"]
        self._names: dict[str, list[str]] = {str(path): part.tolist() for path, part in parts}
        self._known: dict[str, Layout] = {}

    def file(self, path: str) -> Path:
        """The file of the volume."""
        return self._root / path

    def names(self, path: str) -> list[str]:
        """The slices of the volume, in the order of its layout."""
        return self._names[path]

    def of(self, path: str) -> Layout:
        """The layout of the volume.

        Raises:
            ToolkitError: it cannot be read any more.
        """
        if path not in self._known:
            try:
                self._known[path] = read_layout(self.file(path), self._card, self.names(path))
            except Unreadable as error:
                raise ToolkitError(f"{self.file(path)} {error}") from None
        return self._known[path]
