"""Shared fixtures: an own cache for the session, small real images, and the real data where they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Tiny networks gain nothing from a second thread, and lose a factor of ten where another process holds the core.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["TOOLKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; tests that need it skip elsewhere, and fail where it is promised and missing."""
    named = os.environ.get("TOOLKIT_REAL_DATA")
    if not named:
        pytest.skip("needs the real images: set TOOLKIT_REAL_DATA to the folder that holds cats_vs_dogs/")
    folder = Path(named).resolve()
    assert (folder / "cats_vs_dogs" / "train").is_dir(), f"TOOLKIT_REAL_DATA={named} holds no cats_vs_dogs/train"
    return folder


@pytest.fixture(scope="session")
def digit_pictures() -> list[tuple[np.ndarray, str]]:
    """Real 8x8 digits as uint8 arrays with their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return [((image * 15.9).astype(np.uint8), str(label)) for image, label in zip(bunch.images, bunch.target)]  # noqa: B905


@pytest.fixture
def write_pictures(digit_pictures: list[tuple[np.ndarray, str]]) -> Callable[[Path, list[str]], Path]:
    """Write one distinct picture under each relative name."""

    def write(root: Path, names: list[str]) -> Path:
        for name, (image, _) in zip(names, digit_pictures, strict=False):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((32, 32)).save(root / name)
        return root

    return write
