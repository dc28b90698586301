"""Which one of several processes this is, where torchrun or a scheduler started them together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """A place among processes that were started together; alone it is rank 0 of 1."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # among those of the same machine: which GPU it takes


def this_process(environment: Mapping[str, str] = os.environ) -> Process:
    """Read RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets; a batch script may set WORLD_SIZE alone for itself.

    >>> this_process({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    Process(rank=3, count=8, local_rank=1)
    >>> this_process({"WORLD_SIZE": "8"})
    Process(rank=0, count=1, local_rank=0)
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Process()
    rank, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    return Process(rank, count, int(environment.get("LOCAL_RANK", 0)))
