"""Priors, walks between latents, the nearest training images, and the aggregate posterior."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import digits

from stage1_vqvae.aggregate import Aggregate, AggregateSums
from stage1_vqvae.batches import load
from stage1_vqvae.checkpoint import Loaded, load_model
from stage1_vqvae.interpolation import linear, spherical, walk
from stage1_vqvae.model import build
from stage1_vqvae.neighbours import MEASURES, Search
from stage1_vqvae.prior import StandardNormal, prior_of
from stage1_vqvae.reconstruct import decoded_pictures, reconstruct, to_uint8
from stage1_vqvae.sample import UNSEEN, between, compare, draw
from stage1_vqvae.train import train
from stage1_vqvae.vae import LATENTS, VAE, Posterior
from toolkit_datasets.card import card_from
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared

SPLITS = {"unlabelled": 200, "labelled": 8, "test": 120}
VAE_TABLE = {"stride": 4, "width": 16, "blocks": 0, "latent_dim": 8, "noise": 0.3}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return digits(SPLITS, objective="vae", epochs=60, learning_rate=0.005, tables={"vae": VAE_TABLE})


@pytest.fixture(scope="module")
def vae(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A VAE of 8 latents on 200 digits of 8x8, trained until pictures differ."""
    folder = tmp_path_factory.mktemp("vae")
    train(prepared, folder, device="cpu")
    return load_model(folder, "cpu")


@pytest.fixture(scope="module")
def plain() -> tuple[Prepared, Loaded]:
    """An untrained VQ-VAE, and its images."""
    prepared = digits(SPLITS)
    return prepared, Loaded(build(prepared.card, seed=0).eval(), prepared.card, {}, "")


# Priors


def test_draws_are_normal_with_the_temperature_as_their_deviation() -> None:
    latents = StandardNormal(50).draw(400, seed=0, temperature=0.5)[LATENTS]
    assert latents.shape == (400, 50, 1, 1)
    assert latents.dtype == torch.float32
    assert float(latents.mean()) == pytest.approx(0, abs=0.02)
    assert float(latents.std()) == pytest.approx(0.5, abs=0.02)
    assert torch.allclose(2 * latents, StandardNormal(50).draw(400, seed=0)[LATENTS])


def test_the_first_of_many_draws_are_those_of_few_to_the_last_pixel(vae: Loaded) -> None:
    prior = prior_of(vae.model)
    few, many = draw(vae, prior, 3, seed=5), draw(vae, prior, 40, seed=5)  # 32 in a batch
    assert (few == many[:3]).all()
    assert few.dtype == np.uint8
    assert few.shape == (3, 8, 8, 1)
    assert not (few == draw(vae, prior, 3, seed=6)).all()


def test_a_colder_prior_gives_pictures_that_are_more_alike(vae: Loaded) -> None:
    prior = prior_of(vae.model)
    spread = [
        draw(vae, prior, 64, seed=0, temperature=t).astype(float).std(0).mean() for t in (0.1, 0.5, 1.0)
    ]  # fmt: skip
    assert spread == sorted(spread)
    assert spread[0] < 0.5 * spread[2]


def test_a_vqvae_has_no_prior_and_says_what_is_possible(plain: tuple[Prepared, Loaded]) -> None:
    with pytest.raises(ToolkitError, match="--between IMAGE IMAGE, or draws from a VAE, trained with --objective vae"):
        prior_of(plain[1].model)


# Walks


@given(st.integers(0, 2**31), st.integers(2, 40), st.floats(0.1, 10))
def test_the_arc_has_the_ends_equal_angles_and_lengths_between_them(seed: int, dim: int, scale: float) -> None:
    first, last = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, dim)))
    last = scale * last
    points = spherical(first, last, torch.linspace(0, 1, 5).double())
    assert torch.allclose(points[0], first)
    assert torch.allclose(points[-1], last)
    cosine = float(first @ last / first.norm() / last.norm())
    if abs(cosine) > 0.99:  # nearly one line: angles of float64 say little
        return
    equal = spherical(first, last * first.norm() / last.norm(), torch.linspace(0, 1, 5).double())
    assert torch.allclose(equal.norm(dim=1), first.norm().expand(5))
    steps = [float(a @ b / first.norm() ** 2) for a, b in itertools.pairwise(equal)]
    assert np.arccos(steps) == pytest.approx([math.acos(cosine) / 4] * 4, abs=1e-6)


