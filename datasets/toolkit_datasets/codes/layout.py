"""What a code store holds: levels, metadata, and the way between indices and vectors.

N samples, R residual depth, K codebook size, D code dimension, h w code grid.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ToolkitError

FORMAT_VERSION = 1
CONTENTS = ("vectors", "indices", "latents")
PACKAGES = (
    "vqvae-toolkit",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "h5py",
    "pandas",
    "Pillow",
    "scikit-image",
)
JOURNAL_KEYS = ("fingerprint", "rows_done", "shard", "shards")
"""What stands beside the metadata: whether an unfinished store may be carried on, and where; which part of which store
a shard is; and of a joined store its shards."""


@dataclass(frozen=True)
class Level:
    """One named code array: `indices` (N, R, h, w) that point into a `codebook` (R, K, D)."""

    name: str
    depth: int  # R
    codes: int  # K; 0: continuous latents without a codebook
    dim: int  # D
    height: int  # h
    width: int  # w

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every index."""
        return np.dtype(np.uint8 if self.codes <= 256 else np.uint16)

    @property
    def bits(self) -> float:
        """Bits of one image at this level: R h w log2 K of codes; 32 for each number of latents, not quantised."""
        if self.codes == 0:
            return 32.0 * self.dim * self.height * self.width
        return self.depth * self.height * self.width * math.log2(self.codes)

    def shape(self, content: str) -> tuple[int, ...]:
        """Shape of one sample's array as stored: (h, w) or (R, h, w) for indices, else (D, h, w)."""
        if content == "indices":
            return (self.height, self.width) if self.depth == 1 else (self.depth, self.height, self.width)
        return (self.dim, self.height, self.width)

    def dtype(self, content: str) -> np.dtype[Any]:
        """Type of one sample's array as stored."""
        return self.index_dtype if content == "indices" else np.dtype(np.float32)


@dataclass(frozen=True)
class StoreInfo:
    """The metadata of a store: `meta.json` of a folder, root attributes of an HDF5 file."""

    content: str  # one of CONTENTS
    levels: tuple[Level, ...]
    model_hash: str  # sha256 of the model that made the codes
    card: dict[str, Any]  # as resolved for that run, so also the preprocessing
    bits_per_pixel: float
    stage1: dict[str, Any] = field(default_factory=dict)  # figures and settings of the training and the encoding
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def hdf5_content(self) -> str:
        """What an HDF5 file holds: latents, else indices, from which vectors are computed."""
        return "latents" if self.content == "latents" else "indices"

    def level(self, name: str) -> Level:
        """The level called `name`."""
        for level in self.levels:
            if level.name == name:
                return level
        raise ToolkitError(f"no code level {name!r}; this store has {', '.join(x.name for x in self.levels)}")

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, origin: str) -> StoreInfo:
        """Read back `to_json`; `origin` names the store in errors."""
        if data.get("format_version") != FORMAT_VERSION:
            raise ToolkitError(
                f"{origin} has format version {data.get('format_version')!r}; this toolkit reads {FORMAT_VERSION}. "
                "Encode it again with `toolkit encode`, or install the toolkit that wrote it."
            )
        try:
            rest = {key: value for key, value in data.items() if key not in ("format_version", "levels")}
            info = cls(levels=tuple(Level(**level) for level in data["levels"]), **rest)
        except (KeyError, TypeError) as error:
            raise ToolkitError(f"the metadata of {origin} is incomplete or has unknown fields: {error}") from None
        if info.content not in CONTENTS:
            raise ToolkitError(f"{origin}: content {info.content!r} is none of {', '.join(CONTENTS)}")
        return info


def level_folder(store: Path, info: StoreInfo, level: str) -> Path:
    """Where the `.npy` files of a level lie: in the store itself, or in a subfolder each where there are several."""
    return store if len(info.levels) == 1 else store / level


def lookup(codebook: NDArray[np.float32], indices: NDArray[Any]) -> NDArray[np.float32]:
    """Quantised vectors z_q: the sum over residual depth of the codes pointed at.

    Args:
        codebook: (R, K, D) float32.
        indices: (n, R, h, w) unsigned.

    Returns:
        (n, D, h, w) float32. Summed in the order of R, so every format gives the same bits.
    """
    vectors = codebook[0][indices[:, 0]]  # (n, h, w, D)
    for depth in range(1, len(codebook)):
        vectors = vectors + codebook[depth][indices[:, depth]]
    return np.ascontiguousarray(np.moveaxis(vectors, -1, 1))


def match(codebook: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """The inverse of `lookup` for depth 1: which code each vector is, by its bits.

    Args:
        codebook: (K, D) float32.
        vectors: (n, D, h, w) float32, each one a row of the codebook.

    Returns:
        (n, h, w); where two codes are equal, the first.

    Raises:
        ToolkitError: a vector is no code, so the file is not from this codebook.
    """
    rows = np.ascontiguousarray(np.moveaxis(vectors, 1, -1), dtype=np.float32)  # (n, h, w, D)
    keys = _fingerprints(codebook)
    order = np.argsort(keys, kind="stable")
    found: NDArray[np.int64] = order[np.searchsorted(keys[order], _fingerprints(rows)).clip(max=len(keys) - 1)]
    if not np.array_equal(codebook[found], rows):
        raise ToolkitError("these vectors are not codes of this store's codebook: was a file replaced or edited?")
    return found


def _fingerprints(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A 64-bit number for each row of floats (..., D): its bits times fixed odd numbers, summed modulo 2**64."""
    odd = np.random.default_rng(0).integers(1, 2**63, rows.shape[-1], dtype=np.uint64) | np.uint64(1)
    # einsum widens a few numbers at a time: the rows as 64-bit integers would take four times their room.
    bits = np.ascontiguousarray(rows).view(np.uint32)
    total: NDArray[np.uint64] = np.einsum("...d,d->...", bits, odd, dtype=np.uint64, casting="safe")
    return total


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
