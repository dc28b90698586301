"""Labels of people through whole commands: small cohorts, decisions about subjects, and the size of their heads."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import phantoms
import pytest
from click.testing import Result
from commands import results, toolkit, toolkit_without_torch

from stage2_probe.metrics import auroc
from toolkit import report, wording
from toolkit.baselines import head_sizes
from toolkit_datasets.card import load_card
from toolkit_datasets.codes import open_codes
from toolkit_datasets.prepare import prepare

PAGE = Path(__file__).parent.parent / "docs" / "subjects.md"
SMALL = ["image.size=32", "slices.count=5", "train.epochs=1", "vqvae.width=8", "vqvae.codebook_size=8"]
PROBE = ["probe.labels=8", "probe.draws=2", "probe.curve=[6, 8]"]
COHORT = ["split.unlabelled=0.7", "split.labelled=unlabelled", "train.objective=reconstruct", *SMALL]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-six people in a folder IXI, men with heads a fifth larger; the table lacks two of them."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["IXI_ID,SEX_ID,AGE"]
    for i in range(26):
        size = (1 + 0.07 * (i % 2)) * (1 + 0.01 * (i % 3))
        spacing = (8.0 * size, 7.5 * size, 7.0 * size)
        name = f"IXI{i:03d}-Guys-0{i:03d}-T1.nii.gz"
        phantoms.save(folder / "IXI" / name, phantoms.head((24, 28, 24), seed=i), spacing=spacing)
        if i not in (4, 9):
            rows.append(f"{i},{2 - i % 2},{20 + 2 * i}")
    (folder / "IXI" / "IXI.csv").write_text("\n".join(rows))
    for i in range(2):
        data = phantoms.head((24, 28, 24), seed=90 + i)
        phantoms.save(folder / "new-heads" / f"patient-{i}.nii", data, spacing=(8, 7.5, 7))
    return folder


@pytest.fixture(scope="module")
def page(cohort: Path) -> dict[str, Result]:
    """The page's commands, each by its words, run as they stand there in the cohort's folder."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cohort)
        for line in "".join(blocks).splitlines():
            command = line.removeprefix("$ ")
            if not command.startswith("toolkit "):
                subprocess.run(command, shell=True, check=True)
                continue
            words = shlex.split(command)[1:]
            sets = [*SMALL, *PROBE, "train.objective=reconstruct", "encode.format=npy"] if words[0] == "run" else []
            done[command.removeprefix("toolkit ")] = toolkit(*words, sets=sets)
    return done


@pytest.fixture(scope="module")
def sex(cohort: Path, page: dict[str, Result]) -> tuple[Path, Result]:
    (said,) = [result for command, result in page.items() if command.endswith("--out runs/sex")]
    return cohort / "runs" / "sex", said


def test_stage_1_s_people_carry_labels_and_the_others_judge(sex: tuple[Path, Result], cohort: Path) -> None:
    run, said = sex
    found = results(run)["probe"]
    samples = pd.read_csv(run / "samples.csv", dtype=str, keep_default_na=False)
    assert set(samples["split"]) == {"unlabelled", "test"}
    people = samples.drop_duplicates("group")
    of_pool = people[(people["split"] == "unlabelled") & (people["label"] != "")]
    of_test = people[(people["split"] == "test") & (people["label"] != "")]
    assert (found["n_pool"], found["n_test_groups"]) == (len(of_pool), len(of_test))
    assert (found["pool"], found["decided"], found["n_test"]) == ("unlabelled", "group", 5 * len(of_test))
    drawn = pd.read_csv(run / "probe" / "draws.csv")["id"].str[:6]
    assert set(drawn) <= set(of_pool["group"])
    judged = pd.read_csv(run / "probe" / "predictions_subjects.csv")
    assert judged["group"].tolist() == sorted(of_test["group"])
    metrics = json.loads((run / "stage1" / "metrics.json").read_text())
    assert set(metrics["splits"]) == {"test", "validation"}, "no figures on images that trained the model"
    for words in ("With 8 labelled subjects", "of subjects right (95 % interval;", "slice by slice: ", "AUROC"):
        assert words in said.output, words
    assert "stage 1 learned from the labelled ones too" in said.output
    described = toolkit("datasets", "ixi", "--data", cohort / "IXI", sets=COHORT).output
    assert "pool        those of 'unlabelled' with a label" in described
    planned = toolkit("run", "ixi", "--data", cohort / "IXI", "--dry-run", sets=[*COHORT, "probe.labels=all"]).output
    assert "probe     one draw of the whole pool" in planned


