"""The report: its sentences, its sections with and without their input, its escaping, and how a browser sees it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_run import FakePrepared, fake_results, interval, make_run, noise

from toolkit import code_map, report, wording
from toolkit_datasets.errors import ToolkitError


class Page(HTMLParser):
    """What a test asks of a page: tags with attributes, and text by the id of the element around it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def section(html: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', html, re.DOTALL)
    assert found, name
    return found[1]


def assert_self_contained(html: str) -> None:
    """No tag of the page loads anything: every address is data or points inside the page."""
    for tag, attributes in Page(html).tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "a", "form"}, tag
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#")), (tag, key, value)
            if key == "style":
                assert "url(" not in str(value).replace("url(#", "")
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakePrepared]:
    folder = tmp_path_factory.mktemp("report") / "run"
    return folder, make_run(folder, labels=["cat", "dog"], images=noise())


@pytest.fixture(scope="module")
def html(run: tuple[Path, FakePrepared]) -> str:
    return report.write_report(*run).read_text(encoding="utf-8")


def test_every_section_is_there_and_filled(html: str) -> None:
    for name in ("accuracy", "label-curve", "confusion", "map", "codebook", "training"):
        assert "<svg" in section(html, name), name
        assert "missing" not in section(html, name), name
    assert section(html, "reconstructions").count("<img") == 16
    assert "15,000" in section(html, "reconstructions")
    assert "image file is truncated" in section(html, "skipped")
    assert "toolkit run fake --data DIR" in section(html, "data")
    assert "20 draws" in section(html, "honesty")


def test_page_needs_nothing_outside(html: str) -> None:
    assert_self_contained(html)
    assert "default-src 'none'" in html


def test_ids_are_unique(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_reference_inside_has_its_target(html: str) -> None:
    ids = set(re.findall(r' id="([^"]+)"', html))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    assert used
    assert {a or b for a, b in used} <= ids


def test_same_run_gives_the_same_bytes(run: tuple[Path, FakePrepared], html: str) -> None:
    assert report.write_report(*run).read_text(encoding="utf-8") == html


def test_headline_says_plainly_that_codes_lose() -> None:
    results = fake_results(["cat", "dog"], 15000)
    found = wording.headline(results, {})
    assert found["result"] == (
        "With 100 labels, a logistic classifier on these codes gets 53.1 % of 15,000 test images right "
        "(95 % interval 51.9–54.3)."
    )
    assert found["verdict"] == (
        "That is better than guessing the commonest class (50.0 %); worse than raw pixels (54.3 %) and HOG (63.3 %); "
        "not distinguishable from an untrained encoder (53.0 %)."
    )
    assert found["conclusion"] == ("The codes are NOT better than raw pixels, HOG and an untrained encoder here.")


def test_headline_says_plainly_that_codes_win() -> None:
    found = wording.headline(fake_results(["cat", "dog"], 15000, codes=0.8), {})
    assert found["conclusion"] == "The codes are better than every baseline here."
    assert "worse" not in found["verdict"]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([0.001, 0.02], "better"),
        ([-0.02, -0.001], "worse"),
        ([-0.01, 0.01], "not distinguishable"),
        ([0.0, 0.02], "not distinguishable"),
        (None, "not compared"),
    ],
)
def test_verdict_follows_the_paired_interval(bounds: list[float] | None, expected: str) -> None:
    assert wording.verdict({"mean": 0.0, "ci95": bounds}) == expected


def test_without_labels_the_page_speaks_of_reconstruction(tmp_path: Path) -> None:
    prepared = make_run(tmp_path / "run", labels=["cat", "dog"], images=noise(), probed=False)
    html = report.write_report(tmp_path / "run", prepared).read_text(encoding="utf-8")
    assert "rebuilds unseen test images at 21.2 dB PSNR, SSIM 0.64, from 0.141 bits per pixel." in html
    assert "no image has a label" in section(html, "accuracy")
    assert 'id="label-curve"' not in html


@pytest.mark.parametrize(
    ("remove", "name"),
    [
        ("stage1/history.csv", "training"),
        ("stage1/examples.npz", "reconstructions"),
        ("stage1/metrics.json", "codebook"),
        ("codes", "map"),
        ("samples.csv", "skipped"),
        ("probe/predictions.csv", "gallery"),
    ],
)
def test_a_missing_input_leaves_a_note(run: tuple[Path, Any], tmp_path: Path, remove: str, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    target = folder / remove
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    html = report.write_report(folder, run[1]).read_text(encoding="utf-8")
    assert 'class="missing"' in section(html, name)


def test_only_trained_folder_still_gives_a_page(run: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(run[0] / "stage1", tmp_path / "stage1")
    html = report.write_report(tmp_path, None).read_text(encoding="utf-8")
    assert "rebuilds unseen test images" in html
    assert "the run holds no results of a probe" in html


def test_splits_are_counted_from_the_sample_table_where_results_lack_them(run: tuple[Path, Any]) -> None:
    table = report.splits_table({}, run[0] / "samples.csv")
    good = run[1].samples.query("status == 'ok'")
    assert table is not None
    assert table["labels"] == ["cat", "dog"]
    assert [split for split, _, _ in table["rows"]] == ["unlabelled", "labelled", "test"]
    for split, total, counts in table["rows"]:
        own = good[good["split"] == split]
        assert total == len(own)
        assert counts == [int((own["label"] == label).sum()) for label in ("cat", "dog")]


def test_not_a_run_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"neither results\.json nor stage1/metrics\.json"):
        report.write_report(tmp_path, None)


def test_broken_json_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ToolkitError, match="not valid JSON"):
        report.write_report(tmp_path, None)


