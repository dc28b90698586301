"""The tables of a card that say what the data are: where they come from, who is who, and what a model gets to see.

The others, of the two stages, stand in card.py beside the card itself.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Size = int | float | Literal["rest"]
"""How many a split takes: a count, a share from 0 to 1, or all that is left. Of images; of subjects for volumes."""
Pool = Size | Literal["unlabelled"]
"""What `split.labelled` takes: a size, or the word that makes one split serve both stages."""


class Part(BaseModel):
    """One table of a card: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Part):
    """Where the images come from."""

    kind: Literal["images", "volumes", "builtin", "torchvision"] = "images"
    dataset: str = ""  # which one, for `builtin` (digits) and `torchvision` (a class of torchvision.datasets)
    arguments: dict[str, str | int | bool] = {}  # keyword arguments of the torchvision class
    url: str = ""  # an archive that may be downloaded, where the licence allows it
    sha256: str = ""  # of that archive
    homepage: str = ""
    licence: str = "unknown: ask the publisher"
    how_to_get: str = ""  # one sentence for a person who has no data yet
    patterns: tuple[str, ...] = ()  # regular expressions on the relative path; named groups: see samples.py
    only_matching: bool = False  # leave other files alone, such as masks beside the images, or other contrasts


class Labels(Part):
    """How labels are found. A table (`--labels`) goes before the pattern's `label` group. See tables.py."""

    kind: Literal["class", "continuous"] = "class"  # continuous: labels are numbers, such as ages; never guessed
    names: dict[str, str] = {}  # what is read -> the label used, such as {"Cat": "cat"}; empty: as read
    none: tuple[str, ...] = ()  # read as "has no label", such as a folder called "unlabelled"
    table: str = ""  # a CSV, TSV, XLS or XLSX file that must be there: one row for each file or subject
    find: tuple[str, ...] = ()  # else: names of such a table in the data folder; without one, nothing is labelled
    id_column: str = ""  # of the table: whom a row is about; empty: file, id, path, participant_id, …
    id_pattern: str = ""  # the part of it that counts: 'IXI\d{3}' makes IXI012-HH-1211-T1 to IXI012
    id_format: str = ""  # turns a number in it into the name used in the files: "IXI{:03d}" makes 2 IXI002
    column: str = ""  # of the table: the label; or a group of the pattern, such as "site"; empty: label, class, …

    @field_validator("id_pattern")
    @classmethod
    def _is_a_pattern(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return text

    @field_validator("id_format")
    @classmethod
    def _formats_a_number(cls, text: str) -> str:
        try:
            known = not text or text.format(1) != text.format(2)
        except (ValueError, IndexError, KeyError, AttributeError):
            known = False
        if not known:
            raise ValueError('takes a format with a place for one whole number, such as "IXI{:03d}" or "sub-{:02d}"')
        return text


class Image(Part):
    """What each image is turned into before a model sees it."""

    size: int = Field(64, ge=8, le=1024)  # px, both sides; 64 trains in minutes on two cores
    channels: Literal[1, 3] = 3
    fit: Literal["crop", "pad", "squash"] = "crop"  # crop keeps shapes true and has no invented border; pictures only
    normalise: Literal["none", "standard"] = "none"  # standard: less its mean, by its sd, to 0-1; pictures only


class Slices(Part):
    """How a volume becomes slices (`source.kind = "volumes"`). See slicing.py for positions and sides.

    `start` and `stop` are in the unit that `by` says, and half-open as Python's ranges.
    """

    axis: Literal["axial", "coronal", "sagittal"] = "axial"  # by anatomy, however the file stores it
    by: Literal["head", "fraction", "index", "mm"] = "head"  # shares of the head, of the volume; slices; mm from below
    start: float | None = None  # none: from the first; negative indices count from the end
    stop: float | None = None  # none: to the last
    count: int = Field(32, ge=0)  # so many slices, evenly within the range; 0: every stored slice in it
    spacing: float = Field(0.0, ge=0)  # mm for each pixel; 0: as the field of view and the image size have it
    fov: float = Field(0.0, ge=0)  # mm, side of the square shown; 0: the longer side of the plane, nothing is cut off
    centre: Literal["volume", "head"] = "volume"  # of the field of view
    clip: tuple[float, float] = (0.5, 99.5)  # percentiles of the whole volume's foreground that are black and white
    least: float = Field(0.01, gt=0, lt=1)  # share of a slice that must be foreground, or it is skipped as empty
    strip: Literal["none", "auto", "mri_synthstrip", "hd-bet"] = "none"  # the tool that takes the skull off first

    @field_validator("clip")
    @classmethod
    def _percentiles(cls, clip: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= clip[0] < clip[1] <= 100:
            raise ValueError("takes two percentiles, smallest first, such as [0.5, 99.5]")
        return clip

    @model_validator(mode="after")
    def _range_fits_its_unit(self) -> Slices:
        ends = [end for end in (self.start, self.stop) if end is not None]
        if self.by == "index" and any(end != int(end) for end in ends):
            raise ValueError(f"slices.by = 'index' takes whole numbers for start and stop, not {ends}")
        if self.by in ("head", "fraction") and any(not 0 <= end <= 1 for end in ends):
            raise ValueError(f"slices.by = {self.by!r} takes shares from 0 to 1 for start and stop, not {ends}")
        if self.by == "head" and not self.count:
            raise ValueError("slices.by = 'head' needs slices.count: how long the head is shows only in the voxels")
        same_side = len(ends) == 2 and (ends[0] < 0) == (ends[1] < 0)
        if same_side and ends[0] >= ends[1]:
            raise ValueError(f"slices.start = {ends[0]:g} must be below slices.stop = {ends[1]:g}")
        if self.fov and self.spacing:
            raise ValueError("slices.fov and slices.spacing both say how large a pixel is: set one of them to 0")
        return self


class Split(Part):
    """Who learns, who is labelled, who judges. See splits.py for the rules."""

    unlabelled: Size = 0.5  # stage 1 learns from these, and never reads their labels
    labelled: Pool = 0.25  # the pool from which label draws are taken; "unlabelled": that split is the pool too
    test: Size = 0.25
    test_part: str = ""  # where the publisher fixed a test set: the value of the pattern's `part` group that marks it
    group: str = ""  # the pattern's group that must stay on one side, such as "subject"
    near_duplicates: float = Field(0.0, ge=0, lt=1)  # images whose thumbnails correlate so form a group too; 0: none
    count: Literal["auto", "images", "groups"] = "auto"  # what sizes count; auto: groups (subjects) for volumes
    by: Literal["group", "sample"] = "group"  # sample: cuts groups apart, so that scores are worthless as a rule
    allow_leakage: bool = False  # what `split.by = "sample"` needs (--allow-leakage); every result then says so
    seed: int | None = Field(None, ge=0)  # of the split alone, to train several times on one split; none: the card's

    @property
    def pool(self) -> str:
        """The split that label draws are taken from."""
        return "unlabelled" if self.labelled == "unlabelled" else "labelled"

    @field_validator("unlabelled", "labelled", "test", mode="before")
    @classmethod
    def _count_or_share(cls, size: object, about: ValidationInfo) -> object:
        words = ("rest", "unlabelled") if about.field_name == "labelled" else ("rest",)
        counts = isinstance(size, int | float) and size >= 0 and not (isinstance(size, float) and size > 1)
        if not counts and size not in words:
            choices = " or ".join(f'"{word}"' for word in words)
            raise ValueError(f"a split takes a count such as 5000, a share from 0.0 to 1.0, or {choices}")
        return size

    @model_validator(mode="after")
    def _somebody_is_in_the_pool(self) -> Split:
        if self.pool == "unlabelled" and not self.unlabelled:
            raise ValueError(
                "split.labelled = 'unlabelled' makes the split that stage 1 learns from the pool of labels, but "
                "split.unlabelled = 0 leaves it empty: set split.unlabelled above 0"
            )
        return self

    @model_validator(mode="after")
    def _leaks_only_if_allowed(self) -> Split:
        if self.by == "sample" and not self.allow_leakage:
            raise ValueError(
                "split.by = 'sample' puts samples of one group, such as slices of one person, on both sides of the "
                "split, and scores then say how well people are recognised. Keep split.by = 'group'; to do it all the "
                "same, give --allow-leakage, and every result will say so"
            )
        return self
