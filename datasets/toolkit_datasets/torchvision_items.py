"""The dataset classes of torchvision as a list of named, labelled pictures.

A card's `source.arguments` go to the class. One text argument may name several parts joined by "+", such as
`split = "trainval+test"`: each part is loaded, and its name leads the names of its pictures (`test/0042`), so that
`split.test_part = "test"` keeps the publisher's test set apart.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import output_folder
from .errors import ToolkitError
from .progress import Progress, Silent

if TYPE_CHECKING:
    from PIL.Image import Image

TARGETS = ("targets", "labels", "_labels", "_bin_labels")  # where classes keep their targets; checked before use
SPOT_CHECKS = 16


@dataclass(frozen=True)
class Items:
    """Pictures of one or several parts, opened one by one; safe to share between threads."""

    names: tuple[str, ...]  # "0042", or "test/0042" where there are several parts
    labels: tuple[str, ...]
    _parts: tuple[Any, ...]
    _starts: tuple[int, ...]  # first row of each part
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, row: int) -> Image:
        """Open picture `row`. One at a time: not every class of torchvision may be asked by two threads at once.

        Raises:
            ToolkitError: what the class yields is no picture.
        """
        from PIL import Image

        part = max(i for i, start in enumerate(self._starts) if start <= row)
        with self._lock:
            picture = self._parts[part][row - self._starts[part]][0]
        if not isinstance(picture, Image.Image):
            raise ToolkitError(
                f"torchvision.datasets.{type(self._parts[part]).__name__} yields {type(picture).__name__}, "
                "no pictures: choose a dataset for image classification"
            )
        return picture


def torchvision_items(
    name: str, arguments: Mapping[str, str | int | bool], root: Path, *, progress: Progress | None = None
) -> Items:
    """Load `torchvision.datasets.<name>` below `root`, downloaded by torchvision where it is not there yet.

    Args:
        name: of the class, such as `OxfordIIITPet`.
        arguments: of the class; see the top of this file for "+".
        root: the data folder.
        progress: shows what goes on.

    Raises:
        ToolkitError: no such class or argument, no network, or targets that are no classes.
    """
    progress = progress or Silent()
    cls = _class(name)
    split = [key for key, value in arguments.items() if isinstance(value, str) and "+" in value]
    if len(split) > 1:
        raise ToolkitError(f"source.arguments: only one may join parts with '+', not {' and '.join(split)}")
    if split:
        values = str(arguments[split[0]]).split("+")
        variants = [(f"{value}/", {**arguments, split[0]: _plain(value)}) for value in values]
    else:
        variants = [("", dict(arguments))]
    names: list[str] = []
    labels: list[str] = []
    parts, starts = [], []
    for prefix, own in variants:
        part = _open(cls, own, root, progress)
        starts.append(len(names))
        parts.append(part)
        width = len(str(max(0, len(part) - 1)))
        names += [f"{prefix}{i:0{width}d}" for i in range(len(part))]
        labels += _labels(part, progress)
    if not names:
        raise ToolkitError(f"torchvision.datasets.{name} is empty with the arguments {dict(arguments)}")
    return Items(tuple(names), tuple(labels), tuple(parts), tuple(starts))


def _class(name: str) -> type[Any]:
    from torchvision import datasets

    known = {
        key: value
        for key in datasets.__all__
        if inspect.isclass(value := getattr(datasets, key)) and issubclass(value, datasets.VisionDataset)
    }
    known.pop("VisionDataset", None)
    if name not in known:
        raise ToolkitError(f"source.dataset = {name!r}: torchvision.datasets has {', '.join(sorted(known))}")
    return known[name]


def _open(cls: type[Any], arguments: dict[str, Any], root: Path, progress: Progress) -> Any:
    """One instance: first from the disk, and only when it is not there, with a download."""
    accepted = inspect.signature(cls).parameters
    unknown = sorted(set(arguments) - set(accepted) | ({"root", "download"} & set(arguments)))
    if unknown:
        own = [key for key in accepted if key not in ("root", "download") and not key.endswith("transform")]
        choices = ", ".join(key for key in own if key != "transforms") or "none"
        raise ToolkitError(f"source.arguments: {cls.__name__} does not take {', '.join(unknown)}; it takes {choices}")
    if "root" in accepted:
        arguments = {"root": str(root), **arguments}
    try:
        try:
            return cls(**arguments)
        except (RuntimeError, FileNotFoundError):
            if "download" not in accepted:
                raise
        output_folder(root)
        progress.say(f"downloading {cls.__name__} into {root} with torchvision")
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and stdout is for data
            return cls(**arguments, download=True)
    except (RuntimeError, ValueError, TypeError, OSError, ImportError) as error:
        raise ToolkitError(
            f"torchvision cannot load {cls.__name__} from {root}: {error}. Check source.arguments and the network, or "
            "put the files there by hand as torchvision's documentation of the class says"
        ) from None


def _labels(part: Any, progress: Progress) -> list[str]:
    """The label of every picture of one part, without opening them all where the class keeps a list."""
    targets = _listed(part)
    if targets is None:
        targets = []
        with progress.bar("reading labels", len(part), "images") as bar:
            for i in range(len(part)):
                targets.append(_target(part, part[i][1]))
                bar.update()
    names = _class_names(part, targets)
    return [names[target] if isinstance(target, int) and target < len(names) else str(target) for target in targets]


def _listed(part: Any) -> list[int | str] | None:
    """The class's own list of targets, if it has one that agrees with what it yields picture by picture."""
    rows = sorted({i * (len(part) - 1) // max(1, SPOT_CHECKS - 1) for i in range(SPOT_CHECKS)}) if len(part) else []
    truth = [_target(part, part[row][1]) for row in rows]
    for attribute in TARGETS:
        found = getattr(part, attribute, None)
        if found is None or not hasattr(found, "__len__") or len(found) != len(part):
            continue
        try:
            listed = [_target(part, target) for target in found]
        except ToolkitError:
            continue
        if [listed[row] for row in rows] == truth:
            return listed
    return None


def _target(part: Any, target: Any) -> int | str:
    """A class number or name; numpy and torch scalars become plain numbers."""
    if isinstance(target, str):
        return target
    try:
        if getattr(target, "ndim", 0) == 0 and float(target) == int(target):
            return int(target)
    except (TypeError, ValueError):
        pass
    raise ToolkitError(
        f"the targets of torchvision.datasets.{type(part).__name__} are no classes (one is {str(target)[:60]!r}): "
        "choose a dataset for classification, or set its target type in source.arguments"
    )


def _class_names(part: Any, targets: list[int | str]) -> list[str]:
    """What the class numbers are called, as far as the class says."""
    highest = max((target for target in targets if isinstance(target, int)), default=-1)
    candidates = ("classes", "bin_classes", "categories")
    if "binary" in str(getattr(part, "_target_types", "")):  # Oxford-IIIT Pet has both lists at once
        candidates = ("bin_classes", "classes", "categories")
    for attribute in candidates:
        names = getattr(part, attribute, None)
        if isinstance(names, list | tuple) and len(names) > highest and all(isinstance(name, str) for name in names):
            return list(names)
    return []


def _plain(text: str) -> str | bool:
    """`true` and `false` as truth values, for arguments such as `train = "true+false"`."""
    return {"true": True, "false": False}.get(text, text)
