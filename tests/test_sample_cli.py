"""`toolkit sample` as a user types it: draws of a VAE, walks of either model, and what stands beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import phantoms
import pytest
from commands import toolkit
from PIL import Image

from toolkit.pick import pick
from toolkit.pipeline import open_data
from toolkit.runs import read_run
from toolkit.sample_record import more_than_chance
from toolkit.sample_sheet import Panel, Section, write_sheet
from toolkit.sample_wording import copies_text, latents_text, sample_text
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import SILENT


@pytest.fixture(scope="module")
def drawn(vae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Ten draws, and what the terminal said."""
    out = tmp_path_factory.mktemp("samples") / "ten"
    return out, toolkit("sample", vae_run, "--count", 10, "--out", out).output


def images_of(run: Path) -> Prepared:
    return open_data(*read_run(run), progress=SILENT)


def test_each_draw_is_a_file_with_its_nearest_training_images(drawn: tuple[Path, str], vae_run: Path) -> None:
    out, _ = drawn
    table = pd.read_csv(out / "samples.csv", dtype={"nearest_by_pixels": str, "nearest_by_latents": str})
    assert table["file"].tolist() == [f"sample-{i:03d}.png" for i in range(1, 11)]
    prepared = images_of(vae_run)
    ids = prepared.samples["id"].tolist()
    learns = prepared.rows("unlabelled")
    for file, name, distance in table[["file", "nearest_by_pixels", "pixels_distance"]].itertuples(index=False):
        picture = np.asarray(Image.open(out / file), float)
        assert picture.shape == (16, 16)
        assert prepared.samples["split"][ids.index(name)] == "unlabelled"
        every = np.sqrt((((picture - prepared.images[learns, :, :, 0]) / 255) ** 2).mean((1, 2)))
        assert distance >= every.min() - 1e-6  # some of them were held out to validate
        assert distance == pytest.approx(every[learns.tolist().index(ids.index(name))], abs=1e-5)
    assert table["latents_nearer_than"].between(0, 1).all()
    assert Image.open(out / "grid.png").size[0] > 1000


def test_the_summary_says_what_the_terminal_says(drawn: tuple[Path, str], vae_run: Path) -> None:
    out, told = drawn
    summary = json.loads((out / "summary.json").read_text())
    found = summary["neighbours"]
    assert (summary["kind"], summary["images"], summary["prior"]) == ("draws", 10, "standard normal")
    assert (summary["seed"], summary["temperature"]) == (0, 1.0)
    assert found["unseen"] == {"split": "test", "n": 150}
    table = pd.read_csv(out / "samples.csv")
    assert found["pixels"]["median"] == pytest.approx(table["pixels_distance"].median(), abs=1e-5)
    assert found["pixels"]["near"] == (table["pixels_nearer_than"] > 0.95).sum()
    assert f"{found['latents']['unseen_rebuilt_median']:.3f}" in told
    latents = pd.read_csv(out / "latents.csv")
    assert summary["latents"]["active"] == latents["active"].sum()
    metrics = json.loads((vae_run / "stage1" / "metrics.json").read_text())
    assert summary["latents"]["active"] == metrics["levels"]["latents"]["active"], "on the same training images"
    assert f"{summary['latents']['active']} of 12 vary from image to image" in told
    assert "10 drawn from the standard normal prior, temperature 1, seed 0" in told
    again = toolkit("sample", vae_run, "--count", 10, "--out", out, "--overwrite", "--json")
    assert json.loads(again.stdout) == summary, "the same seed, the same numbers"


