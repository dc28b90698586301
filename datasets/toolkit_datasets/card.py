"""Cards: everything that is particular to a dataset, in one TOML file.

A card becomes a frozen `Card`; each default stands on a line with its reason. `load_card` reads a shipped card by
name or a user's own by path, applies `key=value` overrides, and names the known keys when one is unknown.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from .card_data import Image, Labels, Part, Slices, Source, Split
from .card_stages import VAE, VQVAE, Agree, Coarse, Corrupt, Encode, Probe, Train, Views
from .errors import ToolkitError

ENCODED = 250  # images of 64 px that the encoder is given at once: half a gigabyte at work


class Card(Part):
    """A dataset and the settings that suit it."""

    name: str = ""
    title: str
    description: str = ""
    seed: int = Field(0, ge=0)
    source: Source = Source()
    labels: Labels = Labels()
    image: Image = Image()
    slices: Slices = Slices()
    split: Split = Split()
    train: Train = Train()
    corrupt: Corrupt = Corrupt()
    vqvae: VQVAE = VQVAE()
    vae: VAE = VAE()
    coarse: Coarse = Coarse()
    agree: Agree = Agree()
    views: Views = Views()
    encode: Encode = Encode()
    probe: Probe = Probe()

    @model_validator(mode="before")
    @classmethod
    def _vae_writes_latents(cls, data: Any) -> Any:
        """A VAE has nothing else to write, so a card that does not say what to write means them."""
        vae = isinstance(data, Mapping) and _at(data, "train").get("objective") == "vae"
        return {**data, "encode": {"content": "latents", **_at(data, "encode")}} if vae else data

    @model_validator(mode="after")
    def _size_fits_stride(self) -> Card:
        table = "vae" if self.train.objective == "vae" else "vqvae"
        model = self.vae if table == "vae" else self.vqvae
        # A map of one place and a batch of one image would leave the thesis's batch norm nothing to average over.
        fewest = 2 if model.network == "thesis" else 1
        if self.image.size % model.stride or self.image.size < fewest * model.stride:
            at_least = f" of at least {fewest * model.stride}" if fewest > 1 else ""
            raise ValueError(
                f"image.size = {self.image.size} is not divisible by {table}.stride = {model.stride}: "
                f"choose a multiple{at_least}, such as {_multiple(self.image.size, model.stride, fewest=fewest)}"
            )
        if table == "vae" and self.encode.content != "latents":
            raise ValueError(
                f'a VAE has no codebook, so it cannot write encode.content = "{self.encode.content}": '
                'leave it out, or set it to "latents"'
            )
        if self.train.objective == "agree":
            self._coarse_fits()
        return self

    def _coarse_fits(self) -> None:
        size, coarse = self.coarse_size, self.coarse
        if size % coarse.stride:
            key, other = ("image.size", coarse.size) if size == self.image.size else ("coarse.size", self.image.size)
            fits = min(_multiple(size, coarse.stride), max(other // coarse.stride, 1) * coarse.stride)
            raise ValueError(
                f"the coarse level sees images of {size} px, which coarse.stride = {coarse.stride} does not divide: "
                f"choose a multiple, such as {key}={fits}, or another coarse.stride"
            )
        largest = min(size // coarse.stride, self.image.size // self.vqvae.stride)
        if coarse.grid > largest:
            raise ValueError(
                f"coarse.grid = {coarse.grid} is finer than the trunk's map or the fine codes: "
                f"set it to {largest} or less"
            )

    @model_validator(mode="after")
    def _one_window_for_a_volume(self) -> Card:
        if self.of_volumes and self.image.normalise != "none":
            raise ValueError(
                f"image.normalise = {self.image.normalise!r} would change each slice by itself; the grey values of "
                "volumes come from slices.clip: set image.normalise=none"
            )
        return self

    @property
    def of_volumes(self) -> bool:
        """Whether the images are slices of volumes, which have a foreground: see `intensity.foreground_of`."""
        return self.source.kind == "volumes"

    @property
    def split_seed(self) -> int:
        """What decides the split: its own seed where it has one."""
        return self.seed if self.split.seed is None else self.split.seed

    @property
    def counts_groups(self) -> bool:
        """Whether split sizes count groups, not images."""
        return self.split.count == "groups" or (self.split.count == "auto" and self.of_volumes)

    @property
    def coarse_size(self) -> int:
        """Pixels along each side of what the coarse level sees: those of the image, at most `coarse.size`."""
        return min(self.image.size, self.coarse.size)

    @property
    def gradient(self) -> Literal["rotation", "straight-through"]:
        """How the decoder's gradient gets past the codes of the VQ-VAE's own level.

        As published, unless there are several codes at each place, which die in a long training
        (docs/decisions/0013-rotation.md).
        """
        if self.vqvae.gradient != "auto":
            return self.vqvae.gradient
        return "rotation" if self.vqvae.depth > 1 else "straight-through"

    @property
    def encode_batch(self) -> int:
        """Images that a finished model is given at once: batches are padded to it, so that codes do not depend on how
        many images there are.

        It is pixels that take memory, so large images come a few at a time.
        """
        return self.encode.batch_size or max(1, min(ENCODED, ENCODED * 64**2 // self.image.size**2))


def _multiple(size: int, stride: int, *, fewest: int = 1) -> int:
    """The multiple of `stride` that is nearest to `size`, at least `fewest` of them."""
    return max(fewest, round(size / stride)) * stride


def _at(data: Mapping[str, Any], table: str) -> Mapping[str, Any]:
    """A table of a card's plain data, or of one made in Python; empty where it is missing or no table."""
    found = data.get(table, {})
    if isinstance(found, Part):
        return found.model_dump()
    return found if isinstance(found, Mapping) else {}


