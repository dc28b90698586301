from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import toolkit
from PIL import Image

from toolkit_datasets.alike import alike, thumbnails


def smooth(rng: np.random.Generator, n: int, size: int = 64) -> np.ndarray:
    """(n, size, size, 1) uint8: each image is patches of 8 px in greys of its own, which no other shares."""
    return rng.integers(40, 200, (n, size // 8, size // 8, 1), np.uint8).repeat(8, 1).repeat(8, 2)


def test_brightness_contrast_noise_and_a_shift_make_no_difference_but_another_picture_does() -> None:
    rng = np.random.default_rng(0)
    images = smooth(rng, 6)
    first = images[0].astype(float)
    copies = [
        first,
        0.6 * first + 30,
        first + rng.normal(0, 8, first.shape),
        np.roll(first, 1, axis=1),
    ]
    numbers = alike(np.concatenate([images, np.clip(copies, 0, 255).astype(np.uint8)]), 0.9)
    assert len(set(numbers[:6])) == 6
    assert set(numbers[6:]) == {numbers[0]}


def test_likeness_is_handed_on_along_a_chain() -> None:
    rng = np.random.default_rng(1)
    start, end = smooth(rng, 2).astype(float)
    chain = np.stack([start + (end - start) * share for share in np.linspace(0, 1, 9)]).astype(np.uint8)
    assert np.corrcoef(thumbnails(chain)[[0, -1]])[0, 1] < 0.5, "the ends alone are not alike"
    assert len(set(alike(chain, 0.9))) == 1
    assert len(set(alike(chain[[0, 4, 8]], 0.9))) == 3, "without the links between"


@pytest.mark.parametrize("block", [7, 250])
def test_those_joined_are_those_that_correlate(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_datasets.alike.BLOCK", block)
    rng = np.random.default_rng(2)
    images = np.concatenate([smooth(rng, 30), rng.integers(0, 255, (3, 64, 64, 1), np.uint8)])
    mixed = (0.5 * images[rng.permutation(33)] + 0.5 * images).astype(np.uint8)
    every = np.concatenate([images, mixed])
    small = every.reshape(66, 32, 2, 32, 2).mean((2, 4)).reshape(66, -1)
    for least in (0.3, 0.6, 0.7, 0.9):
        linked = np.linalg.matrix_power((np.corrcoef(small) >= least).astype(float), 66) > 0
        numbers = alike(every, least)
        assert ((numbers[:, None] == numbers) == linked).all()


def test_flat_images_are_like_nothing() -> None:
    images = np.zeros((4, 16, 16, 3), np.uint8)
    images[1] = 200
    assert len(set(alike(images, 0.5))) == 4
    images[2, :8] = 90
    assert len(set(alike(images, 0.5))) == 4


def test_thumbnails_average_areas_of_any_size() -> None:
    rng = np.random.default_rng(3)
    for size in (8, 32, 48, 80):
        images = rng.integers(0, 255, (5, size, size, 3), np.uint8)
        side = min(size, 32)
        fine = images[0].mean(2).repeat(side, 0).repeat(side, 1)  # a whole number of its pixels in each of the small
        shrunk = fine.reshape(side, size, side, size).mean((1, 3)).ravel()
        shrunk -= shrunk.mean()
        np.testing.assert_allclose(thumbnails(images)[0], shrunk / np.linalg.norm(shrunk), atol=1e-6)


def test_near_duplicates_lie_on_one_side_of_the_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for name, image in enumerate(smooth(rng, 12, size=32)):
        for brightness in range(5):
            folder = tmp_path / "data" / ("even", "odd")[name % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0] + np.uint8(10 * brightness)).save(folder / f"{name}-{brightness}.png")
    card = ["datasets", "folder", "--data", tmp_path / "data"]
    sets = ["image.size=32", "split.near_duplicates=0.95"]
    text = toolkit(*card, sets=sets).output
    assert "60 images in 12 groups that stay on one side of the split (pixel-identical, or alike by 0.95)" in text
    assert "groups" not in toolkit(*card, sets=["image.size=32"]).output
    toolkit("prepare", *card[1:], "--out", tmp_path / "out", sets=sets)
    samples = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert (samples.groupby(samples["id"].str.split("-").str[0])["split"].nunique() == 1).all()
    assert set(samples["split"]) >= {"unlabelled", "labelled", "test"}