def test_broken_code_store_only_costs_the_map(run: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    (folder / "codes" / "meta.json").write_text("{")
    html = report.write_report(folder, run[1]).read_text(encoding="utf-8")
    assert "cannot be read" in section(html, "map")


def test_gallery_shows_the_most_confident_and_never_a_wrong_picture(tmp_path: Path) -> None:
    images = noise(6)
    samples = pd.DataFrame({"id": ["a", "b", "c", "d", "same", "same"], "label": "cat"})
    pd.DataFrame(
        {
            "file": list("012345"),
            "id": samples["id"],
            "label": "cat",
            "predicted": ["cat", "cat", "dog", "dog", "dog", "cat"],
            "p_cat": [0.6, 0.9, 0.3, 0.1, 0.0, 1.0],
            "p_dog": [0.4, 0.1, 0.7, 0.9, 1.0, 0.0],
        }
    ).to_csv(tmp_path / "predictions.csv", index=False)
    found = report.gallery(tmp_path / "predictions.csv", FakePrepared(samples, images))
    assert found is not None
    (cat,) = found["classes"]
    assert [(t["id"], t["probability"]) for t in cat["right"]] == [("b", 0.9), ("a", 0.6)]
    assert [(t["id"], t["probability"]) for t in cat["wrong"]] == [("d", 0.9), ("c", 0.7)]
    assert cat["right"][0]["image"] == report.png(images[1])


def test_quarters_are_means_in_reading_order() -> None:
    vectors = np.arange(2 * 1 * 3 * 4.0).reshape(2, 1, 3, 4)
    first = vectors[0, 0]
    expected = [first[:2, :2].mean(), first[:2, 2:].mean(), first[2:, :2].mean(), first[2:, 2:].mean()]
    assert code_map.quarters(vectors)[0].tolist() == expected
    assert code_map.quarters(vectors[:, :, :1, :1]).tolist() == [[0.0], [12.0]]


def test_the_majority_is_a_line_and_no_curve() -> None:
    results = fake_results(["cat", "dog"], 100)
    results["curve"]["accuracy"]["majority"] = [interval(0.5)] * 5
    found = report.probe(results)
    assert found is not None
    assert found["curve"].count("guessing the commonest class") == 1
    assert "majority" not in found["curve_data"]["accuracy"]


def test_principal_plane_finds_a_planted_plane() -> None:
    random = np.random.default_rng(0)
    plane = random.normal(size=(500, 2)) * [5.0, 2.0]
    basis = np.linalg.qr(random.normal(size=(7, 2)))[0]  # (7, 2)
    features = plane @ basis.T + random.normal(scale=1e-3, size=(500, 7)) + 3
    points, shares = code_map.principal_plane(features)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert shares[0] > shares[1]
    assert abs(np.corrcoef(points[:, 0], plane[:, 0])[0, 1]) > 0.98
    assert np.array_equal(points, code_map.principal_plane(features)[0])


def test_principal_plane_of_equal_codes_is_no_error() -> None:
    points, shares = code_map.principal_plane(np.ones((5, 3)))
    assert not points.any()
    assert shares == (0.0, 0.0)
    assert code_map.principal_plane(np.arange(5.0)[:, None])[1] == (1.0, 0.0)


EVIL = ["<script>alert(1)</script>", "$\\frac{a}$ & \"b\" onload='x'", "long " * 200, "猫 жук"]


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("evil") / "run"
    prepared = make_run(folder, labels=EVIL, images=noise(64, 1))
    samples = pd.read_csv(folder / "samples.csv", dtype=str, keep_default_na=False)
    samples.loc[63, "path"] = "<img src=x onerror=alert(1)>.jpg"
    samples.to_csv(folder / "samples.csv", index=False)
    return report.write_report(folder, prepared).read_text(encoding="utf-8")


def test_names_and_labels_are_escaped(evil: str) -> None:
    assert_self_contained(evil)
    assert "<script" not in evil
    assert "<img src=x" not in evil
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in section(evil, "gallery")
    assert "&lt;img src=x onerror=alert(1)&gt;.jpg" in section(evil, "skipped")
    assert "onload=" not in {key for _, attributes in Page(evil).tags for key in attributes}


def test_labels_in_plots_are_names_not_mathematics(evil: str) -> None:
    texts = "".join(Page(section(evil, "map")).text)
    assert "$\\frac{a}$" in texts
    assert "猫 жук" in texts
    assert "long long" in texts
    assert "long " * 20 not in texts  # shortened, or the legend would leave the page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not on the PATH")
@pytest.mark.parametrize("which", ["html", "evil"])
def test_chromium_shows_the_headline_and_runs_nothing(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(request.getfixturevalue(which), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --dump-dom --timeout=5000"
    profile = tmp_path / "profile"
    command = ["chromium", *flags.split(), f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    dom = done.stdout
    assert_self_contained(dom)
    headline = re.search(r'<h1 id="headline">(.*?)</h1>', dom)
    assert headline
    assert headline[1].startswith("With 100 labels, a logistic classifier on these codes gets 53.1 %")
    assert dom.count("<svg") == 6
    assert "Refused to" not in done.stderr  # the page's own policy found nothing to forbid