def test_head_size_reads_the_sex_of_these_people(sex: tuple[Path, Result]) -> None:
    found = results(sex[0])
    assert list(found["baselines"]) == ["majority", "pixels", "hog", "random", "head_size"]
    size = found["baselines"]["head_size"]
    assert size["accuracy"]["mean"] > 0.85
    assert size["auroc"]["mean"] == 1
    assert set(found["curve"]["accuracy"]) == {"codes", "majority", "pixels", "hog", "random", "head_size"}
    assert size["per_sample"]["accuracy"]["mean"] <= size["accuracy"]["mean"] + 0.1


def test_one_training_serves_sex_and_age(sex: tuple[Path, Result], cohort: Path, page: dict[str, Result]) -> None:
    run, age = sex[0], cohort / "runs" / "age"
    weights = "stage1/model.safetensors"
    assert (age / weights).read_bytes() == (run / weights).read_bytes()
    found = results(age)
    assert (found["probe"]["kind"], found["probe"]["decided"]) == ("continuous", "group")
    assert found["baselines"]["head_size"]["mae"]["ci95"][0] > 0
    (said,) = [result.output for command, result in page.items() if command.endswith("--resume")]
    assert "predicts the targets of subjects with a mean absolute error of" in said
    html = (age / "report.html").read_text(encoding="utf-8")
    assert "unseen subjects" in html
    assert "Each subject by its middle slice." in html
    assert html.count("<img") > 8


def test_separate_steps_and_either_format_give_the_same_numbers(
    sex: tuple[Path, Result], cohort: Path, tmp_path: Path
) -> None:
    toolkit("encode", sex[0], "--out", tmp_path / "codes.h5")
    toolkit("probe", tmp_path / "codes.h5", "--data", cohort / "IXI", "--out", tmp_path / "p")
    whole, steps = results(sex[0]), results(tmp_path / "p")
    for part in ("probe", "baselines", "curve"):
        assert steps[part] == whole[part], part
    for name in ("predictions.csv", "predictions_subjects.csv", "draws.csv"):
        assert (tmp_path / "p" / name).read_bytes() == (sex[0] / "probe" / name).read_bytes()
    assert "slice by slice" in toolkit("info", tmp_path / "p").output


def test_without_torch_and_without_images_the_subjects_are_the_same(sex: tuple[Path, Result], tmp_path: Path) -> None:
    toolkit_without_torch("probe", sex[0] / "codes", "--out", tmp_path / "p")
    assert results(tmp_path / "p")["probe"] == results(sex[0])["probe"]


def test_new_heads_get_a_decision_each(cohort: Path, page: dict[str, Result]) -> None:
    slices, people = pd.read_csv(cohort / "people.csv"), pd.read_csv(cohort / "people_subjects.csv")
    assert (len(slices), people["group"].tolist()) == (10, ["patient-0", "patient-1"])
    assert people["samples"].tolist() == [5, 5]
    (printed,) = [result.stdout for command, result in page.items() if command.endswith("--subjects")]
    assert printed.splitlines()[0] == "group,samples,predicted,p_female,p_male"
    assert printed.splitlines()[1].startswith("patient-0,5,")
    odds = np.log(slices["p_male"] / slices["p_female"]).groupby(slices["id"]).mean()
    np.testing.assert_allclose(odds, np.log(people["p_male"] / people["p_female"]), rtol=1e-6)


