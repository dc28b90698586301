"""Folders of volumes as samples: what is read once, what is skipped and why, and how grey values come about."""

from __future__ import annotations

import hashlib
import os
import shlex
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantoms
import pytest
from commands import toolkit

from toolkit_datasets import volumes
from toolkit_datasets.card import Card, card_from, load_card
from toolkit_datasets.codes import open_codes
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.intensity import window_of
from toolkit_datasets.prepare import prepare

NAMES = [f"IXI{i:03d}-{site}-{800 + i:04d}-T1.nii.gz" for i, site in enumerate(["Guys", "HH", "IOP"] * 4, start=2)]


def card(**slices: object) -> Card:
    plain = {
        "title": "made up",
        "name": "made-up",
        "source": {"kind": "volumes"},
        "image": {"size": 32, "channels": 1},
        "slices": {"count": 8, **slices},
        "vqvae": {"stride": 8},
    }
    return card_from(plain, origin="test")


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Twelve people under names as IXI has them, each stored in another orientation."""
    orientations = [[[0, 1], [1, 1], [2, 1]], [[1, -1], [2, 1], [0, 1]], [[2, -1], [0, -1], [1, 1]]]
    for i, name in enumerate(NAMES):
        phantoms.save(
            tmp_path / "ixi" / name,
            phantoms.head(seed=i),
            spacing=(4.5, 4.5, 5.0),
            orientation=np.array(orientations[i % 3]),
            dtype=["int16", "float32", "uint16"][i % 3],
        )
    return tmp_path / "ixi"


def test_a_cohort_becomes_samples_grouped_by_subject(cohort: Path) -> None:
    phantoms.save(cohort / "IXI002-Guys-0802-T2.nii.gz", phantoms.head())  # another contrast, left alone
    prepared = prepare(load_card("ixi", ["slices.count=10"]), cohort)
    samples = prepared.samples
    assert len(samples) == 12 * 10
    assert prepared.ignored == 1
    assert samples["id"].iat[0] == "IXI002-Guys-0802-T1"
    assert samples["slice"].tolist()[:10] == [str(k) for k in range(10)]
    assert set(samples["group"]) == {name[:6] for name in NAMES}
    assert samples["site"].value_counts().to_dict() == {"Guys": 40, "HH": 40, "IOP": 40}
    assert samples["sha256"].nunique() == 12
    positions = samples["position"].astype(float)
    assert (positions.groupby(samples["group"]).diff().dropna() > 0).all()
    assert not prepared.skipped.size
    of_split = samples.groupby("group")["split"].nunique()
    assert (of_split == 1).all()


def test_orientation_and_type_do_not_matter(tmp_path: Path) -> None:
    data = phantoms.head().round()
    for i, (orientation, dtype) in enumerate([([[0, 1], [1, 1], [2, 1]], "int16"), ([[2, -1], [0, 1], [1, -1]], "f4")]):
        phantoms.save(
            tmp_path / f"{i}.nii.gz", data, orientation=np.array(orientation), dtype=dtype, spacing=(2.0, 2.0, 2.5)
        )
    images = prepare(card(), tmp_path, split=False).images
    assert (images[:8] == images[8:]).all()
    assert images[4, :, :, 0].max() > 200


def test_a_volume_has_one_window_for_all_of_its_slices(tmp_path: Path) -> None:
    data = phantoms.head()
    data[:, :, :22] *= 0.4  # the lower half is darker, and must stay so
    phantoms.save(tmp_path / "a.nii.gz", data)
    phantoms.save(tmp_path / "b.nii.gz", data * 7, dtype="float32")  # another scanner's unit
    prepared = prepare(card(), tmp_path, split=False)
    a, b = prepared.images[:8].astype(int), prepared.images[8:].astype(int)
    assert a[1][a[1] > 30].mean() < 0.6 * a[6][a[6] > 30].mean()
    assert np.abs(a - b).max() <= 2  # int16 rounds
    assert prepared.details["window"].nunique() == 2


def test_the_window_is_that_of_the_foreground() -> None:
    """A volume of 90 % air: percentiles of all voxels would be those of air."""
    rng = np.random.default_rng(0)
    data = np.zeros((20, 20, 20), np.float32)
    data[:2] = rng.uniform(100, 1100, (2, 20, 20))
    window = window_of(data, (0.5, 99.5))
    assert window.threshold == pytest.approx(0.1 * np.percentile(data, 98))
    bright = data[data > window.threshold]
    assert (window.low, window.high) == pytest.approx(tuple(np.percentile(bright, [0.5, 99.5])))
    assert window.grey(np.array([-5, window.low, window.high, 1e9], np.float32)) == pytest.approx([0, 0, 255, 255])


def test_single_values_that_are_not_finite_are_background(tmp_path: Path) -> None:
    data = phantoms.head()
    clean = data.copy()
    data[:3], clean[:3] = np.nan, clean.min()
    for name, values in (("a", data), ("b", clean)):
        phantoms.save(tmp_path / f"{name}.nii", values, dtype="float32")
    images = prepare(card(), tmp_path, split=False).images
    assert (images[:8] == images[8:]).all()


@pytest.mark.parametrize("clip", [(0.0, 100.0), (0.5, 99.5)])
def test_masks_and_shifted_scales_have_a_window_too(clip: tuple[float, float]) -> None:
    mask = np.zeros((9, 9, 9), np.float32)
    mask[4, 4, 4] = 1
    assert window_of(mask, clip).grey(mask).max() == 255
    standard = (phantoms.head() - 300) / 200  # mean and deviation taken out: air is below zero
    grey = window_of(standard, clip).grey(standard)
    assert np.median(grey[0]) == 0
    assert grey.max() == 255


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20000])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut.nii.gz": (_truncated, "truncated"),
    "empty.nii.gz": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text.nii.gz": (lambda path: path.write_text("no volume"), "not gzip-compressed"),
    "nan.nii": (lambda p: phantoms.save(p, np.full((9, 9, 9), np.nan), dtype="f4"), "filled with NaN"),
    "one.nii": (lambda p: phantoms.save(p, np.full((9, 9, 9), 7)), "constant: every voxel is 7"),
    "film.nii": (lambda p: phantoms.save(p, np.ones((9, 9, 9, 5))), "5 frames"),
}


def test_what_is_broken_is_set_aside_with_its_reason_and_exit_code_3(tmp_path: Path) -> None:
    for i in range(3):
        phantoms.save(tmp_path / "d" / f"good{i}.nii.gz", phantoms.head(seed=i))
    for name, (spoil, _) in BROKEN.items():
        phantoms.save(tmp_path / "d" / name, phantoms.head())
        spoil(tmp_path / "d" / name)
    own = tmp_path / "card.toml"
    own.write_text(
        'title = "t"\n[source]\nkind = "volumes"\n[image]\nsize = 32\nchannels = 1\n[slices]\ncount = 8\n'
        '[split]\nunlabelled = 1.0\nlabelled = 0\ntest = 0\n'
    )  # fmt: skip
    said = toolkit("prepare", own, "--data", tmp_path / "d", "--out", tmp_path / "run", code=3)
    assert "24 images decoded" in said.stdout
    listed = (tmp_path / "run" / "samples.csv").read_text()
    for name, (_, reason) in BROKEN.items():
        assert any(name in line and reason in line for line in listed.splitlines()), name
    shown = toolkit("datasets", own, "--data", tmp_path / "d")
    assert shown.stdout.count("cut.nii.gz: truncated") == 1, "a file is listed once, not once for each slice"
    toolkit("prepare", own, "--data", tmp_path / "d", "--fail-fast", code=1)


def test_slices_that_show_nothing_are_left_out_and_say_why_without_a_fault(tmp_path: Path) -> None:
    phantoms.save(tmp_path / "a.nii.gz", phantoms.head())
    prepared = prepare(card(by="index", start=0, stop=8, count=0), tmp_path, split=False, fail_fast=True)
    statuses = prepared.samples["status"]
    assert statuses.iat[0].startswith("empty slice: 0")
    assert statuses.iat[7] == "ok"
    assert not prepared.skipped.size
    assert len(prepared.empty) == (statuses != "ok").sum() >= 3
    assert not prepared.images[0].any()
    beyond = prepare(card(by="mm", start=20, stop=60, count=8), tmp_path, split=False)
    assert beyond.samples["status"].iat[-1] == "empty slice: 57.5 mm is outside the volume, which ends at 44.0"


def test_a_range_that_misses_a_volume_says_what_the_volume_has(tmp_path: Path) -> None:
    phantoms.save(tmp_path / "a.nii.gz", phantoms.head())
    phantoms.save(tmp_path / "b.nii.gz", phantoms.head((40, 48, 90)))
    prepared = prepare(card(by="index", start=50, stop=60, count=0), tmp_path, split=False)
    assert prepared.skipped_files == [
        ("a.nii.gz", "has no axial slice in [50, 60) by index: it has 44 slices, 44.0 mm in all")
    ]


def test_a_volume_is_read_once_and_forgotten(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many volumes in memory as there are workers, however many there are in all."""
    lock, alive, most, reads = threading.Lock(), 0, 0, []
    original = volumes.cut

    def counting(path: Path, *rest: object, **options: object) -> object:
        nonlocal alive, most
        with lock:
            alive, most = alive + 1, max(most, alive + 1)
            reads.append(path.name)
        try:
            return original(path, *rest, **options)  # type: ignore[arg-type]
        finally:
            with lock:
                alive -= 1

    monkeypatch.setattr(volumes, "cut", counting)
    settings = load_card("ixi", ["slices.count=20", "image.size=64"])
    prepare(settings, cohort, workers=2)
    assert sorted(reads) == sorted(NAMES)
    assert most <= 2
    prepare(settings, cohort, workers=2)
    assert len(reads) == 12, "the second time they come from the cache"
    prepare(load_card("ixi", ["slices.count=20", "image.size=64", "slices.clip=[1, 99]"]), cohort)
    assert len(reads) == 24, "another window is another picture"


