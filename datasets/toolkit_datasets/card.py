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

from pydantic import Field, ValidationError, field_validator, model_validator

from .card_data import Image, Labels, Part, Slices, Source, Split
from .errors import ToolkitError


class Train(Part):
    """Stage 1's training."""

    objective: Literal["reconstruct", "agree", "vae"] = "reconstruct"  # VQ-VAE; with a coarse level; VAE: see [vae]
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=1)  # small batches learn most per second on a CPU
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup: float = Field(0.05, ge=0, le=1)  # share of all steps
    clip: float = Field(1.0, gt=0)  # gradient norm
    validation: float = Field(0.05, gt=0, lt=1)  # share of the unlabelled images held out from training
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # bfloat16 only where the device computes in it


class Corrupt(Part):
    """What is done to an image before the encoder sees it in training; the decoder must still give the clean one."""

    noise: float = Field(0.0, ge=0)  # standard deviation of Gaussian noise; 1 is that of the training images
    mask: float = Field(0.0, ge=0, lt=1)  # share of square cells painted in the mean colour
    cell: int = Field(8, ge=1)  # px, side of such a cell


class Views(Part):
    """The random views of an image that should agree. What must not matter for the labels is varied, and only that.

    The defaults suit photographs. For scans take `grey`, `saturation` and `tint` back to 0 and allow small turns.
    """

    share: float = Field(0.75, gt=0, le=1)  # a view's side over the image's: smaller views, more of them in the time
    area: tuple[float, float] = (0.25, 1.0)  # of the image that a view shows
    aspect: float = Field(1.33, ge=1)  # largest ratio of the sides of what it shows
    flip: bool = True  # left and right
    rotate: float = Field(0.0, ge=0, le=180)  # degrees, either way
    brightness: float = Field(0.4, ge=0, le=1)  # factor from 1 - this to 1 + this
    contrast: float = Field(0.4, ge=0, le=1)
    saturation: float = Field(0.6, ge=0, le=1)
    grey: float = Field(0.2, ge=0, le=1)  # share of views without colour
    tint: float = Field(0.05, ge=0, le=1)  # standard deviation of a shift of each channel

    @field_validator("area")
    @classmethod
    def _shares(cls, area: tuple[float, float]) -> tuple[float, float]:
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError("takes two shares, smallest first, such as [0.25, 1.0]")
        return area


