"""Giving memory back to the system, so that long passes over many images stay flat."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import numpy as np


def release_pages(images: np.ndarray) -> None:
    """Hand the pages of a read-only memory map back; the system's cache keeps them for the next reader.

    Otherwise a pass over N images would show up as N images of resident memory.
    """
    mapping = getattr(images, "_mmap", None)
    if mapping is not None and not images.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def trim_heap() -> None:
    """Let the C library return freed memory, where it can (glibc).

    A forward pass frees tensors of many sizes just below the size that glibc would map and unmap by itself. They
    leave holes: without this, scoring 20,000 images of 64x64 ended at 1.2 GB in one run and at 2.7 GB in the next.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "malloc_trim") else None
