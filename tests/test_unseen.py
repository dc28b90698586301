"""What a finished run may be asked about, how it is prepared, and whether the model has learned from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import phantoms
import pytest
from PIL import Image

from toolkit.runs import read_run
from toolkit.unseen import open_unseen
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.progress import SILENT
from toolkit_datasets.volumes import cut


def heads_of(run: Path) -> list[Path]:
    return sorted((run.parent / "heads").iterdir())


def test_a_run_is_asked_about_its_test_people_unless_told_otherwise(head_run: Path) -> None:
    found = open_unseen(head_run, progress=SILENT)
    assert (found.origin, len(found.rows), len(set(found.subjects))) == ("test", 24, 6)
    assert set(found.samples["split"]) == {"test"}
    assert not found.seen.any()
    assert found.caveat == ""
    assert all(subject.startswith("IXI0") for subject in found.subjects)
    assert found.file(int(found.rows[0])).is_file()
    learned = open_unseen(head_run, split="unlabelled", progress=SILENT)
    assert not set(learned.subjects) & set(found.subjects)
    assert learned.seen.all()
    assert learned.caveat.startswith("SEEN IN TRAINING")


def test_an_empty_split_names_those_that_are_not(head_run: Path) -> None:
    with pytest.raises(ToolkitError, match=r"no image in its labelled split: choose --split test \(24 images\), --spl"):
        open_unseen(head_run, split="labelled", progress=SILENT)


def test_volumes_from_anywhere_get_the_preprocessing_of_the_run(head_run: Path, tmp_path: Path) -> None:
    first = phantoms.save(tmp_path / "a" / "b" / "someone.nii", phantoms.head((50, 60, 70), seed=90), spacing=(3, 3, 3))
    second = phantoms.save(tmp_path / "c" / "else.nii.gz", phantoms.head(seed=91), spacing=(4, 4, 4))
    (tmp_path / "c" / "not-asked-for.nii").write_text("x")
    found = open_unseen(head_run, files=[second, first, second], progress=SILENT)
    assert (found.origin, found.volumes) == ("new", True)
    assert found.subjects.tolist() == ["a/b/someone"] * 4 + ["c/else"] * 4, "in natural order"
    card, _ = read_run(head_run)
    for path, rows in ((first, found.rows[:4]), (second, found.rows[4:])):
        expected = np.stack([each.pixels for each in cut(path, card, ["0", "1", "2", "3"])])  # type: ignore[union-attr]
        assert (found.prepared.images[rows] == expected).all()
        assert found.file(int(rows[0])).samefile(path)


def test_whoever_was_in_the_training_is_recognised_under_any_name(head_run: Path, tmp_path: Path) -> None:
    learned = open_unseen(head_run, split="unlabelled", progress=SILENT)
    path = learned.file(int(learned.rows[0]))
    shutil.copy(path, tmp_path / "stranger.nii.gz")
    found = open_unseen(head_run, data=tmp_path, progress=SILENT)
    assert found.subjects.tolist() == ["stranger"] * 4
    assert found.seen.all()
    assert "the run learned from 4 of these 4 images" in found.caveat


def test_another_scan_of_somebody_in_the_training_is_remarked_upon(head_run: Path, tmp_path: Path) -> None:
    learned = open_unseen(head_run, split="unlabelled", progress=SILENT)
    name = learned.subjects[0]
    phantoms.save(tmp_path / f"{name}-Guys-9999-T1.nii.gz", phantoms.head(seed=70), spacing=(4.5, 4.5, 5.0))
    found = open_unseen(head_run, data=tmp_path, progress=SILENT)
    assert (found.namesakes, found.seen.any()) == ((name,), False)
    assert f"1 of these people are called as some whom stage 1 learned from ({name})" in found.namesakes_text


def test_pictures_for_a_run_on_pictures(digits_run: Path, tmp_path: Path) -> None:
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(paths[-1])
    found = open_unseen(digits_run, files=paths, progress=SILENT)
    assert (found.volumes, found.subjects.tolist(), found.labels.tolist()) == (False, ["0", "1", "2"], [""] * 3)
    assert found.prepared.images[found.rows[2]].tolist() == [[[120]] * 8] * 8
    (tmp_path / "labels.csv").write_text("file,label\n1.png,seven\n")
    named = open_unseen(digits_run, data=tmp_path, labels=tmp_path / "labels.csv", progress=SILENT)
    assert named.labels.tolist() == ["", "seven", ""]
    own = open_unseen(digits_run, split="labelled", progress=SILENT)
    assert len(own.rows) == 40
    assert set(own.labels) <= set("0123456789")


def test_grey_slices_are_welcome_to_a_run_on_volumes(head_run: Path, tmp_path: Path) -> None:
    found = open_unseen(head_run, progress=SILENT)
    picture = found.prepared.images[found.rows[1]]
    Image.fromarray(picture.squeeze(-1)).save(tmp_path / "case_001_slice_0.nii.png")
    new = open_unseen(head_run, files=[tmp_path / "case_001_slice_0.nii.png"], progress=SILENT)
    assert (new.volumes, new.origin) == (False, "new")
    assert (new.prepared.images[new.rows[0]] == picture).all()


def test_what_cannot_be_taken_says_why(head_run: Path, digits_run: Path, tmp_path: Path) -> None:
    scan, picture, other = tmp_path / "a.nii.gz", tmp_path / "b.png", tmp_path / "c.txt"
    for path in (scan, picture, other):
        path.write_text("x")
    for run, files, words in (
        (head_run, [tmp_path / "none.nii"], ["no file", "none.nii"]),
        (head_run, [tmp_path], ["is a folder", "--data"]),
        (head_run, [other], ["c.txt is no image", ".nii.gz", ".png"]),
        (head_run, [scan, picture], ["a.nii.gz is a volume", "b.png a picture"]),
        (digits_run, [scan], ["a.nii.gz is a volume", "learned from pictures"]),
        (head_run, [scan], ["none of the 1 volumes", "not gzip-compressed"]),
        (tmp_path, [scan], ["no run folder", "toolkit train"]),
    ):
        with pytest.raises(ToolkitError) as error:
            open_unseen(run, files=files, progress=SILENT)
        for word in words:
            assert word in str(error.value)
    with pytest.raises(ToolkitError, match="exclude each other"):
        open_unseen(head_run, split="test", data=tmp_path, progress=SILENT)


def test_a_run_whose_images_changed_is_refused(head_run: Path, tmp_path: Path) -> None:
    shutil.copytree(head_run.parent, tmp_path / "copy")
    run, heads = tmp_path / "copy" / "run", tmp_path / "copy" / "heads"
    text = (run / "run.json").read_text().replace(str(head_run.parent / "heads"), str(heads))
    (run / "run.json").write_text(text)
    assert len(open_unseen(run, progress=SILENT).rows) == 24
    learned = set(open_unseen(run, split="unlabelled", progress=SILENT).samples["path"])
    (heads / min(learned)).unlink()
    with pytest.raises(ToolkitError, match="The images changed since the training"):
        open_unseen(run, progress=SILENT)