def test_a_limit_counts_volumes(cohort: Path) -> None:
    prepared = prepare(load_card("ixi", ["slices.count=4"]), cohort, limit=5)
    assert prepared.samples["path"].nunique() == 5
    assert len(prepared.samples) == 20


def test_ids_of_volumes_lose_both_suffixes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii", "b.nii.gz", "x/c.NII.GZ"):
        phantoms.save(tmp_path / name.lower(), phantoms.head())
    (tmp_path / "x" / "c.nii.gz").rename(tmp_path / "x" / "c.NII.GZ")
    samples = prepare(card(count=1), tmp_path, split=False).samples
    assert samples["id"].tolist() == ["a", "b.nii", "b.nii.gz", "x/c"]


def test_another_cohort_is_encoded_by_a_trained_model_whatever_its_names(cohort: Path, tmp_path: Path) -> None:
    """The preprocessing is that of the run; names that the card does not know are subjects of their own."""
    sets = ["image.size=32", "slices.count=4", "train.epochs=1", "vqvae.width=8", "vqvae.codebook_size=8"]
    toolkit("train", "ixi", "--data", cohort, "--out", tmp_path / "run", sets=sets)
    for i in range(2):
        phantoms.save(
            tmp_path / "new" / f"patient-{i}.nii", phantoms.head((50, 60, 70), seed=90 + i), spacing=(3, 3, 3)
        )
    toolkit("encode", tmp_path / "run", "--data", tmp_path / "new", "--out", tmp_path / "codes")
    manifest = open_codes(tmp_path / "codes").manifest
    assert manifest["group"].tolist() == ["patient-0"] * 4 + ["patient-1"] * 4
    assert manifest["slice"].tolist() == ["0", "1", "2", "3"] * 2


