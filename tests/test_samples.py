import re
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit_datasets.card import load_card
from toolkit_datasets.codes import file_names
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import Unreadable
from toolkit_datasets.prepare import prepare
from toolkit_datasets.samples import natural_key, scan_images
from toolkit_datasets.sources import Digits

Write = Callable[[Path, list[str]], Path]


@pytest.mark.parametrize(
    "layout",
    [
        ["train/cat.0.jpg", "train/cat.10.jpg", "train/dog.2.jpg"],
        ["PetImages/Cat/0.jpg", "PetImages/Cat/10.jpg", "PetImages/Dog/2.jpg"],
        ["cats/0.jpg", "cats/a10.jpg", "dogs/b2.jpg"],
    ],
)
def test_cats_vs_dogs_reads_all_three_layouts(layout: list[str], tmp_path: Path, write_pictures: Write) -> None:
    scan = scan_images(write_pictures(tmp_path, layout), load_card("cats-vs-dogs"))
    assert scan.samples["path"].tolist() == layout  # natural order: 2 before 10 within a name
    assert scan.samples["label"].tolist() == ["cat", "cat", "dog"]
    assert scan.samples["number"].tolist() == ["0", "10", "2"]


def test_other_names_have_no_label(tmp_path: Path, write_pictures: Write) -> None:
    scan = scan_images(write_pictures(tmp_path, ["test1/17.jpg", "cat.1.jpg", "bird.1.jpg"]), load_card("cats-vs-dogs"))
    assert dict(zip(scan.samples["id"], scan.samples["label"], strict=True)) == {
        "bird.1": "",
        "cat.1": "cat",
        "test1/17": "",
    }


def test_a_folder_with_subfolders_without_and_flat(tmp_path: Path, write_pictures: Write) -> None:
    scan = scan_images(
        write_pictures(tmp_path, ["oak/leaf 1.png", "elm/x/2.png", "unlabelled/3.png", "4.png"]), load_card("folder")
    )
    labels = dict(zip(scan.samples["path"], scan.samples["label"], strict=True))
    assert labels == {"oak/leaf 1.png": "oak", "elm/x/2.png": "elm", "unlabelled/3.png": "", "4.png": ""}


def test_hidden_and_foreign_files_are_counted_and_left_alone(tmp_path: Path, write_pictures: Write) -> None:
    write_pictures(tmp_path, ["a/1.png", ".hidden/2.png"])
    for name in ("a/Thumbs.db", "notes.txt", ".DS_Store"):
        (tmp_path / name).write_text("x")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)  # a loop
    scan = scan_images(tmp_path, load_card("folder"))
    assert scan.samples["path"].tolist() == ["a/1.png"]
    assert scan.ignored == 3


def test_a_dangling_link_is_a_skipped_sample(tmp_path: Path, write_pictures: Write) -> None:
    write_pictures(tmp_path, [f"{i}.png" for i in range(4)])
    (tmp_path / "x.png").symlink_to(tmp_path / "nowhere")
    prepared = prepare(load_card("folder"), tmp_path, split=False)
    assert dict(prepared.skipped[["path", "status"]].to_numpy()) == {
        "x.png": "cannot be read: No such file or directory"
    }


def test_a_damaged_picture_of_a_bundled_set_is_unreadable(tmp_path: Path) -> None:
    digits = Digits(load_card("digits"), None)
    digits._images = digits._images.astype(object)  # which Pillow refuses with a TypeError
    with pytest.raises(Unreadable, match="damaged"):
        digits.decode("0000")


def test_no_picture_takes_the_name_of_the_stores_codebook(tmp_path: Path, write_pictures: Write) -> None:
    scan = scan_images(write_pictures(tmp_path, ["Codebook.png", "b.png"]), load_card("folder"))
    names = dict(zip(scan.samples["id"], file_names(scan.samples), strict=True))
    assert names["b"] == "b.npy"
    assert re.fullmatch(r"Codebook-[0-9a-f]{8}\.npy", names["Codebook"])


def test_ids_keep_their_suffix_only_where_two_would_collide(tmp_path: Path, write_pictures: Write) -> None:
    scan = scan_images(write_pictures(tmp_path, ["a/1.png", "a/1.jpg", "a/2.png", "a.b/3.png"]), load_card("folder"))
    assert sorted(scan.samples["id"]) == ["a.b/3", "a/1.jpg", "a/1.png", "a/2"]


def test_a_table_labels_by_id_path_name_or_stem(tmp_path: Path, write_pictures: Write) -> None:
    data = write_pictures(tmp_path / "d", ["x/1.png", "x/2.png", "y/3.png", "y/4.png", "y/5.png"])
    (tmp_path / "t.csv").write_text("\ufeffFile;Class\nx/1;oak\nx/2.png;elm\n3.png;oak\n4;elm\nghost.png;oak\n")
    scan = scan_images(data, load_card("folder"), tmp_path / "t.csv")
    assert scan.samples["label"].tolist() == ["oak", "elm", "oak", "elm", ""]
    assert scan.notes == ("1 rows of t.csv match no file",)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file,label\nghost.png,oak\n", ["no row", "ghost.png", "1.png"]),
        ("picture,kind\n1.png,oak\n", ["picture, kind", "label", "file"]),
        ("file,label\n1.png,oak\n1.png,elm\n", ["1.png", "oak", "elm"]),
    ],
)
def test_a_wrong_table_shows_both_sides(table: str, words: list[str], tmp_path: Path, write_pictures: Write) -> None:
    data = write_pictures(tmp_path / "d", ["1.png", "2.png"])
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(ToolkitError) as error:
        scan_images(data, load_card("folder"), tmp_path / "t.csv")
    for word in words:
        assert word in str(error.value)


def test_no_images_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ToolkitError, match=r"no images found in .* \(1 other files\)"):
        scan_images(tmp_path, load_card("folder"))
    with pytest.raises(ToolkitError, match="no folder"):
        scan_images(tmp_path / "nowhere", load_card("folder"))


def test_natural_order() -> None:
    names = ["b1", "a10", "a2", "A1", "a02"]
    assert sorted(names, key=natural_key) == ["A1", "a02", "a2", "a10", "b1"]
