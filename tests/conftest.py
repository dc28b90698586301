"""Shared fixtures: an own cache for the session, small real images, and the real data where they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantoms
import pytest
import small_runs
from commands import toolkit
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


@pytest.fixture(scope="session")
def head_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on four slices each of 14 made-up heads, six of them in its test split; the heads lie beside it."""
    folder = tmp_path_factory.mktemp("head-run")
    for i in range(14):
        phantoms.save(
            folder / "heads" / f"IXI{i + 2:03d}-{'Guys' if i % 2 else 'HH'}-{100 + i}-T1.nii.gz",
            phantoms.head(seed=i), spacing=(4.5, 4.5, 5.0), orientation=np.array([[2, 1], [0, -1], [1, 1]]),
        )  # fmt: skip
    sets = ["image.size=32", "slices.count=4", "split.unlabelled=0.6", "split.labelled=0", "train.epochs=8"]
    sets += ["vqvae.width=8", "vqvae.codebook_size=16", "train.batch_size=8", "encode.batch_size=16"]
    toolkit("train", "ixi", "--data", folder / "heads", "--out", folder / "run", sets=sets)
    return folder / "run"


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 200 of scikit-learn's digits, 40 of them in its test split; their own size, 8 px."""
    out = tmp_path_factory.mktemp("digits-run") / "run"
    sets = ["split.unlabelled=120", "split.labelled=40", "split.test=40", "train.epochs=3", "image.size=8"]
    sets += ["vqvae.stride=4", "vqvae.width=8", "vqvae.codebook_size=16", "encode.batch_size=32"]
    toolkit("train", "digits", "--out", out, sets=[*sets, "train.objective=reconstruct"])
    return out


@pytest.fixture(scope="session")
def vae_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished `toolkit run digits --objective vae`."""
    return small_runs.finished(tmp_path_factory.mktemp("runs") / "vae", "vae")


@pytest.fixture(scope="session")
def agree_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished `toolkit run digits --objective agree`."""
    return small_runs.finished(tmp_path_factory.mktemp("runs") / "agree", "agree")