def section(html: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', html, re.DOTALL)
    assert found, name
    return found[1]


def test_the_report_speaks_of_subjects(sex: tuple[Path, Result], tmp_path: Path) -> None:
    html = (sex[0] / "report.html").read_text(encoding="utf-8")
    people = results(sex[0])["probe"]["n_test_groups"]
    assert f"{people} test subjects." in section(html, "accuracy")
    for words in ("95 % interval (accuracy)", "<th>By slice</th>", "AUROC", "head size", "unseen subjects"):
        assert words in section(html, "accuracy"), words
    assert "labelled subjects" in section(html, "label-curve")
    assert "Test subjects by true class" in section(html, "confusion")
    assert section(html, "gallery").count("<img") == people, "every subject once, by its middle slice"
    assert "unseen by both stages" in section(html, "honesty")
    assert "could give any score within them" in section(html, "honesty")
    shutil.copytree(sex[0], tmp_path / "run")
    (tmp_path / "run" / "probe" / "predictions_subjects.csv").unlink()
    bare = report.write_report(tmp_path / "run", None).read_text(encoding="utf-8")
    assert 'class="missing"' in section(bare, "gallery")


def test_the_pool_can_be_chosen_at_the_probe_and_judge_itself(sex: tuple[Path, Result], tmp_path: Path) -> None:
    store = sex[0] / "codes"
    assert open_codes(store).info.card["split"]["labelled"] == "unlabelled"
    said = toolkit("probe", store, "--out", tmp_path / "a", sets=["probe.labels=all"]).output
    found = results(tmp_path / "a")["probe"]
    assert (found["draws"], found["n_labelled"]) == (1, found["n_pool"])
    assert f"With all {found['n_pool']} labelled subjects" in said
    assert "(one draw of" in said
    error = toolkit("probe", store, "--out", tmp_path / "b", sets=["split.labelled=0.3"], code=1).output
    assert "split 'labelled'" in error
    said = toolkit("probe", store, "--out", tmp_path / "c", sets=["probe.judge=pool", "probe.labels=4"]).output
    assert "held-out subjects of the pool" in said
    error = toolkit("probe", store, "--out", tmp_path / "d", sets=["probe.labels=none"], code=1).output
    assert "probe.labels = 'none': takes a count of 2 or more, or \"all\"" in error


def test_many_subjects_are_told_by_their_score_first() -> None:
    found = {
        "classifier": "logistic", "n_labelled": 100, "n_pool": 300, "grouped": True, "decided": "group",
        "n_test": 14_976, "n_test_groups": 117, "accuracy": {"mean": 0.812, "sd": 0.02, "ci95": [0.75, 0.869]},
    }  # fmt: skip
    assert wording.headline({"probe": found}, {})["result"] == (
        "With 100 labelled subjects, a logistic classifier on these codes gets 81.2 % of 117 test subjects right "
        "(95 % interval 75.0–86.9)."
    )
    few = {**found, "n_test_groups": 14, "n_labelled": 300}
    assert wording.headline({"probe": few}, {})["result"] == (
        "With all 300 labelled subjects, a logistic classifier on these codes gets 75.0 to 86.9 % of subjects right "
        "(95 % interval; 81.2 % of the 14 test subjects)."
    )


def test_the_size_of_a_head_is_measured_in_its_own_millimetres(tmp_path: Path) -> None:
    """A block of 20 x 16 x 10 voxels of 2 x 3 x 4 mm: 19.2 cm2 in each axial slice, 76.8 ml in all."""
    data = np.zeros((40, 32, 30))
    data[10:30, 8:24, 12:22] = np.random.default_rng(0).uniform(800, 1000, (20, 16, 10))
    turned = np.array([[2, -1], [0, 1], [1, 1]])
    phantoms.save(tmp_path / "a.nii.gz", data, spacing=(2, 3, 4), orientation=turned, dtype="float32")
    card = tmp_path / "card.toml"
    card.write_text(
        'title = "t"\n[source]\nkind = "volumes"\n[image]\nsize = 32\nchannels = 1\n[slices]\ncount = 5\n'
    )  # fmt: skip
    prepared = prepare(load_card(str(card)), tmp_path, split=False)
    sizes = head_sizes(prepared.details["foreground"].tolist())
    np.testing.assert_allclose(sizes, [[20 * 16 * 6 / 100, 20 * 16 * 10 * 24 / 1000]] * 5, rtol=1e-5)


def test_real_heads_of_men_are_larger(real_data: Path) -> None:
    """Brains of adults have some 1,000 to 1,500 ml, men's about a tenth more (Ruigrok et al. 2014)."""
    brains = real_data / "brain_t1"
    card = load_card("ds002748", ["slices.count=3", "image.size=32", "slices.spacing=0"])
    prepared = prepare(card, brains / "ds002748_2mm", labels=brains / "ds002748_participants.tsv")
    people = prepared.samples.drop_duplicates("group")
    millilitres = head_sizes(prepared.details["foreground"].iloc[people.index].tolist())[:, 1].astype(float)
    men = (people["label"] == "male").to_numpy()
    assert men.sum() == 14
    assert 900 < np.median(millilitres) < 1700
    assert 1.05 < millilitres[men].mean() / millilitres[~men].mean() < 1.25
    assert 0.8 < (auroc(men.astype(int), np.stack([-millilitres, millilitres], axis=1)) or 0) < 1
