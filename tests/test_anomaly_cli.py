"""`toolkit anomaly` as a user types it: lesions in made-up heads and in real ones, labels, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import phantoms
import pytest
from commands import toolkit
from PIL import Image

from toolkit_datasets.intensity import window_of
from toolkit_datasets.lesions import draw_lesion, put
from toolkit_datasets.nifti import read_volume

SPACING = (4.5, 4.5, 5.0)
ORIENTATION = np.array([[1, -1], [2, 1], [0, 1]])
SETS = [
    "image.size=32",
    "slices.count=12",
    "slices.fov=192",
    "slices.start=0.1",
    "slices.stop=0.9",
    "vqvae.stride=4",
    "vqvae.width=8",
    "vqvae.codebook_size=64",
    "train.epochs=15",
    "train.batch_size=8",
    "train.objective=reconstruct",
]


def save(path: Path, data: np.ndarray, dtype: str = "int16") -> Path:
    return phantoms.save(path, data, spacing=SPACING, orientation=ORIENTATION, dtype=dtype)


def person(seed: int) -> np.ndarray:
    """The same head a little brighter or darker, with noise of its own."""
    rng = np.random.default_rng(seed)
    data = phantoms.head(seed=0)
    return (data * rng.uniform(0.9, 1.1) + rng.normal(0, 25, data.shape) * (data > 100)).astype(np.float32).clip(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of sixteen healthy heads."""
    folder = tmp_path_factory.mktemp("heads")
    rows = "".join(f"{i},{1 + i % 2}\n" for i in range(16))  # labels make a pool, which tells what is usual
    (folder / "data").mkdir()
    (folder / "data" / "IXI.csv").write_text("IXI_ID,SEX_ID\n" + rows)
    for i in range(16):
        save(folder / "data" / f"IXI{i:03d}-Guys-0{i:03d}-T1.nii.gz", person(i))
    toolkit("train", "ixi", "--data", folder / "data", "--out", folder / "run", sets=SETS)
    return folder / "run"


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four other heads with a lesion each, and a healthy one; `masks/` has none for the healthy one."""
    folder = tmp_path_factory.mktemp("patients")
    for i in range(5):
        data = person(100 + i)
        if i < 4:
            rng = np.random.default_rng(i)
            inside = data > 100
            inside[:, :, :12] = inside[:, :, 32:] = False
            lesion = draw_lesion(rng, inside, SPACING, radius=15, contrast=0.5 if i % 2 else -0.5)
            data, mask = put(data, SPACING, lesion, black_to_white=900)
            save(folder / "masks" / f"p{i}.nii.gz", mask.astype(np.float32), dtype="uint8")
        save(folder / "scans" / f"p{i}.nii.gz", data)
    return folder


def summary(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return found


@pytest.fixture(scope="module")
def found(run: Path, patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("found") / "out"
    shown = toolkit(
        "anomaly", run, "--data", patients / "scans", "--masks", patients / "masks", "--out", out, "--most", 6
    )
    assert "1 files have no mask and count as healthy" in shown.output
    assert "overview.png" in shown.output
    return out


def test_lesions_are_found_in_slices_pixels_and_people(found: Path) -> None:
    detection = summary(found)["detection"]
    assert detection["truth"] == "masks"
    assert detection["images"]["error"]["auroc"]["value"] > 0.8
    assert detection["pixels"]["error"]["auroc"]["value"] > 0.85
    assert detection["pixels"]["error"]["average_precision"]["value"] > 0.2
    low, high = detection["images"]["error"]["auroc"]["ci95"]
    assert low <= detection["images"]["error"]["auroc"]["value"] <= high
    assert detection["subjects"]["error"]["positive"] == 4
    assert detection["subjects"]["error"]["n"] == 5
    assert set(detection["confounds"]) == {"brightness", "contrast", "sharpness"}


def test_tables_have_a_row_for_each_slice_and_person(found: Path, run: Path) -> None:
    images, subjects = (pd.read_csv(found / f"{name}.csv") for name in ("images", "subjects"))
    assert len(images) == 5 * 12
    assert subjects["subject"].tolist() == [f"p{i}" for i in range(5)]
    assert subjects["ill"].tolist() == [True] * 4 + [False]
    assert (images["ill"] == (images["lesion"] > 0)).all()
    assert images["above_healthy"].between(0, 1).all()
    assert (images["score"] == images["error"]).all()
    worst = images.loc[images.groupby("subject")["score"].idxmax()].set_index("subject")
    assert worst["ill"][:4].sum() >= 3, "in most people the highest slice is one with lesion"
    assert subjects.set_index("subject")["highest"].to_numpy() == pytest.approx(worst["score"].to_numpy(), rel=1e-5)
    assert summary(found)["healthy"]["held_out"] == 3 * 12 + 12  # the pool, and the validation part


def test_maps_lie_where_the_lesions_are_in_the_scans_own_voxels(found: Path, patients: Path) -> None:
    for i in range(4):
        scan, mask = (nib.load(patients / kind / f"p{i}.nii.gz") for kind in ("scans", "masks"))
        for name in ("error", "anomaly"):
            written = nib.load(found / f"p{i}_{name}.nii.gz")
            assert written.shape == scan.shape
            assert np.allclose(written.affine, scan.affine)
        voxels = written.get_fdata()
        assert np.isnan(voxels).any(), "between and beyond the slices nothing is invented"
        places = np.array(np.unravel_index(np.nanargmax(voxels), voxels.shape))
        lesion = np.argwhere(mask.get_fdata() > 0)
        assert np.linalg.norm((lesion - places) * 4.5, axis=1).min() < 10, "mm to the nearest voxel of the lesion"


def test_pictures_are_drawn_for_the_highest_only(found: Path) -> None:
    drawn = sorted(path.name for path in (found / "overlays").iterdir())
    highest = summary(found)["highest"]
    assert len(drawn) == len(highest) == 6
    for rank, (name, row) in enumerate(zip(drawn, highest, strict=True), start=1):
        assert name == f"{rank:03d}_{row['id']}_s{int(row['slice']):03d}.png"
    assert [row["score"] for row in highest] == sorted((row["score"] for row in highest), reverse=True)
    picture = np.asarray(Image.open(found / "overlays" / drawn[0]).convert("RGB")).astype(int)
    vivid = picture.max(-1) - picture.min(-1) > 60
    third = picture.shape[1] // 3
    assert vivid[:, 2 * third :].sum() > 200
    assert not vivid[:, :third].any(), "the original stays grey"
    assert summary(found)["colours"]["high"] >= summary(found)["colours"]["low"] + 4
    assert (found / "overview.png").is_file()


def test_the_test_split_is_the_default_and_what_is_healthy_is_measured_once(run: Path, tmp_path: Path) -> None:
    shown = toolkit("anomaly", run, "--out", tmp_path / "a", "--json", "--no-nifti", "--most", 0)
    told = json.loads(shown.stdout)
    assert told == summary(tmp_path / "a")
    assert (told["split"], told["subjects"]) == ("test", 4)
    assert "detection" not in told
    assert not list((tmp_path / "a").glob("*.nii.gz"))
    assert not (tmp_path / "a" / "overview.png").exists()
    kept = run / "stage1" / "healthy.npz"
    before = kept.stat().st_mtime_ns
    toolkit("anomaly", run, "--out", tmp_path / "b", "--no-nifti", "--most", 0)
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "a" / "images.csv").read_bytes() == (tmp_path / "b" / "images.csv").read_bytes()
    scores = pd.read_csv(tmp_path / "a" / "images.csv")["above_healthy"]
    assert 0.2 < scores.mean() < 0.8, "unseen healthy heads are as usual as the held-out ones"


def test_single_files_and_either_score(run: Path, patients: Path, tmp_path: Path) -> None:
    files = [patients / "scans" / f"p{i}.nii.gz" for i in (1, 4)]
    for by in ("surprise", "combined"):
        toolkit("anomaly", run, *files, "--out", tmp_path / by, "--by", by, "--no-nifti", "--most", 2)
        images = pd.read_csv(tmp_path / by / "images.csv")
        assert len(images) == 24
        assert (images["score"] == images[by]).all()
        assert (tmp_path / by / "overview.png").is_file()
    means = images.groupby("subject")[["error", "combined"]].max()
    assert (means.loc["p1"] > means.loc["p4"]).all()


def test_earlier_results_are_replaced_on_demand_and_nothing_else_is_touched(run: Path, tmp_path: Path) -> None:
    words = ("anomaly", run, "--out", tmp_path / "out", "--no-nifti")
    toolkit(*words, "--most", 3)
    (tmp_path / "out" / "overlays" / "mine.png").write_bytes(b"kept")
    assert "give --overwrite" in toolkit(*words, code=1).output
    toolkit(*words, "--most", 1, "--overwrite")
    assert len(list((tmp_path / "out" / "overlays").glob("0*.png"))) == 1
    assert (tmp_path / "out" / "overlays" / "mine.png").read_bytes() == b"kept"
    assert "is a run folder" in toolkit("anomaly", run, "--out", run, code=1).output


def test_training_images_are_marked(run: Path, tmp_path: Path) -> None:
    shown = toolkit("anomaly", run, "--split", "unlabelled", "--out", tmp_path, "--no-nifti", "--most", 0)
    assert "WARNING   SEEN IN TRAINING" in shown.output
    assert summary(tmp_path)["warnings"]


class TestLabels:
    def test_a_label_says_what_is_healthy_and_the_source_is_suspected(self, digits_run: Path, tmp_path: Path) -> None:
        shown = toolkit("anomaly", digits_run, "--healthy", 1, "--out", tmp_path, "--most", 3)
        told = summary(tmp_path)
        assert told["detection"]["truth"] == "labels"
        images = pd.read_csv(tmp_path / "images.csv", dtype={"label": str})
        assert (images["ill"] == (images["label"] != "1")).all()
        assert told["detection"]["images"]["error"]["positive"] == int(images["ill"].sum())
        assert "subjects" not in told["detection"], "every digit is its own"
        assert "the model has learned from images with other labels too (" in shown.output
        assert told["healthy"]["label"] == "1"
        assert told["healthy"]["learned"] < 40

    def test_an_unknown_label_names_those_there_are(self, digits_run: Path, tmp_path: Path) -> None:
        error = toolkit("anomaly", digits_run, "--healthy", "well", "--out", tmp_path, code=1).output
        assert "--healthy well: no image has that label. There are: 0, 1, 2" in error

    def test_a_difference_in_brightness_is_said_aloud(self, digits_run: Path, tmp_path: Path) -> None:
        for label, offset in (("well", 0), ("ill", 60)):
            for i in range(12):
                (tmp_path / "new" / label).mkdir(parents=True, exist_ok=True)
                array = np.random.default_rng(i).integers(0, 120, (16, 16)).astype(np.uint8) + offset
                Image.fromarray(array.astype(np.uint8)).save(tmp_path / "new" / label / f"{label}{i}.png")
        words = ("--data", tmp_path / "new", "--labels", table(tmp_path), "--healthy", "well")
        shown = toolkit("anomaly", digits_run, *words, "--out", tmp_path / "out", "--most", 0)
        assert "brightness alone, without any model, tells ill from healthy with an AUROC of 1.00" in shown.output


def table(folder: Path) -> Path:
    path = folder / "labels.csv"
    rows = [f"{label}/{label}{i}.png,{label}" for label in ("well", "ill") for i in range(12)]
    path.write_text("\n".join(["file,label", *rows]) + "\n")
    return path


def test_a_vae_has_no_codes_to_be_surprised_by(tmp_path: Path) -> None:
    sizes = ["split.unlabelled=60", "split.labelled=30", "split.test=20", "train.epochs=1", "vae.stride=4"]
    toolkit("train", "digits", "--out", tmp_path / "run", "--objective", "vae", sets=sizes)
    error = toolkit("anomaly", tmp_path / "run", "--by", "surprise", code=1).output
    assert "which has no codes: give --by error" in error
    assert "new images need --out" in toolkit("anomaly", tmp_path / "run", "--data", tmp_path, code=2).output
    toolkit("anomaly", tmp_path / "run", "--most", 2)
    images = pd.read_csv(tmp_path / "run" / "anomaly" / "test" / "images.csv")
    assert "surprise" not in images
    assert len(images) == 20


def test_a_lesion_in_a_real_unseen_brain(real_data: Path, tmp_path: Path) -> None:
    """Few people are enough to mark the pixels of a bright lesion; slices and fainter ones are in docs/anomaly.md."""
    data = real_data / "brain_t1" / "ds002748_2mm"
    sets = ["image.size=64", "slices.count=10", "slices.spacing=3.5", "vqvae.stride=8", "train.epochs=10"]
    sets += ["train.batch_size=16", "vqvae.width=16"]
    toolkit("train", "ds002748", "--data", data, "--out", tmp_path / "run", "--limit", 10, sets=sets)
    samples = pd.read_csv(tmp_path / "run" / "samples.csv", dtype=str, keep_default_na=False)
    tested = samples[samples["split"] == "test"].groupby("path")["position"].apply(list)
    for number, (path, positions) in enumerate(tested.items()):
        volume = read_volume(data / str(path))
        window = window_of(volume.data, (0.5, 99.5))
        inside = volume.data > window.threshold
        heights = (np.arange(inside.shape[2]) + 0.5) * volume.header.spacing[2]
        inside[:, :, (heights < float(positions[1])) | (heights > float(positions[-2]))] = False
        rng = np.random.default_rng(number)
        lesion = draw_lesion(rng, inside, volume.header.spacing, radius=10, contrast=0.6)
        added, mask = put(volume.data, volume.header.spacing, lesion, black_to_white=window.high - window.low)
        like = nib.load(data / str(path))
        back = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], nib.io_orientation(like.affine))
        for kind, array in (("scans", added.round().astype(np.int16)), ("masks", mask.astype(np.uint8))):
            (tmp_path / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(nib.apply_orientation(array, back), like.affine), tmp_path / kind / str(path))
    words = ("--data", tmp_path / "scans", "--masks", tmp_path / "masks", "--out", tmp_path / "out")
    toolkit("anomaly", tmp_path / "run", *words, "--most", 4)
    detection = summary(tmp_path / "out")["detection"]
    assert detection["images"]["error"]["positive"] >= 4
    assert detection["pixels"]["error"]["auroc"]["value"] > 0.75