def test_only_samples_are_ever_replaced(drawn: tuple[Path, str], vae_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    shutil.copytree(drawn[0], out)
    (out / "mine.txt").write_text("kept")
    refused = toolkit("sample", vae_run, "--count", 2, "--out", out, code=1)
    assert "--overwrite" in refused.output
    toolkit("sample", vae_run, "--count", 2, "--out", out, "--overwrite", "--no-neighbours", "--seed", 3)
    left = {path.name for path in out.iterdir()}
    assert left == {"sample-001.png", "sample-002.png", "samples.csv", "summary.json", "grid.png", "mine.txt"}
    others = tmp_path / "others"
    others.mkdir()
    (others / "summary.json").write_text('{"kind": "reconstructions"}')
    for place in (vae_run, others):
        assert "choose another --out" in toolkit("sample", vae_run, "--out", place, "--overwrite", code=1).output


def test_without_neighbours_the_images_are_not_needed(vae_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(vae_run / "stage1", run / "stage1")
    told = toolkit("sample", run, "--no-neighbours", "--count", 3, "--temperature", 0.5).output
    assert "copies would not be seen" in told
    assert (run / "samples" / "sample-003.png").is_file()
    assert "no run folder" in toolkit("sample", run, "--out", tmp_path / "x", code=1).output


def test_a_walk_between_two_digits(vae_run: Path, tmp_path: Path) -> None:
    samples = pd.read_csv(vae_run / "samples.csv", dtype=str)
    unseen = samples["id"][samples["split"] == "test"].tolist()
    told = toolkit(
        "sample", vae_run, "--between", unseen[0], unseen[1], "--steps", 5, "--out", tmp_path / "walk"
    ).output
    assert f"5 from {unseen[0]} (test) to {unseen[1]} (test); spherical" in told
    table = pd.read_csv(tmp_path / "walk" / "samples.csv")
    assert table["share"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    learned = samples["id"][samples["split"] == "unlabelled"].iloc[0]
    told = toolkit("sample", vae_run, "--between", learned, unseen[0]).output
    assert "not judged: the model has learned from one of the two ends" in told
    summary = json.loads((vae_run / "between" / "summary.json").read_text())
    assert [end["split"] for end in summary["ends"]] == ["unlabelled", "test"]
    assert not summary["neighbours"]["copies"]["judged"]
    shutil.rmtree(vae_run / "between")  # other tests share the run


def test_a_vqvae_walks_but_does_not_draw(digits_run: Path, tmp_path: Path) -> None:
    refused = toolkit("sample", digits_run, code=1).output
    assert "no prior to draw from" in refused
    assert "--between IMAGE IMAGE" in refused
    unseen = pd.read_csv(digits_run / "samples.csv", dtype=str).query("split == 'test'")["id"].tolist()
    told = toolkit("sample", digits_run, "--between", *unseen[:2], "--out", tmp_path / "walk").output
    assert "linear, of their latents, which are then quantised" in told
    assert "vary from image to image" not in told
    summary = json.loads((tmp_path / "walk" / "summary.json").read_text())
    assert "latents" not in summary
    assert not (tmp_path / "walk" / "latents.csv").exists()


def test_people_slices_and_files_are_named(head_run: Path, tmp_path: Path) -> None:
    prepared = images_of(head_run)
    samples = prepared.samples
    person, identity = samples["group"][0], samples["id"][0]

    def picked(word: object) -> tuple[str, str]:
        found = pick(head_run, prepared, str(word), progress=SILENT)
        rows = np.flatnonzero((prepared.images == found.pixels).all((1, 2, 3)))
        assert len(rows) == 1
        assert found.split == samples["split"][rows[0]] or not found.split
        return found.name, samples["slice"][rows[0]]

    assert picked(person) == picked(identity) == (f"{identity}#2", "2"), "the middle one of four"
    assert picked(f"{person}#0") == picked(f"{identity}#0") == (f"{identity}#0", "0")
    file = Path(prepared.origin) / samples["path"][0]
    assert picked(file) == (f"{identity}#2", "2")
    learned = samples[samples["split"] == "unlabelled"].iloc[0]
    shutil.copy(Path(prepared.origin) / learned["path"], tmp_path / "stranger.nii.gz")
    assert pick(head_run, prepared, str(tmp_path / "stranger.nii.gz"), progress=SILENT).learned, "by its content"
    for wrong in ("nobody", f"{person}#9", ""):
        with pytest.raises(ToolkitError, match=r"no image .*: give the path of a file, or an id or group .* such as"):
            pick(head_run, prepared, wrong, progress=SILENT)
    other = phantoms.save(tmp_path / "other.nii.gz", phantoms.head(seed=77), spacing=(4, 4, 4))
    told = toolkit("sample", head_run, "--between", other, person, "--steps", 3, "--out", tmp_path / "walk").output
    assert f"3 from other#2 (a file) to {identity}#2" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--between", "0", "1", "--count", "3"], "leave them out with --between"),
        (["--between", "0", "1", "--seed", "0"], "leave them out with --between"),
        (["--steps", "5"], "--between A B"),
        (["--temperature", "0"], "temperature"),
    ],
)
def test_flags_without_an_effect_are_refused(words: list[str], message: str, vae_run: Path) -> None:
    assert message in toolkit("sample", vae_run, *words, code=2).output


def test_pictures_of_other_data_are_refused(vae_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(vae_run, run)
    card = (run / "card.toml").read_text()
    (run / "card.toml").write_text(card.replace("unlabelled = 120", "unlabelled = 100"))
    told = toolkit("sample", run, code=1).output
    assert "unlabelled images was" in told


# Words and pictures of made-up numbers


def summary_of(suspects: int, *, more: bool) -> dict[str, object]:
    copies = {
        "judged": True,
        "suspects": [f"sample-{i:03d}.png" for i in range(1, suspects + 1)],
        "by_chance": 1.1,
        "more_than_chance": more,
    }
    return {"images": 16, "neighbours": {"copies": copies, "unseen": {"split": "test", "n": 200}}}


def test_leakage_is_said_before_anything_else() -> None:
    summary = {"kind": "draws", "images": 3, "prior": "standard normal", "temperature": 1.0, "seed": 0}
    told = sample_text({**summary, "leakage": {"groups": 2, "of": 3}}, Path("out"))
    assert told.startswith("LEAKAGE: 2 of 3 groups")
    assert not sample_text(summary, Path("out")).startswith("LEAKAGE")


def test_copying_is_said_in_words() -> None:
    assert copies_text(summary_of(0, more=False)).startswith("copies    no sign of any: none of 16 is nearer")
    chance = copies_text(summary_of(1, more=False))
    assert "1 of 16 is nearer to a training image than 95 % of 200 unseen images are to theirs" in chance
    assert "no more than chance (1.1)" in chance
    copied = copies_text(summary_of(9, more=True))
    assert copied.startswith("COPIES    9 of 16 are nearer")
    assert copied.endswith("sample-005.png and 4 more")


def test_chance_is_that_of_the_binomial_distribution() -> None:
    # scipy.stats.binom.sf(k - 1, 16, 0.05) is 0.0429 for k = 3 and 0.1892 for k = 2
    assert more_than_chance(3, 16, 0.05)
    assert not more_than_chance(2, 16, 0.05)
    assert not more_than_chance(16, 16, 1.0)
    assert more_than_chance(1, 16, 0.0)


def test_a_dead_vae_is_told_of() -> None:
    found = {"numbers": 8, "active": 0, "nats_from_prior": 0.0}
    assert latents_text(found) == "0 of 8 vary from image to image: draws say nothing, and all look alike"


def test_the_sheet_shows_true_colours_where_they_belong(tmp_path: Path) -> None:
    red, green = (np.full((4, 4, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 200, 0)))
    grey = np.full((4, 4, 1), 128, np.uint8)
    lines = [[[Panel(red, "a"), Panel(green, "$b$", "0.1")], [Panel(grey)]], [[None, Panel(red, alarming=True)]]]
    write_sheet([Section("Title", "note", lines), Section("More", "", [])], tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    areas = {colour: (pixels == colour).all(-1).sum() for colour in ((255, 0, 0), (0, 200, 0), (128, 128, 128))}
    assert areas[(255, 0, 0)] == pytest.approx(2 * areas[(0, 200, 0)], rel=0.02)
    assert areas[(0, 200, 0)] == pytest.approx(areas[(128, 128, 128)], rel=0.02)
    assert areas[(0, 200, 0)] == pytest.approx((1.2 * 150) ** 2, rel=0.03)


def test_people_of_real_brains_are_no_copies_of_one_another(real_data: Path, tmp_path: Path) -> None:
    """A small VAE on eight people's slices: draws, a walk between two people who were not among them."""
    folder = tmp_path / "people"
    folder.mkdir()
    for path in sorted((real_data / "brain_t1" / "ds002748_2mm").glob("*.nii.gz"))[:14]:
        (folder / path.name).symlink_to(path)
    sets = ["image.size=32", "slices.count=6", "train.epochs=6", "vae.width=16", "vae.latent_dim=16", "vae.noise=1"]
    run = tmp_path / "run"
    toolkit(
        "train", "ds002748", "--data", folder, "--objective", "vae", "--out", run, sets=[*sets, "train.batch_size=8"]
    )
    toolkit("sample", run, "--count", 12)
    found = json.loads((run / "samples" / "summary.json").read_text())["neighbours"]
    assert found["training_images"] < 14 * 6 / 2
    assert not found["copies"]["more_than_chance"]
    people = pd.read_csv(run / "samples.csv", dtype=str).query("split == 'test'")["group"].unique()
    told = toolkit("sample", run, "--between", *people[:2], "--steps", 4).output
    assert f"4 from {people[0]}_T1w#3 (test) to {people[1]}_T1w#3 (test)" in told
