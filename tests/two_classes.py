"""A store of cats and dogs whose made-up codes tell the class, and images to compare with, for tests of the probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tiny_store import sample_table, splits_of, store_of

from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import Codes

QUICK = Probe(labels=20, draws=3, curve=(10, 20), features="histogram")


def samples(*, n: int, slices: int = 1) -> pd.DataFrame:
    """n images of two classes; `slices` of them make a subject. 1 : 2 : 4 unlabelled, labelled, test."""
    subject = np.arange(n) // slices
    return sample_table(
        [f"{'cat' if s % 2 else 'dog'}.{i}" for i, s in enumerate(subject)],
        label=np.where(subject % 2, "cat", "dog"),
        group=[f"g{s}" for s in subject],
        split=splits_of(subject // 2),
    )


def store(path: Path, table: pd.DataFrame, *, signal: float = 0.5, **options: str) -> Codes:
    """A store whose codes tell the class: with chance `signal` one is of the class's own half."""
    rng = np.random.default_rng(0)
    shape = (len(table), 1, 4, 4)
    own = rng.integers(0, 4, shape) + 4 * (table["label"] == "cat").to_numpy()[:, None, None, None]
    return store_of(path, table, np.where(rng.random(shape) < signal, own, rng.integers(0, 8, shape)), **options)


def telling_images(codes: Codes) -> dict[str, np.ndarray]:
    """Pixels that know the class a little, HOG that knows nothing, and features that are the label itself."""
    rng = np.random.default_rng(1)
    is_cat = (codes.manifest["label"] == "cat").to_numpy()
    return {
        "pixels": np.clip(rng.normal(120 + 20 * is_cat[:, None], 40, (len(is_cat), 48)), 0, 255).astype(np.uint8),
        "hog": rng.normal(size=(len(is_cat), 10)).astype(np.float32),
        "random": (rng.normal(size=(len(is_cat), 6)) * 0.01 + is_cat[:, None]).astype(np.float32),
    }
