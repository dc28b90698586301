"""The code store: the contract between the stages.

Stage 1 writes it through `CodeWriter`, stage 2 and everybody else reads it through `open_codes`. Two formats hold
the same content: a folder with one `.npy` file for each sample, and one HDF5 file. Several processes may write shards
of a store, which `join` makes one.
"""

from .layout import CONTENTS, Level, StoreInfo, lookup, match, versions
from .names import file_names, manifest_of, safe_name
from .reader import Codes, open_codes
from .shard_files import shards_folder
from .shards import Shard, join, of_same_store
from .writer import CodeWriter, fingerprint, is_finished

__all__ = [
    "CONTENTS",
    "CodeWriter",
    "Codes",
    "Level",
    "Shard",
    "StoreInfo",
    "file_names",
    "fingerprint",
    "is_finished",
    "join",
    "lookup",
    "manifest_of",
    "match",
    "of_same_store",
    "open_codes",
    "safe_name",
    "shards_folder",
    "versions",
]