def card_names() -> list[str]:
    """Names of the shipped cards, sorted."""
    folder = resources.files("toolkit_datasets.cards")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_card(name_or_path: str, overrides: Sequence[str] = (), *, seed: int | None = None) -> Card:
    """Read a shipped card by its name or any card by its path, and apply `key=value` overrides such as `image.size=32`.

    Raises:
        ToolkitError: no such card, not TOML, an unknown key or a value out of range.
    """
    if name_or_path in card_names():
        name = name_or_path
        text = resources.files("toolkit_datasets.cards").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    elif name_or_path.endswith(".toml") and Path(name_or_path).is_file():
        name, text = Path(name_or_path).stem, Path(name_or_path).read_text(encoding="utf-8")
    else:
        raise ToolkitError(
            f"no card called {name_or_path!r}: choose one of {', '.join(card_names())}, "
            "or give the path of a card of your own ending in .toml"
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ToolkitError(f"the card {name_or_path} is not valid TOML: {error}") from None
    data.setdefault("name", name)
    return card_from(data, overrides, seed=seed, origin=f"card {name_or_path}")


def card_from(data: Mapping[str, Any], overrides: Sequence[str] = (), *, seed: int | None = None, origin: str) -> Card:
    """Validate the plain data of a card, after `key=value` overrides; `origin` names it in errors."""
    plain = copy.deepcopy(dict(data))
    for override in overrides:
        _apply(plain, override)
    if seed is not None:
        plain["seed"] = seed
    try:
        return Card.model_validate(plain)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            table = key.rpartition(".")[0]
            raise ToolkitError(
                f"{origin}: unknown key {key!r}. Known keys{f' of [{table}]' if table else ''}: "
                + ", ".join(_known_keys(problem["loc"][:-1]))
            ) from None
        value = f" = {problem['input']!r}" if key and not isinstance(problem["input"], dict) else ""
        message = problem["msg"].removeprefix("Value error, ")
        raise ToolkitError(f"{origin}: {key}{value}: {message}" if key else f"{origin}: {message}") from None


def card_text(card: Card) -> str:
    """The card as TOML; reading it back gives an equal card."""
    import tomli_w

    return tomli_w.dumps(card.model_dump(mode="json", exclude_none=True))


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one `table.key=value` in the plain data of a card. The value is read as TOML, else as plain text."""
    key, equals, raw = override.partition("=")
    if not equals or not key.strip():
        raise ToolkitError(f"--set takes key=value, such as --set image.size=32; got {override!r}")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    *tables, last = key.strip().split(".")
    for table in tables:
        inner = data.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ToolkitError(f"--set {override}: {table!r} is not a table of the card")
        data = inner
    data[last] = value


def _known_keys(location: Sequence[int | str]) -> list[str]:
    model: Any = Card
    for part in location:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)