def test_no_volumes_names_the_pattern_and_what_is_there_instead(tmp_path: Path) -> None:
    phantoms.save(tmp_path / "IXI002-Guys-0802-T2.nii.gz", phantoms.head())
    with pytest.raises(ToolkitError, match=r"no volumes found .*source\.patterns; there are 1 others, such as IXI002"):
        prepare(load_card("ixi"), tmp_path)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.nii").write_text("x")
    with pytest.raises(ToolkitError, match=r"none of the 1 volumes .*a\.nii: not a NIfTI file"):
        prepare(card(), bad)


def test_the_commands_of_the_page_run_as_they_stand_there(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "volumes.md").read_text(encoding="utf-8")
    lines = [line for block in page.split("```console\n")[1:] for line in block.partition("```")[0].splitlines()]
    assert len(lines) == 6
    cohort.rename(tmp_path / "IXI")
    rows = [f"{i},{1 + i % 2},{20 + i}" for i in range(2, 14)]
    (tmp_path / "IXI" / "IXI.csv").write_text("\n".join(["IXI_ID,SEX_ID,AGE", *rows]))
    monkeypatch.chdir(tmp_path)
    small = ["image.size=32", "slices.count=4", "split.unlabelled=0.4", "split.labelled=0.35"]
    short = ["train.epochs=1", "vqvae.width=8", "vqvae.codebook_size=8", "probe.labels=4", "probe.draws=2"]
    for line in lines:
        words = shlex.split(line.removeprefix("$ toolkit "))
        sets = [*small, *short, "probe.baselines=[]", "probe.curve=[]"] if words[0] == "run" else small
        toolkit(*words, sets=sets)
    assert Path("ixi.png").is_file()
    assert Path("runs/age/report.html").is_file()
    assert list(Path("ixi-slices").glob("test/male/*_s00?_male.png"))


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the PATH, but for what a shell needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def _tool(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_skull_stripping_by_a_tool_on_the_path(tools: Path, tmp_path: Path) -> None:
    phantoms.save(tmp_path / "d" / "a.nii.gz", phantoms.head(seed=1))
    phantoms.save(tmp_path / "brain.nii.gz", phantoms.head(seed=2))
    _tool(tools, "hd-bet", f'[ "$1" = -i ] && [ "$3" = -o ] && [ -f "$2" ] && cp {tmp_path}/brain.nii.gz "$4"')
    stripped = prepare(card(strip="auto"), tmp_path / "d", split=False)
    original = hashlib.sha256((tmp_path / "d" / "a.nii.gz").read_bytes()).hexdigest()
    assert set(stripped.samples["sha256"]) == {original}, "the record is of the file as it came"
    (tmp_path / "d" / "a.nii.gz").write_bytes((tmp_path / "brain.nii.gz").read_bytes())
    plain = prepare(card(), tmp_path / "d", split=False)
    assert (stripped.images == plain.images).all(), "the slices are those of what the tool wrote"


def test_a_missing_or_failing_tool_says_what_to_do(tools: Path, tmp_path: Path) -> None:
    phantoms.save(tmp_path / "d" / "a.nii.gz", phantoms.head())
    with pytest.raises(ToolkitError, match=r"mri_synthstrip or hd-bet on the PATH.*FreeSurfer.*pip install hd-bet"):
        prepare(card(strip="auto"), tmp_path / "d")
    with pytest.raises(ToolkitError, match=r"needs mri_synthstrip on the PATH.*slices\.strip=none"):
        prepare(card(strip="mri_synthstrip"), tmp_path / "d")
    _tool(tools, "mri_synthstrip", "echo loading >&2; echo 'no weights found' >&2; exit 2")
    with pytest.raises(ToolkitError, match=r"a\.nii\.gz: mri_synthstrip failed with exit code 2: no weights found"):
        prepare(card(strip="auto"), tmp_path / "d")