class Agree(Part):
    """The training of the coarse level: an image's two views should be closer than views of different images."""

    epochs: int = Field(260, ge=1)  # half an hour for 5,000 images of 64 px on two cores
    most_images: int = Field(1_300_000, ge=1)  # seen in all: larger sets take fewer epochs and no more time
    batch_size: int = Field(250, ge=2)  # every other image of the batch is a counter-example
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.1, ge=0, le=1)  # share of all steps
    clip: float = Field(1.0, gt=0)  # gradient norm
    temperature: float = Field(0.2, gt=0)  # of the softmax over counter-examples
    hidden: int = Field(512, ge=1)  # of the projection that training puts behind the pooled map, and then drops
    projection: int = Field(128, ge=2)

    def epochs_for(self, images: int) -> int:
        """Epochs of a training on so many images: `epochs`, or what `most_images` allows.

        >>> Agree().epochs_for(5_000), Agree().epochs_for(100_000)
        (260, 13)
        """
        return max(1, min(self.epochs, -(-self.most_images // images)))


class Coarse(Part):
    """The coarse level of objective `agree`: what is in the picture, in a few bytes."""

    size: int = Field(64, ge=8)  # px: larger images are seen at this size, so that they take no more time
    stride: Literal[4, 8, 16, 32] = 16  # of the trunk
    width: int = Field(32, ge=8)  # channels at stride 2; they double with every further halving
    patterns: int = Field(128, ge=0)  # small patterns that are looked for beside what the trunk sees
    grid: int = Field(1, ge=1)  # places with codes along each side; 1: the image as a whole
    codebook_size: int = Field(256, ge=2, le=65536)
    depth: int = Field(64, ge=1)  # codes at each place, each from a codebook of its own: 64 bytes


class VQVAE(Part):
    """Stage 1's model, but for objective `vae`."""

    network: Literal["default", "thesis"] = "default"  # thesis: its own widths, stride 64, code_dim 16
    stride: Literal[2, 4, 8, 16, 32, 64] = 8  # pixels per code along each side
    width: int = Field(64, ge=8)  # channels of the widest convolutions are 2 x width
    blocks: int = Field(2, ge=0)  # residual blocks at code resolution, in the encoder and in the decoder
    codebook_size: int = Field(512, ge=2, le=65536)
    depth: int = Field(1, ge=1)  # residual codes at each place: more bits per pixel, sharper pictures
    code_dim: int = Field(64, ge=1)
    commitment: float = Field(0.25, ge=0)  # beta of van den Oord et al. 2017
    decay: float = Field(0.99, gt=0, lt=1)  # of the codebook's moving averages
    restart: float = Field(0.05, ge=0, lt=1)  # a code used less than this share of an even share is moved; 0: never

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        """The codebook size of the thesis was not published: 128 is our choice, and may be another."""
        if not isinstance(data, Mapping) or data.get("network") != "thesis":
            return data
        return {"codebook_size": 128, **_fixed("vqvae", data, stride=64, code_dim=16)}


class VAE(Part):
    """The model of objective `vae`: a vector for each image, without codes; see docs/models.md."""

    network: Literal["default", "thesis"] = "default"  # thesis: its own widths, stride 32, latent_dim 1024
    stride: Literal[2, 4, 8, 16, 32] = 8  # of the map under the dense layers
    width: int = Field(64, ge=8)  # channels of the widest convolutions are 2 x width
    blocks: int = Field(2, ge=0)  # residual blocks on that map, in the encoder and in the decoder
    latent_dim: int = Field(64, ge=1)  # numbers for each image, each of 32 bits
    noise: float = Field(0.5, gt=0)  # deviation of the decoder's Gaussian; 1 is that of the training images
    kl_warmup: float = Field(0.2, ge=0, le=1)  # share of all steps in which the weight of the KL grows from 0 to 1

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("network") != "thesis":
            return data
        return _fixed("vae", data, stride=32, latent_dim=1024)


def _fixed(table: str, data: Mapping[str, Any], **fixed: int) -> dict[str, Any]:
    """`data` of a table with what its network fixes filled in; refused where it says something else."""
    for key, value in fixed.items():
        if data.get(key, value) != value:
            raise ValueError(
                f"the network {data['network']!r} has {table}.{key} = {value}, not {data[key]!r}: leave it out, set it "
                f'to {value}, or set {table}.network = "default"'
            )
    return {**data, **fixed}


class Encode(Part):
    """What stage 1 writes."""

    format: Literal["npy", "h5"] = "npy"
    content: Literal["vectors", "indices", "latents"] = "vectors"
    batch_size: int = Field(250, ge=1)  # fixed and padded, so that codes do not depend on how many images there are


class Probe(Part):
    """Stage 2's protocol."""

    labels: int = Field(100, ge=2)  # per draw, all classes together; subjects where the data are grouped
    draws: int = Field(20, ge=1)
    features: Literal["auto", "vectors", "mean", "cells", "histogram", "pyramid"] = "auto"  # auto: each draw chooses
    grid: int = Field(2, ge=1)  # cells along each side, for cells and pyramid
    levels: tuple[str, ...] = ()  # of the code levels to read; empty: all
    judge: Literal["test", "pool"] = "test"  # pool: half of it, to compare configurations without touching the test set
    classifier: Literal["logistic", "ridge", "svm", "knn", "mlp", "cnn"] = "logistic"  # on numbers: ridge
    curve: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000)  # sizes of the label curve; empty: none
    baselines: tuple[Literal["pixels", "hog", "random"], ...] = ("pixels", "hog", "random")


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
                f"choose a multiple{at_least}, such as "
                f"{max(fewest, round(self.image.size / model.stride)) * model.stride}"
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
            raise ValueError(
                f"the coarse level sees images of {size} px, which coarse.stride = {coarse.stride} does not divide: "
                "set coarse.stride or coarse.size"
            )
        largest = min(size // coarse.stride, self.image.size // self.vqvae.stride)
        if coarse.grid > largest:
            raise ValueError(
                f"coarse.grid = {coarse.grid} is finer than the trunk's map or the fine codes: "
                f"set it to {largest} or less"
            )

    @model_validator(mode="after")
    def _one_window_for_a_volume(self) -> Card:
        if self.source.kind == "volumes" and self.image.normalise != "none":
            raise ValueError(
                f"image.normalise = {self.image.normalise!r} would change each slice by itself; the grey values of "
                "volumes come from slices.clip: set image.normalise=none"
            )
        return self

    @property
    def split_seed(self) -> int:
        """What decides the split: its own seed where it has one."""
        return self.seed if self.split.seed is None else self.split.seed

    @property
    def counts_groups(self) -> bool:
        """Whether split sizes count groups, not images."""
        return self.split.count == "groups" or (self.split.count == "auto" and self.source.kind == "volumes")

    @property
    def coarse_size(self) -> int:
        """Pixels along each side of what the coarse level sees: those of the image, at most `coarse.size`."""
        return min(self.image.size, self.coarse.size)


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
