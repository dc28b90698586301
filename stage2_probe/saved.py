"""A fitted classifier on disk: `classifier.json` (what it is) and `classifier.npz` (its numbers). Never pickle.

A regressor of continuous targets is saved in the same two files; `kind` in the JSON tells them apart.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit_datasets.atomic import replacing, write_json
from toolkit_datasets.codes import Codes, Level
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.targets import Kind

from . import classifiers, regressors
from .features import Spec
from .learner import Learner

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Saved:
    """A classifier or regressor with all that is needed to apply it to new codes."""

    classifier: Learner
    classes: tuple[str, ...]  # empty for a regressor
    features: Spec
    model_hash: str
    content: str
    levels: tuple[Level, ...]
    decided: str = "group"  # what was judged: samples alone, or whole groups

    @property
    def kind(self) -> Kind:
        """What it predicts."""
        return "continuous" if isinstance(self.classifier, regressors.Regressor) else "class"


def save(folder: Path, saved: Saved, **about: Any) -> None:
    """Write both files into `folder`; `about` is added to the JSON for the reader, such as the accuracy."""
    arrays, info = saved.classifier.state()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    with replacing(folder / "classifier.npz") as temporary:
        temporary.write_bytes(data)
    write_json(
        folder / "classifier.json",
        {
            "format_version": FORMAT_VERSION,
            "kind": saved.kind,
            **info,
            "classes": list(saved.classes),
            "prediction" if saved.kind == "continuous" else "probabilities": saved.classifier.meaning,
            "features": asdict(saved.features),
            "content": _kind(saved.content),
            "levels": [asdict(level) for level in saved.levels],
            "model_hash": saved.model_hash,
            "decided": saved.decided,
            **about,
            "arrays_sha256": hashlib.sha256(data).hexdigest(),  # ties the two files together
        },
    )


def load(folder: Path) -> Saved:
    """Read what `save` wrote.

    Raises:
        ToolkitError: a file is missing, damaged, of another version, or the two do not belong together.
    """
    try:
        info = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        data = (folder / "classifier.npz").read_bytes()
    except (OSError, ValueError) as error:
        raise ToolkitError(
            f"no saved classifier in {folder} ({error}): give the folder that `toolkit probe` wrote, such as run/probe"
        ) from None
    if not isinstance(info, dict) or info.get("format_version") != FORMAT_VERSION:
        raise ToolkitError(f"{folder / 'classifier.json'} is of another version: run `toolkit probe` again")
    if hashlib.sha256(data).hexdigest() != info.get("arrays_sha256"):
        raise ToolkitError(
            f"{folder / 'classifier.npz'} does not belong to classifier.json beside it: run `toolkit probe` again"
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        family = regressors if info.get("kind", "class") == "continuous" else classifiers  # older files have classes
        return Saved(
            classifier=family.restore(arrays, info),
            classes=tuple(info["classes"]),
            features=Spec(**{**info["features"], "levels": tuple(info["features"]["levels"])}),
            model_hash=info["model_hash"],
            content=info["content"],
            levels=tuple(Level(**level) for level in info["levels"]),
            decided=info.get("decided", "group"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ToolkitError(
            f"{folder / 'classifier.json'} is incomplete ({error!r}): run `toolkit probe` again"
        ) from None


def check_codes(saved: Saved, codes: Codes) -> None:
    """Raise a ToolkitError where `codes` are not of the kind that the classifier was fitted on."""
    if codes.info.model_hash != saved.model_hash:
        raise ToolkitError(
            f"the codes in {codes.path} come from another model ({codes.info.model_hash[:12]}) than those the "
            f"classifier was fitted on ({saved.model_hash[:12]}): encode these images with that model, or run "
            "`toolkit probe` on codes of this one"
        )
    if _kind(codes.info.content) != _kind(saved.content):
        raise ToolkitError(
            f"the codes in {codes.path} hold {_kind(codes.info.content)}, but the classifier was fitted on "
            f"{_kind(saved.content)}: encode again with the same --content"
        )
    if codes.info.levels != saved.levels:
        raise ToolkitError(
            f"the codes in {codes.path} have the levels {_describe(codes.info.levels)}, but the classifier was fitted "
            f"on {_describe(saved.levels)}: encode images of the same size with the same model"
        )


def _kind(content: str) -> str:
    """Vectors and indices are the same codes, written differently; latents are not."""
    return "latents" if content == "latents" else "codes"


def _describe(levels: tuple[Level, ...]) -> str:
    return ", ".join(f"{level.name} ({level.height} x {level.width})" for level in levels)
