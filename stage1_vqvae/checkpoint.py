"""A trained model on disk: `model.safetensors` (weights) and `model.json` (all else). Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from toolkit_datasets.atomic import replacing, write_json
from toolkit_datasets.card import Card, card_from
from toolkit_datasets.codes import versions
from toolkit_datasets.errors import ToolkitError

from .autoencoder import Autoencoder
from .device import choose_device
from .model import untrained

FORMAT = 2
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Loaded:
    """A trained model and what is known about it."""

    model: Autoencoder
    card: Card
    metrics: dict[str, Any]
    model_hash: str  # sha256 of model.safetensors, in hex


def save_model(
    folder: Path,
    model: Autoencoder,
    card: Card,
    metrics: Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Write both files, `model.json` last: where it stands, the model is finished. Returns the model's hash.

    `settings` is what decided the weights, kept so that a resumed training can tell whether this is the one it wants.
    """
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(
            save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})
        )
    model_hash = sha256(folder / WEIGHTS)
    description = {
        "format_version": FORMAT,
        "model_hash": model_hash,
        "architecture": {
            "name": model.kind,
            "parameters": model.parameter_count,
            "bits_per_pixel": model.bits_per_pixel,
            "levels": [asdict(level) for level in model.levels],
        },
        "seed": card.seed,
        "card": card.model_dump(mode="json"),
        "settings": dict(settings or {}),
        "metrics": dict(metrics),
        "versions": versions(),
    }
    write_json(folder / DESCRIPTION, description)
    return model_hash


def load_model(folder: Path, device: str = "auto") -> Loaded:
    """The trained model in `folder`, ready to encode on `device`.

    Raises:
        ToolkitError: no finished model there, damaged files, or weights that are not the ones described.
    """
    place = choose_device(device)
    description = describe(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ToolkitError(f"{weights} is missing beside {DESCRIPTION}: copy it there, or train again")
    found = sha256(weights)
    if found != description["model_hash"]:
        raise ToolkitError(
            f"{weights} has the hash {found[:12]}…, but {DESCRIPTION} describes {description['model_hash'][:12]}…: "
            "the two are not from one training, or the file is damaged. Copy both again, or train again."
        )
    card = card_from(description["card"], origin=str(folder / DESCRIPTION))
    model = untrained(card)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ToolkitError(f"{weights} does not hold the model that {DESCRIPTION} describes: {error}") from None
    model = model.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Loaded(model.eval(), card, description["metrics"], found)


def describe(folder: Path) -> dict[str, Any]:
    """The content of `model.json`, checked for completeness.

    Raises:
        ToolkitError: missing, not JSON, of another format version, or incomplete.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ToolkitError(
            f"no trained model in {folder} ({DESCRIPTION} is missing): "
            "train one, or finish an interrupted training with --resume"
        ) from None
    except (OSError, ValueError) as error:
        raise ToolkitError(f"{path} cannot be read: {error}. Train again, or copy the file again.") from None
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT:
        raise ToolkitError(f"{path} has format version {version!r}; this toolkit reads {FORMAT}: train again")
    missing = [key for key in ("model_hash", "card", "settings", "metrics", "architecture") if key not in description]
    if missing:
        raise ToolkitError(f"{path} lacks {', '.join(missing)}: copy the file again, or train again")
    return dict(description)


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
