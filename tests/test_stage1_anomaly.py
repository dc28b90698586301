"""Maps and scores of what is unusual: rarity of codes, errors over their usual spread, and a mark that is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tiny_training import digits

from stage1_vqvae import healthy as fitting
from stage1_vqvae import surprise as rarity
from stage1_vqvae.anomaly import Detector, Healthy, Recipe, smoothed, top_mean
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.healthy import PixelErrors, fit_healthy, joined, load_healthy, save_healthy
from stage1_vqvae.surprise import CodeTally, surprise
from stage1_vqvae.train import train
from toolkit_datasets.codes import Level
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import SILENT

CPU = torch.device("cpu")
SPLITS = {"unlabelled": 300, "labelled": 100, "test": 120, "unused": 0}


class TestSurprise:
    level = Level("codes", depth=2, codes=5, dim=3, height=3, width=2)

    def tallied(self, indices: np.ndarray, parts: int = 1) -> torch.Tensor:
        tally = CodeTally(self.level, CPU)
        for part in np.array_split(indices, parts):
            tally.add(torch.from_numpy(part))
        return torch.from_numpy(tally.table())

    def codes(self, n: int = 40, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 4, (n, 2, 3, 2))  # code 4 never comes

    def test_shares_sum_to_one_everywhere_and_no_code_is_impossible(self) -> None:
        table = self.tallied(self.codes())
        assert table.shape == (2, 6, 5)
        assert torch.exp(-table).sum(2) == pytest.approx(1.0, abs=1e-5)
        assert torch.isfinite(table).all()
        assert (table[:, :, 4] > table[:, :, :4].amax(2)).all()

    def test_the_value_by_hand(self) -> None:
        """60 images: code 0 everywhere, but for one place and depth where half of them have code 1."""
        indices = np.zeros((60, 2, 3, 2), int)
        indices[:30, 0, 1, 1] = 1
        table = self.tallied(indices)
        overall = (30 + 0.5) / (6 * 60 + 5 * 0.5)  # of code 1 at the first depth
        share = (30 + rarity.PRIOR * overall) / (60 + rarity.PRIOR)
        assert table[0, 3, 1].item() == pytest.approx(-np.log(share), rel=1e-5)  # place 1, 1 of a 3 x 2 grid
        elsewhere = rarity.PRIOR * overall / (60 + rarity.PRIOR)
        assert table[0, 0, 1].item() == pytest.approx(-np.log(elsewhere), rel=1e-5)

    def test_batches_do_not_matter(self) -> None:
        assert torch.equal(self.tallied(self.codes()), self.tallied(self.codes(), parts=7))

    def test_a_table_too_large_for_places_counts_all_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rarity, "MOST_BYTES", 4 * 2 * 6 * 5 - 1)
        table = self.tallied(self.codes(200))
        assert table.shape == (2, 1, 5)
        assert torch.exp(-table).sum(2) == pytest.approx(1.0, abs=1e-5)
        counts = np.bincount(self.codes(200)[:, 1].ravel(), minlength=5)
        assert torch.exp(-table)[1, 0] == pytest.approx((counts + 0.5) / (counts.sum() + 2.5), abs=1e-3)
        found = surprise(table, torch.from_numpy(self.codes(3)))
        assert found.shape == (3, 3, 2)

    def test_lookup_is_the_sum_over_depths_at_each_place(self) -> None:
        table, indices = self.tallied(self.codes()), self.codes(4, seed=9)
        found = surprise(table, torch.from_numpy(indices))
        for n, y, x in np.ndindex(4, 3, 2):
            wanted = sum(table[depth, 2 * y + x, indices[n, depth, y, x]].item() for depth in range(2))
            assert found[n, y, x].item() == pytest.approx(wanted, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_the_mean_of_the_highest_pixels(seed: int, share: float, filled: float) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(3, 5, 7)).astype(np.float32)
    inside = rng.random((3, 5, 7)) < filled
    found = top_mean(torch.from_numpy(maps), inside=torch.from_numpy(inside), share=share).numpy()
    for each, counted, value in zip(maps, inside, found, strict=True):
        kept = np.sort(each[counted])[::-1]
        if not len(kept):
            assert np.isnan(value)
            continue
        # The product is taken in float32, as the module does.
        wanted = max(1, int(np.ceil(np.float32(share) * np.float32(len(kept)))))
        assert value == pytest.approx(kept[:wanted].mean(), abs=1e-5)


def test_usual_errors_are_those_of_each_place_drawn_towards_all() -> None:
    rng = np.random.default_rng(0)
    error = (rng.random((30, 8, 8)) * np.linspace(0.1, 1, 8)).astype(np.float32)
    inside = rng.random((30, 8, 8)) < 0.7
    inside[:, 0, 0] = False  # where no healthy head reaches
    errors = PixelErrors(8, CPU)
    for part in np.array_split(np.arange(30), 4):
        errors.add(torch.from_numpy(error[part]), torch.from_numpy(inside[part]))
    mean, spread = (each[0] for each in errors.statistics())
    everything = error[inside]
    assert mean[0, 0] == pytest.approx(everything.mean(), rel=1e-5)
    assert spread[0, 0] == pytest.approx(everything.std(), rel=1e-4)
    own = error[:, 3, 5][inside[:, 3, 5]]

    def drawn(values: np.ndarray, all_values: np.ndarray) -> float:
        """Towards all places, and then, being the only zone, towards this place once more."""
        place = (values.sum() + fitting.PRIOR * all_values.mean()) / (len(values) + fitting.PRIOR)
        return float((values.sum() + fitting.PRIOR * place) / (len(values) + fitting.PRIOR))

    wanted, square = drawn(own, everything), drawn(own**2, everything**2)
    assert mean[3, 5] == pytest.approx(wanted, rel=1e-5)
    assert spread[3, 5] == pytest.approx(np.sqrt(square - wanted**2), rel=1e-4)
    assert mean.dtype == spread.dtype == np.float32


def test_parts_join_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    error, inside = torch.from_numpy(rng.random((12, 8, 8))), torch.from_numpy(rng.random((12, 8, 8)) < 0.5)
    whole, parts = PixelErrors(8, CPU), [PixelErrors(8, CPU) for _ in range(3)]
    whole.add(error, inside)
    for number, part in enumerate(parts):
        part.add(error[number::3], inside[number::3])
    for one, other in zip(joined(parts).statistics(), whole.statistics(), strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_a_person_is_judged_by_what_is_usual_in_others(model: Autoencoder, prepared: Prepared) -> None:
    """Few people with many images each: with their own errors among the usual ones all would look usual."""
    rows, groups = prepared.rows("labelled")[:40], np.repeat(np.arange(4), 10)
    images = prepared.images.copy()
    images[rows[groups == 3]] = 255 - images[rows[groups == 3]]  # one of them is very odd
    words = {"learned": prepared.rows("unlabelled"), "held_out": rows, "batch_size": 32, "progress": SILENT}
    words["zones"] = np.zeros(len(images), int)
    by_person = fit_healthy(model, images, groups=groups, **words)  # type: ignore[arg-type]
    alone = fit_healthy(model, images, groups=np.zeros(40), **words)  # type: ignore[arg-type]
    assert by_person.mean == pytest.approx(alone.mean, abs=1e-6)
    assert by_person.scores["error"].max() > 1.5 * alone.scores["error"].max()


def test_zones_have_their_own_usual_errors_and_borrow_where_they_have_none() -> None:
    rng = np.random.default_rng(0)
    zones = np.arange(400) % 2
    error = torch.from_numpy((rng.random((400, 8, 8)) * (1 + 2 * zones[:, None, None])).astype(np.float32))
    errors = PixelErrors(8, CPU, zones=3)
    errors.add(error, torch.ones(400, 8, 8, dtype=torch.bool), zones)
    mean, spread = errors.statistics()
    assert mean.shape == spread.shape == (3, 8, 8)
    assert mean[0] == pytest.approx(0.5, abs=0.12)
    assert mean[1] == pytest.approx(1.5, abs=0.25)
    assert mean[2] == pytest.approx(1.0, abs=0.15), "a zone that nobody showed is as usual as the place"


def test_constant_errors_have_a_spread_to_divide_by() -> None:
    errors = PixelErrors(8, CPU)
    errors.add(torch.full((5, 8, 8), 0.25), torch.ones(5, 8, 8, dtype=torch.bool))
    mean, spread = (each[0] for each in errors.statistics())
    assert mean == pytest.approx(0.25)
    assert (spread > 0).all()


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    sizes = {"stride": 2, "width": 16, "codebook_size": 32}
    return digits(SPLITS, epochs=8, batch_size=32, learning_rate=4e-3, vqvae=sizes)


@pytest.fixture(scope="module")
def model(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    folder = tmp_path_factory.mktemp("run") / "stage1"
    train(prepared, folder, device="cpu")
    return load_model(folder, "cpu").model


def fitted(model: Autoencoder, prepared: Prepared, batch_size: int = 32) -> Healthy:
    return fit_healthy(
        model,
        prepared.images,
        learned=prepared.rows("unlabelled"),
        held_out=prepared.rows("labelled"),
        groups=np.arange(100),
        zones=np.zeros(len(prepared.images), int),
        batch_size=batch_size,
        progress=SILENT,
    )


@pytest.fixture(scope="module")
def healthy(model: Autoencoder, prepared: Prepared) -> Healthy:
    return fitted(model, prepared)


def marked(prepared: Prepared) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test digits, every second one with two by two grey pixels where it was black: images, truth, masks."""
    images = prepared.images[prepared.rows("test")].copy()
    ill = np.arange(len(images)) % 2 == 0
    masks = np.zeros(images.shape[:3], bool)
    for row in np.flatnonzero(ill):
        dark = np.argwhere(images[row, :7, :7, 0] + 0 < 30)
        y, x = dark[row % len(dark)]
        masks[row, y : y + 2, x : x + 2] = True
    images[masks] = 140
    return images, ill, masks