def test_the_middle_of_an_arc_is_as_long_as_draws_and_that_of_a_line_is_not() -> None:
    first, last = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    half = torch.tensor([0.5])
    assert float(spherical(first, last, half).norm()) == pytest.approx(math.sqrt(1000), rel=0.05)
    assert float(linear(first, last, half).norm()) == pytest.approx(math.sqrt(500), rel=0.05)


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, 0.0])
def test_ends_in_one_direction_are_joined_by_a_line(factor: float) -> None:
    first = torch.tensor([1.0, 2.0])
    shares = torch.tensor([0.0, 0.25, 1.0])
    assert torch.allclose(spherical(first, factor * first, shares), linear(first, factor * first, shares))


def test_a_walk_begins_and_ends_at_the_reconstructions(vae: Loaded, prepared: Prepared) -> None:
    ends = np.ascontiguousarray(prepared.images[[0, 7]])
    pictures = between(vae, ends, 5)
    rebuilt = to_uint8(reconstruct(vae.model, load(ends, np.arange(2), torch.device("cpu")))[0])
    assert np.abs(pictures[[0, -1]].astype(int) - rebuilt).max() <= 1  # another batch size: the last bit
    changes = np.abs(np.diff(pictures.astype(float), axis=0)).mean((1, 2, 3))
    whole = np.abs(pictures[0].astype(float) - pictures[-1]).mean()
    assert changes.max() < 0.8 * whole, "no step jumps from one image to the other"


def test_a_walk_through_a_vqvae_is_quantised_at_every_step(plain: tuple[Prepared, Loaded]) -> None:
    prepared, loaded = plain
    vectors = walk(loaded.model, np.ascontiguousarray(prepared.images[:2]), 4)
    for name, quantizer in loaded.model.quantizers.items():
        places = vectors[name].permute(0, 2, 3, 1).reshape(-1, quantizer.dim)
        assert float(torch.cdist(places, quantizer.codebook[0]).min(1).values.max()) < 1e-4
    assert between(loaded, prepared.images[:2], 4).shape == (4, 8, 8, 1)


# Neighbours


def found_in(loaded: Loaded, pictures: np.ndarray, images: np.ndarray, rows: np.ndarray, size: int) -> Search:
    search = Search(loaded.model, pictures, batch_size=32)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        batch = load(images, part, torch.device("cpu"))
        with torch.inference_mode():
            search.add(part, batch, loaded.model.encode(batch))
    return search


@pytest.mark.parametrize("size", [1, 7, 200])
def test_neighbours_are_those_of_brute_force_in_float64(vae: Loaded, prepared: Prepared, size: int) -> None:
    rows = np.arange(10, 150)
    pictures = np.ascontiguousarray(prepared.images[200:212])
    found = found_in(vae, pictures, prepared.images, rows, size).found()
    with torch.inference_mode():
        latents = [
            vae.model.encode(load(each, np.arange(len(each)), torch.device("cpu")))[LATENTS].flatten(1).double().numpy()
            for each in (pictures, prepared.images[rows])
        ]
    pixels = [each.reshape(len(each), -1) / 255 for each in (pictures, prepared.images[rows])]
    for measure, (mine, theirs) in zip(MEASURES, (pixels, latents), strict=True):
        table = np.sqrt(((mine[:, None] - theirs[None]) ** 2).mean(-1))
        assert (found[measure].rows == rows[table.argmin(1)]).all()
        np.testing.assert_allclose(found[measure].distances, table.min(1), rtol=1e-4)


def test_a_copy_is_at_the_distance_zero_exactly(vae: Loaded, prepared: Prepared) -> None:
    rows = np.arange(100)
    found = found_in(vae, np.ascontiguousarray(prepared.images[40:44]), prepared.images, rows, 32).found()
    for measure in MEASURES:
        assert found[measure].rows.tolist() == [40, 41, 42, 43]
    assert (found["pixels"].distances == 0).all()
    assert found["latents"].distances.max() < 1e-5  # the encoder saw them in another batch


def test_copies_are_told_from_unseen_images_and_from_draws(vae: Loaded, prepared: Prepared) -> None:
    """Rebuilt training images, which is what a model that has learned them by heart would draw."""

    def suspected(pictures: np.ndarray) -> float:
        compared = compare(vae, prepared, pictures)
        assert compared.learners + len(compared.yardstick.rows) < 328
        nearer = [compared.yardstick.nearer_than(m, compared.nearest[m].distances) for m in MEASURES]
        return float((np.maximum(*nearer) > 0.95).mean())

    def rebuilt(rows: np.ndarray) -> np.ndarray:
        return to_uint8(reconstruct(vae.model, load(prepared.images, rows, torch.device("cpu")))[0])

    assert suspected(rebuilt(np.arange(0, 200, 4))) > 0.6
    assert suspected(rebuilt(np.arange(208, 328, 2))) < 0.2
    assert suspected(draw(vae, prior_of(vae.model), 50, seed=0)) < 0.2


