"""The code store: the contract between the stages.

Stage 1 writes it through `CodeWriter`, stage 2 and everybody else reads it through `open_codes`. Two formats hold
the same content: a folder with one `.npy` file for each sample, and one HDF5 file.
"""

from .layout import CONTENTS, Level, StoreInfo, lookup, match, versions
from .names import file_names, manifest_of, safe_name
from .reader import Codes, open_codes
from .writer import CodeWriter

__all__ = [
    "CONTENTS",
    "CodeWriter",
    "Codes",
    "Level",
    "StoreInfo",
    "file_names",
    "lookup",
    "manifest_of",
    "match",
    "open_codes",
    "safe_name",
    "versions",
]