def test_a_mark_that_no_digit_has_is_found_by_errors_and_by_codes(
    model: Autoencoder, prepared: Prepared, healthy: Healthy
) -> None:
    images, ill, masks = marked(prepared)
    detector = Detector(model, healthy)
    scores: dict[str, list[np.ndarray]] = {}
    pixels: dict[str, list[np.ndarray]] = {}
    for part, maps in detector.run(images, np.arange(len(images)), batch_size=32):
        assert len(maps.rebuilt) == len(maps.error) == len(part)
        for name, values in detector.scores(maps).items():
            scores.setdefault(name, []).append(values)
        for name, each in maps.named().items():
            pixels.setdefault(name, []).append(each.numpy())
    areas = {name: roc_auc_score(ill, np.concatenate(parts)) for name, parts in scores.items()}
    places = {name: roc_auc_score(masks.ravel(), np.concatenate(parts).ravel()) for name, parts in pixels.items()}
    # Of 8x8 pixels a mark is hard to tell from a stroke; what heads give is in test_anomaly_cli.py.
    assert areas["error"] > 0.65, areas
    assert areas["surprise"] > 0.65, areas
    assert places["error"] > 0.65, places
    assert places["surprise"] > 0.65, places


def test_healthy_images_are_usual_and_batches_do_not_matter(
    model: Autoencoder, prepared: Prepared, healthy: Healthy
) -> None:
    assert {name: len(values) for name, values in healthy.scores.items()} == {"error": 100, "surprise": 100}
    assert healthy.mean.shape == healthy.spread.shape == (1, 8, 8)
    unseen = np.concatenate(
        [
            Detector(model, healthy).scores(maps)["error"]
            for _, maps in Detector(model, healthy).run(prepared.images, prepared.rows("test"), batch_size=32)
        ]
    )
    assert np.median(unseen) == pytest.approx(np.median(healthy.scores["error"]), rel=0.15)
    other = fitted(model, prepared, batch_size=17)
    assert other.mean == pytest.approx(healthy.mean, abs=1e-6)
    assert other.scores["error"] == pytest.approx(healthy.scores["error"], abs=1e-4)


