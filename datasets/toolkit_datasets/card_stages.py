"""The tables of a card that say what is done: stage 1's training and models, what is written, stage 2's protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .card_data import Part


class Train(Part):
    """Stage 1's training."""

    objective: Literal["reconstruct", "agree", "vae"] = "reconstruct"  # VQ-VAE; with a coarse level; VAE: see [vae]
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(16, ge=1)  # few images need many steps; a GPU is busier with larger batches
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

    epochs: int = Field(200, ge=1)  # 25 minutes or so for 5,000 images of 64 px on two cores
    most_images: int = Field(1_000_000, ge=1)  # seen in all: larger sets take fewer epochs and no more time
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
        (200, 10)
        """
        return max(1, min(self.epochs, -(-self.most_images // images)))


class Coarse(Part):
    """The levels of objective `agree` that sum the picture up, in a few bytes each: `coarse` and `patterns`."""

    size: int = Field(64, ge=8)  # px: larger images are seen at this size, so that they take no more time
    stride: Literal[4, 8, 16, 32] = 16  # of the trunk
    width: int = Field(32, ge=8)  # channels at stride 2; they double with every further halving
    patterns: int = Field(64, ge=0)  # small patterns that are looked for beside what the trunk sees; 0: no such level
    grid: int = Field(1, ge=1)  # places with codes along each side; 1: the image as a whole
    codebook_size: int = Field(256, ge=2, le=65536)
    depth: int = Field(24, ge=1)  # codes at each place and level, each from a codebook of its own: 24 bytes


class VQVAE(Part):
    """Stage 1's model, but for objective `vae`."""

    network: Literal["default", "thesis"] = "default"  # thesis: its own widths, stride 64, code_dim 16
    stride: Literal[2, 4, 8, 16, 32, 64] = 4  # pixels per code along each side
    width: int = Field(64, ge=8)  # channels at stride 4: half as many before, twice as many after
    blocks: int = Field(2, ge=0)  # residual blocks at code resolution, in the encoder and in the decoder
    codebook_size: int = Field(1024, ge=2, le=65536)
    depth: int = Field(1, ge=1)  # residual codes at each place
    code_dim: int = Field(16, ge=1)
    commitment: float = Field(0.25, ge=0)  # beta of van den Oord et al. 2017
    gradient: Literal["auto", "rotation", "straight-through"] = "auto"  # past the codes; auto: rotation where depth > 1
    decay: float = Field(0.9975, gt=0, lt=1)  # of the codebook's averages: over 6,400 images; 0.99 forgets rare codes
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
    batch_size: int = Field(0, ge=0)  # images at once; 0: 250, and of more than 64 px as many pixels


Baseline = Literal["pixels", "hog", "random", "head_size"]


class Probe(Part):
    """Stage 2's protocol."""

    labels: int | Literal["all"] = 100  # per draw, all classes together; subjects where grouped; "all": the whole pool
    draws: int = Field(20, ge=1)  # one where they would take the whole pool
    unit: Literal["auto", "sample", "group"] = "auto"  # what labels count and is decided upon; auto: groups of several
    features: Literal["auto", "vectors", "mean", "cells", "histogram", "pyramid"] = "auto"  # auto: each draw chooses
    grid: int = Field(2, ge=1)  # cells along each side, for cells and pyramid
    levels: tuple[str, ...] = ()  # of the code levels to read; empty: all
    judge: Literal["test", "pool"] = "test"  # pool: half of it, to compare configurations without touching the test set
    classifier: Literal["logistic", "ridge", "svm", "knn", "mlp", "cnn"] = "logistic"  # on numbers: ridge
    curve: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000)  # sizes of the label curve; empty: none
    baselines: tuple[Baseline, ...] = ("pixels", "hog", "random", "head_size")  # head_size: of volumes only

    @field_validator("labels", mode="before")
    @classmethod
    def _count_or_all(cls, labels: object) -> object:
        if labels != "all" and not (isinstance(labels, int) and labels >= 2):
            raise ValueError('takes a count of 2 or more, or "all" for one draw of the whole pool')
        return labels
