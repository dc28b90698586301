"""Torchvision's classes as a source of images, without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit_datasets.card import load_card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import prepare
from toolkit_datasets.torchvision_items import torchvision_items


def test_fake_data_gives_names_labels_and_pictures(tmp_path: Path) -> None:
    from torchvision.datasets import FakeData

    items = torchvision_items("FakeData", {"size": 12, "num_classes": 3}, tmp_path)
    truth = FakeData(size=12, num_classes=3)
    assert items.names == tuple(f"{i:02d}" for i in range(12))
    assert items.labels == tuple(str(truth[i][1]) for i in range(12))
    assert np.array_equal(np.asarray(items.image(7)), np.asarray(truth[7][0]))


def test_unknown_class_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"'MINST': torchvision\.datasets has .*CIFAR10, .*MNIST, .*OxfordIIITPet"):
        torchvision_items("MINST", {}, tmp_path)


@pytest.mark.parametrize("name", ["__name__", "VisionDataset", "utils", "wrap_dataset_for_transforms_v2"])
def test_only_dataset_classes_are_taken(tmp_path: Path, name: str) -> None:
    with pytest.raises(ToolkitError, match=r"torchvision\.datasets has"):
        torchvision_items(name, {}, tmp_path)


def test_unknown_argument_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="FakeData does not take classes; it takes size, image_size, num_classes"):
        torchvision_items("FakeData", {"classes": 3}, tmp_path)


def pets(root: Path, *, listed: bool = True) -> dict[str, list[tuple[str, str]]]:
    """Oxford-IIIT Pet as it lies on the disk, with a handful of pictures."""
    base = root / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    random = np.random.default_rng(0)
    breeds = [("Abyssinian", 1, 1), ("beagle", 2, 2), ("boxer", 3, 2)]
    known: dict[str, list[tuple[str, str]]] = {}
    for split, first, each in (("trainval", 0, 8), ("test", 8, 4)):
        lines = []
        for name, number, species in breeds:
            for i in range(first, first + each):
                picture = f"{name}_{i}"
                pixels = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(base / "images" / f"{picture}.jpg")
                lines.append(f"{picture} {number} {species} 1")
                known.setdefault(split, []).append((picture, "Cat" if species == 1 else "Dog"))
        if listed:
            (base / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return known


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt of torchvision to download fails at once, as without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no network in this test")

    monkeypatch.setattr("torchvision.datasets.oxford_iiit_pet.download_and_extract_archive", refuse)


@pytest.mark.usefixtures("offline")
def test_pets_on_the_disk_are_read_without_a_download(tmp_path: Path) -> None:
    known = pets(tmp_path)
    arguments = {"split": "trainval+test", "target_types": "binary-category"}
    items = torchvision_items("OxfordIIITPet", arguments, tmp_path)
    assert items.names == tuple([f"trainval/{i:02d}" for i in range(24)] + [f"test/{i:02d}" for i in range(12)])
    assert list(items.labels) == [label for split in ("trainval", "test") for _, label in known[split]]
    wanted = Image.open(tmp_path / "oxford-iiit-pet" / "images" / f"{known['test'][5][0]}.jpg")
    assert np.array_equal(np.asarray(items.image(24 + 5)), np.asarray(wanted))


@pytest.mark.usefixtures("offline")
def test_pets_by_breed(tmp_path: Path) -> None:
    pets(tmp_path)
    items = torchvision_items("OxfordIIITPet", {"target_types": "category"}, tmp_path)
    assert items.labels == tuple(["Abyssinian"] * 8 + ["Beagle"] * 8 + ["Boxer"] * 8)


@pytest.mark.usefixtures("offline")
def test_pictures_as_targets_are_refused(tmp_path: Path) -> None:
    pets(tmp_path)
    trimaps = tmp_path / "oxford-iiit-pet" / "annotations" / "trimaps"
    trimaps.mkdir()
    for path in (tmp_path / "oxford-iiit-pet" / "images").iterdir():
        Image.new("L", (2, 2)).save(trimaps / f"{path.stem}.png")
    with pytest.raises(ToolkitError, match="are no classes"):
        torchvision_items("OxfordIIITPet", {"target_types": "segmentation"}, tmp_path)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("root", ["empty", "half"])
def test_without_files_and_network_the_error_says_where_they_belong(tmp_path: Path, root: str) -> None:
    if root == "half":
        pets(tmp_path / root, listed=False)
    with pytest.raises(ToolkitError, match=f"cannot load OxfordIIITPet from .*{root}.*by hand"):
        torchvision_items("OxfordIIITPet", {}, tmp_path / root)


@pytest.mark.usefixtures("offline")
def test_wrong_value_of_an_argument_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"(?s)cannot load OxfordIIITPet.*validation"):
        torchvision_items("OxfordIIITPet", {"split": "validation"}, tmp_path)


def test_two_joined_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="only one may join parts"):
        torchvision_items("OxfordIIITPet", {"split": "a+b", "target_types": "c+d"}, tmp_path)


@pytest.mark.usefixtures("offline")
def test_the_pet_card_keeps_the_publishers_test_set_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pets(tmp_path / "data")
    card = load_card("oxford-pet", ["split.unlabelled=10", "image.size=16"])
    prepared = prepare(card, tmp_path / "data")
    counts = prepared.samples.groupby("split").size().to_dict()
    assert counts == {"unlabelled": 10, "labelled": 14, "test": 12}
    test = prepared.samples[prepared.samples["split"] == "test"]
    assert test["id"].str.startswith("test/").all()
    assert set(test["label"]) == {"Cat", "Dog"}


@pytest.mark.usefixtures("offline")
def test_a_damaged_picture_of_torchvision_is_skipped_with_its_reason(tmp_path: Path) -> None:
    known = pets(tmp_path)
    row = 2  # not among the pictures that are opened to check the labels
    (tmp_path / "oxford-iiit-pet" / "images" / f"{known['trainval'][row][0]}.jpg").write_bytes(b"no picture")
    prepared = prepare(load_card("oxford-pet", ["split.unlabelled=10", "image.size=16"]), tmp_path)
    assert prepared.skipped["status"].to_dict() == {row: "not an image, or of an unknown format"}