def test_pixels_that_do_not_count_change_no_score(model: Autoencoder, prepared: Prepared, healthy: Healthy) -> None:
    def left_half(batch: torch.Tensor) -> torch.Tensor:
        return torch.arange(8).expand(len(batch), 8, 8) < 4

    batch = torch.from_numpy(prepared.images[:32].transpose(0, 3, 1, 2).copy())
    detector = Detector(model, healthy, left_half)
    maps = detector.maps(batch)
    outside = torch.where(maps.inside, maps.deviation, 1e6)
    assert (detector.scores(replace(maps, deviation=outside))["error"] == detector.scores(maps)["error"]).all()
    nowhere = replace(maps, inside=maps.inside & False)
    assert np.isnan(detector.scores(nowhere)["error"]).all()


def test_blurring_is_a_gaussian_of_a_share_of_the_side() -> None:
    point = torch.zeros(1, 64, 64)
    point[0, 32, 32] = 1
    spread = smoothed(point, Recipe(blur=1 / 32))[0].numpy()
    places = np.arange(64) - 32
    assert np.sqrt((spread.sum(0) * places**2).sum()) == pytest.approx(2.0, rel=0.03)
    assert spread.sum() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(smoothed(point, Recipe(blur=0.0)), point)


def test_what_is_healthy_is_kept_without_pickle_and_only_for_its_own_model(healthy: Healthy, tmp_path: Path) -> None:
    path, about = tmp_path / "healthy.npz", {"model_hash": "a1", "healthy": ""}
    save_healthy(path, healthy, about)
    again = load_healthy(path, about)
    assert again is not None
    assert again.rarity is not None
    assert healthy.rarity is not None
    for one, other in ((again.mean, healthy.mean), (again.spread, healthy.spread), (again.rarity, healthy.rarity)):
        assert (one == other).all()
    assert again.scores.keys() == healthy.scores.keys()
    assert again.recipe == healthy.recipe
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) >= {"about", "mean", "spread", "rarity"}
    assert load_healthy(path, {**about, "model_hash": "b2"}) is None
    path.write_bytes(path.read_bytes()[:200])
    assert load_healthy(path, about) is None
    assert load_healthy(tmp_path / "none.npz", about) is None


def test_a_vae_has_errors_and_no_codes(prepared: Prepared, tmp_path: Path) -> None:
    latent = digits(SPLITS, epochs=1, objective="vae", tables={"vae": {"stride": 2, "width": 8, "latent_dim": 4}})
    train(latent, tmp_path / "stage1", device="cpu")
    model = load_model(tmp_path / "stage1", "cpu").model
    found = fitted(model, latent)
    assert found.rarity is None
    assert set(found.scores) == {"error"}
    maps = Detector(model, found).maps(torch.from_numpy(latent.images[:4].transpose(0, 3, 1, 2).copy()))
    assert maps.surprise is None
    save_healthy(tmp_path / "h.npz", found, {})
    again = load_healthy(tmp_path / "h.npz", {})
    assert again is not None
    assert again.rarity is None


def test_one_healthy_image_is_too_few(model: Autoencoder, prepared: Prepared) -> None:
    with pytest.raises(ToolkitError, match=r"2 or more healthy images .* there is 1"):
        fit_healthy(
            model, prepared.images, learned=prepared.rows("unlabelled"), held_out=np.array([0]),
            groups=np.array(["a"]),
            zones=np.zeros(520, int), batch_size=8, progress=SILENT,
        )  # fmt: skip
