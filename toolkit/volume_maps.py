"""Error maps of whole volumes, as NIfTI files on the voxels of the scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stage1_vqvae.anomaly import Maps
from toolkit_datasets.codes.names import safe_name
from toolkit_datasets.restore import restored, write_nifti

from .layouts import Layouts

WRITTEN = {
    "error": "absolute error, 1 = black to white; NaN: not looked at",
    "anomaly": "blurred error, sd above healthy; NaN: not looked at",
}
"""Name of each file -> what its header says."""


class VolumeMaps:
    """Gathers maps slice by slice, and writes those of a volume when the next one begins.

    Args:
        out: the folder to write to.
        samples: the sample table; slices of a volume are asked for in one go.
        layouts: where they lie.
    """

    def __init__(self, out: Path, samples: pd.DataFrame, layouts: Layouts) -> None:
        self._out, self._samples, self._layouts = out, samples, layouts
        self._path = ""
        self._maps: dict[str, dict[str, np.ndarray]] = {}  # file -> slice -> (H, W)
        self.files: list[str] = []

    def add(self, rows: np.ndarray, maps: Maps) -> None:
        """Keep the maps of `rows` of the sample table."""
        arrays = {"error": maps.error.cpu().numpy(), "anomaly": maps.deviation.cpu().numpy()}
        for place, row in enumerate(rows):
            path, piece = self._samples["path"].iat[row], self._samples["slice"].iat[row]
            if path != self._path:
                self.close()
                self._path = path
            for name, array in arrays.items():
                self._maps.setdefault(name, {})[piece] = array[place]

    def close(self) -> None:
        """Write what is left."""
        for name, slices in self._maps.items():
            layout = self._layouts.of(self._path)
            nothing = np.full_like(next(iter(slices.values())), np.nan)  # of slices that were left out as empty
            pictures = np.stack([slices.get(piece, nothing) for piece in self._layouts.names(self._path)])
            stem = safe_name(str(self._samples["id"][self._samples["path"] == self._path].iat[0]))
            path = self._out / f"{stem}_{name}.nii.gz"
            write_nifti(
                path, restored(pictures, layout), like=self._layouts.file(self._path), description=WRITTEN[name]
            )
            self.files.append(path.name)
        self._maps = {}