def test_the_yardstick_are_unseen_images_and_counts_those_farther_off(vae: Loaded, prepared: Prepared) -> None:
    compared = compare(vae, prepared, np.ascontiguousarray(prepared.images[:2]))
    yardstick = compared.yardstick
    assert (yardstick.split, len(yardstick.rows)) == ("test", min(UNSEEN, 120))
    assert set(yardstick.rows) <= set(range(208, 328))
    usual = np.sort(yardstick.rebuilt["pixels"].distances)
    shares = yardstick.nearer_than("pixels", np.array([0.0, usual[59], 1e6], np.float32))
    assert shares.tolist() == [1.0, 0.5, 0.0]
    assert np.median(yardstick.rebuilt["pixels"].distances) < np.median(yardstick.originals["pixels"].distances)


def test_a_model_without_test_images_is_judged_by_its_validation_images(tmp_path: Path) -> None:
    alone = digits({"unlabelled": 60}, epochs=1)
    train(alone, tmp_path, device="cpu")
    loaded = load_model(tmp_path, "cpu")
    compared = compare(loaded, alone, np.ascontiguousarray(alone.images[:3]))
    assert compared.yardstick.split == "validation"
    assert compared.learners + len(compared.yardstick.rows) == 60
    assert compared.aggregate is None, "a VQ-VAE has no posterior"


# The aggregate posterior


def test_its_moments_are_those_of_draws_from_all_posteriors() -> None:
    draws = np.random.default_rng(0)
    mean, log_variance = draws.normal(size=(60, 3)), draws.normal(size=(60, 3)) - 1
    sums = AggregateSums(3)
    for start in (0, 25, 50):
        part = slice(start, start + 25)
        rest = min(25, 60 - start)
        filled = [np.concatenate([each[part], np.full((25 - rest, 3), 99.0)]) for each in (mean, log_variance)]
        sums.add(Posterior(*map(torch.from_numpy, filled)), rest)
    found = sums.found()
    many = (mean[:, None] + np.exp(log_variance / 2)[:, None] * draws.normal(size=(60, 20_000, 3))).reshape(-1, 3)
    np.testing.assert_allclose(found.mean, many.mean(0), atol=0.01)
    np.testing.assert_allclose(found.variance, many.var(0), rtol=0.02)
    np.testing.assert_allclose(found.of_means + np.diag(found.within), np.cov(many.T), atol=0.02)


def test_nats_from_the_prior_equal_a_library_and_see_what_hangs_together() -> None:
    mean = np.array([0.3, -0.2])
    covariance = np.array([[0.5, 0.4], [0.4, 0.9]])
    within = np.array([0.2, 0.1])
    found = Aggregate(mean, covariance - np.diag(within), within)
    normal = torch.distributions.MultivariateNormal
    other = torch.distributions.kl_divergence(
        normal(torch.tensor(mean), torch.tensor(covariance)), normal(torch.zeros(2).double(), torch.eye(2).double())
    )
    assert found.nats == pytest.approx(float(other))
    apart = Aggregate(mean, np.diag(covariance.diagonal() - within), within)
    assert apart.nats < found.nats
    assert Aggregate(np.zeros(2), np.eye(2) * 0.25, np.full(2, 0.75)).nats == pytest.approx(0)


def test_latents_that_never_vary_are_not_active() -> None:
    found = Aggregate(np.zeros(3), np.diag([0.5, 0.011, 0.009]), np.ones(3))
    assert found.active.tolist() == [True, True, False]


def test_decoding_does_not_depend_on_the_number_of_pictures() -> None:
    card = card_from({"title": "x", "image": {"size": 8, "channels": 3}, "train": {"objective": "vae"}}, origin="test")
    model = build(card, seed=0).eval()
    assert isinstance(model, VAE)
    latents = torch.randn(9, model.dim, 1, 1, generator=torch.Generator().manual_seed(1))
    all_of_them = decoded_pictures(model, {LATENTS: latents}, batch_size=4)
    assert all_of_them.shape == (9, 8, 8, 3)
    assert (decoded_pictures(model, {LATENTS: latents[8:]}, batch_size=4) == all_of_them[8:]).all()
