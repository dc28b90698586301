"""A tiny dataset of real digits, and a progress that acts at a given batch, for the tests of stage 1's training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from toolkit_datasets.card import card_from
from toolkit_datasets.prepare import Prepared

SPLITS = {"unlabelled": 80, "labelled": 12, "test": 20, "unused": 4}


def digits(
    splits: dict[str, int] = SPLITS,
    *,
    seed: int = 0,
    vqvae: dict[str, Any] | None = None,
    tables: dict[str, Any] | None = None,
    **keys: Any,
) -> Prepared:
    """Real digits, 8x8; `vqvae` and `keys` (of `[train]`) go over the tiny settings, `tables` are further ones."""

    images = (load_digits().images[: sum(splits.values())] * 15.9).astype(np.uint8)[..., None]
    n = len(images)
    samples = pd.DataFrame({"id": [f"d{i:03d}" for i in range(n)]})
    for column in ("path", "slice", "label", "group", "sha256", "number"):
        samples[column] = ""
    samples["split"] = [split for split, count in splits.items() for _ in range(count)]
    samples["status"] = "ok"
    card = card_from(
        {
            "title": "digits",
            "seed": seed,
            "image": {"size": 8, "channels": 1},
            "train": {"epochs": 3, "batch_size": 16, "validation": 0.1, **keys},
            "vqvae": {"stride": 4, "width": 8, "blocks": 1, "codebook_size": 16, "code_dim": 4, **(vqvae or {})},
            "encode": {"batch_size": 32},
            **(tables or {}),
        },
        origin="test",
    )
    return Prepared(card=card, samples=samples, images=images, details=samples[[]], origin="test", ignored=0)


class Acting:
    """A progress that acts at the n-th batch of training."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at, self.act, self.seen, self.title = at, act, 0, ""
        self.postfix = ""

    @contextmanager
    def bar(self, title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Acting]:
        self.title = title
        yield self

    def update(self, n: int = 1) -> None:
        if self.title in ("agree", "train"):
            self.seen += 1
            if self.seen == self.at:
                self.act()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        self.postfix = s

    def say(self, line: str) -> None: ...


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def kill() -> None:
    raise RuntimeError("killed")
