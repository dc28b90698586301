"""Masks of lesions: a file of the same name for each image or volume, brought into the pixels that the model sees.

Whatever is not 0 is lesion, so masks with several numbers serve too. An image without a mask has no lesion.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit_datasets.card import Card
from toolkit_datasets.card_data import Image as Geometry
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import SUFFIXES as PICTURES
from toolkit_datasets.images import Unreadable, fit, reasons
from toolkit_datasets.nifti import SUFFIXES as VOLUMES
from toolkit_datasets.nifti import read_volume
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.samples import stem_of
from toolkit_datasets.slicing import AXES, plane
from toolkit_datasets.volumes import Layout

from .layouts import Layouts

HALF = 127  # of a mask drawn in 0 and 255: above it at least half of the pixel is lesion


class Masks:
    """The masks of images, read when they are asked for; those of one volume at a time are kept.

    Args:
        root: their folder.
        prepared: the images.
        rows: those that will be asked for.
        layouts: where the slices of volumes lie.

    Attributes:
        missing: how many of the files asked about have no mask.
        files: how many files are asked about.

    Raises:
        ToolkitError: no folder, no mask for any image, or several for one.
    """

    def __init__(self, root: Path, prepared: Prepared, rows: np.ndarray, layouts: Layouts | None) -> None:
        self._card, self._layouts, self._root = prepared.card, layouts, root
        self._samples = prepared.samples
        suffixes = VOLUMES if layouts else tuple(PICTURES)
        by_path, by_name = _listed(root, suffixes)
        paths = self._samples["path"].iloc[rows].drop_duplicates().tolist()
        self._file: dict[str, Path] = {}
        for path in paths:
            stem = stem_of(path)
            found = [by_path[stem]] if stem in by_path else by_name[stem.rpartition("/")[2]]
            if len(found) > 1:
                raise ToolkitError(
                    f"{path} may have the mask {found[0]} or {found[1]}: lay masks out in folders as the images are"
                )
            if found:
                self._file[path] = found[0]
        if not self._file:
            known = next((str(each) for each in by_path.values()), "none")
            raise ToolkitError(
                f"no file in {root} is named as an image is, such as {stem_of(paths[0])}{suffixes[0]}; "
                f"there is: {known}"
            )
        self.files, self.missing = len(paths), len(paths) - len(self._file)
        self._kept: tuple[str, np.ndarray] = ("", np.zeros(0))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The masks (n, H, W) bool of rows of the sample table.

        Raises:
            ToolkitError: a mask cannot be read, or does not lie on its image.
        """
        size = self._card.image.size
        out = np.zeros((len(rows), size, size), bool)
        for place, row in enumerate(rows):
            path, piece = self._samples["path"].iat[row], self._samples["slice"].iat[row]
            file = self._file.get(path)
            if file is None:
                continue
            if path != self._kept[0]:
                self._kept = (path, self._read(path, file))
            number = self._layouts.names(path).index(piece) if self._layouts else 0
            out[place] = self._kept[1][number]
        return out

    def _read(self, path: str, file: Path) -> np.ndarray:
        """All slices of a volume's mask, or a picture's only one."""
        try:
            if self._layouts:
                return volume_mask(file, self._layouts.of(path), self._card)
            return picture_mask(file, self._card)[None]
        except Unreadable as error:
            raise ToolkitError(f"the mask {file} {error}") from None


def volume_mask(file: Path, layout: Layout, card: Card) -> np.ndarray:
    """The slices (n, H, W) bool of the mask in `file`, cut exactly as those of its volume were.

    Raises:
        Unreadable: it is no volume, or lies on another voxel grid.
    """
    volume = read_volume(file)
    mine, theirs = volume.header, layout.header
    if mine.stored != theirs.stored or not np.allclose(mine.affine, theirs.affine, atol=0.05):
        shapes = " and ".join("x".join(map(str, each.stored)) for each in (mine, theirs))
        raise Unreadable(f"does not lie on its volume's voxels ({shapes} voxels, or another affine): resample it")
    drawn = np.where(np.nan_to_num(volume.data) != 0, np.float32(255), np.float32(0))
    last = mine.shape[AXES[layout.axis]] - 1
    out = np.zeros((len(layout.places), card.image.size, card.image.size), bool)
    for number, place in enumerate(layout.places):
        if 0 <= place.index <= last:
            out[number] = layout.frame.picture(plane(drawn, layout.axis, place.index), card.image.size) > HALF
    return out


def picture_mask(file: Path, card: Card) -> np.ndarray:
    """The mask (H, W) bool in the picture `file`, fitted as its image was.

    Raises:
        Unreadable: it is no picture.
    """
    geometry = Geometry(size=card.image.size, channels=1, fit=card.image.fit)
    with reasons(), Image.open(file) as image:
        drawn = Image.fromarray(np.where(np.asarray(image.convert("L")) > 0, 255, 0).astype(np.uint8))
        return fit(drawn, geometry)[..., 0] > HALF


def _listed(root: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Files below `root`: by their relative path, and by their bare name, both without suffix."""
    if not root.is_dir():
        raise ToolkitError(f"no folder {root}: give the folder of the masks with --masks")
    by_path, by_name = {}, defaultdict(list)
    for file in sorted(root.rglob("*")):
        if file.name.lower().endswith(suffixes) and not file.name.startswith("."):
            stem = stem_of(file.relative_to(root).as_posix())
            by_path[stem] = file
            by_name[stem.rpartition("/")[2]].append(file)
    return by_path, by_name
