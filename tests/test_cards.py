from pathlib import Path

import pytest

from toolkit_datasets.card import card_from, card_names, card_text, load_card
from toolkit_datasets.errors import ToolkitError


@pytest.mark.parametrize("name", card_names())
def test_every_shipped_card_survives_a_round_trip_through_its_text(name: str, tmp_path: Path) -> None:
    card = load_card(name)
    (tmp_path / "copy.toml").write_text(card_text(card))
    assert load_card(str(tmp_path / "copy.toml")) == card
    assert card.title
    assert card.source.how_to_get, "a person without the data must be told how to get them"


def test_the_published_sizes_of_cats_vs_dogs() -> None:
    card = load_card("cats-vs-dogs")
    assert (card.split.unlabelled, card.split.labelled, card.split.test) == (5000, 5000, 15000)
    assert card.probe.labels == 100
    assert card.probe.draws == 20


def test_the_split_has_the_card_s_seed_unless_it_has_its_own(tmp_path: Path) -> None:
    assert load_card("cats-vs-dogs", seed=5).split_seed == 5
    card = load_card("cats-vs-dogs", ["split.seed=0"], seed=5)
    assert (card.split_seed, card.seed) == (0, 5)
    (tmp_path / "copy.toml").write_text(card_text(card))
    assert load_card(str(tmp_path / "copy.toml")).split_seed == 0


def test_overrides_are_read_as_toml_and_else_as_text() -> None:
    overrides = ["image.size=32", "split.unlabelled=0.5", "split.test=rest", "probe.curve=[10, 20]", "title=A = b"]
    card = load_card("cats-vs-dogs", overrides, seed=7)
    assert (card.image.size, card.split.unlabelled, card.split.test) == (32, 0.5, "rest")
    assert (card.probe.curve, card.title, card.seed) == ((10, 20), "A = b", 7)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("vqvae.codebok_size=3", ["vqvae.codebok_size", "codebook_size", "code_dim"]),
        ("colour=red", ["colour", "image", "split"]),
        ("image.size=3", ["image.size", "8"]),
        ("image.size=62", ["62", "vqvae.stride = 4", "64"]),
        ("image.size=60", ["60 px", "coarse.stride = 16", "image.size=64"]),
        ("coarse.size=40", ["40 px", "coarse.stride = 16", "coarse.size=32"]),
        ("split.test=1.5", ["split.test", "1.5", "share"]),
        ("split.test=-3", ["split.test", "-3"]),
        ("probe.classifier=forest", ["probe.classifier", "forest", "logistic"]),
        ("probe.labels=1", ["probe.labels = 1", "2 or more", "all"]),
        ('probe.baselines=["sift"]', ["sift", "head_size"]),
        ("image.size", ["key=value", "image.size"]),
        ("title.deep=3", ["title", "not a table"]),
    ],
)
def test_a_wrong_override_names_the_key_the_value_and_the_choices(override: str, words: list[str]) -> None:
    with pytest.raises(ToolkitError) as error:
        load_card("cats-vs-dogs", [override])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "gradient"),
    [
        ((), "straight-through"),
        (("vqvae.depth=2",), "rotation"),
        (("train.objective=reconstruct", "vqvae.depth=2"), "rotation"),
        (("vqvae.depth=2", "vqvae.gradient=straight-through"), "straight-through"),
    ],
)
def test_the_gradient_is_rotated_past_several_codes(overrides: tuple[str, ...], gradient: str) -> None:
    assert load_card("cats-vs-dogs", overrides).gradient == gradient


@pytest.mark.parametrize(("sets", "batch"), [((16,), 250), ((64,), 250), ((128,), 62), ((1024,), 1), ((128, 100), 100)])
def test_large_images_are_encoded_fewer_at_once(sets: tuple[int, ...], batch: int) -> None:
    keys = ("image.size", "encode.batch_size")
    card = load_card("cats-vs-dogs", [f"{key}={value}" for key, value in zip(keys, sets, strict=False)])
    assert card.encode_batch == batch


def test_slices_are_never_normalised_one_by_one() -> None:
    with pytest.raises(ToolkitError, match=r"image\.normalise = 'standard' would change each slice by itself"):
        load_card("ixi", ["image.normalise=standard"])


def test_an_unknown_card_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="cats-vs-dogs"):
        load_card("cats-vs-digs")
    (tmp_path / "bad.toml").write_text("title = ")
    with pytest.raises(ToolkitError, match="not valid TOML"):
        load_card(str(tmp_path / "bad.toml"))
    with pytest.raises(ToolkitError, match="title"):
        card_from({}, origin="card x")
