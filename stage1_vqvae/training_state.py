"""An unfinished training on disk: one safetensors file, with everything that is no tensor as JSON in its metadata.

With all randomness derived from (seed, epoch) and (seed, step), weights, optimizer, counters and the sums of the
unfinished epoch are all it takes to go on bit for bit as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from toolkit_datasets.atomic import replacing
from toolkit_datasets.card import Card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared

from .checkpoint import DESCRIPTION, describe
from .model import VQVAE

RESUME_ADVICE = "Resume with the old ones, or start afresh with --overwrite or in another --out folder."
NAME = "last.training.safetensors"
FORMAT = "vqvae-toolkit training 1"


@dataclass
class TrainingState:
    """Where a training stands, apart from weights and optimizer."""

    code_counts: Tensor  # (K,) long: how often each code was chosen in this epoch so far
    step: int = 0  # steps done
    seconds: float = 0.0  # spent in the loop, over all sittings
    training_seconds: float = 0.0  # of those, without validation and saving
    epoch_seconds: float = 0.0  # of those, in this epoch
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch's values, each weighted by its batch
    restarted: int = 0  # codes moved in this epoch
    history: list[dict[str, float]] = field(default_factory=list)  # finished epochs, the rows of history.csv

    def add(self, values: Mapping[str, float], images: int, *, indices: Tensor, restarted: int) -> None:
        """Count one batch of `images` with its values and its codes (B, R, h, w)."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * images
        self.code_counts += torch.bincount(indices.reshape(-1), minlength=len(self.code_counts))
        self.restarted += restarted

    def begin_epoch(self) -> None:
        """Forget the sums of the epoch that ended."""
        self.sums, self.restarted, self.epoch_seconds = {}, 0, 0.0
        self.code_counts.zero_()


def settings_of(card: Card, prepared: Prepared) -> dict[str, Any]:
    """All that decides the weights, flat: `train.epochs` -> 20 and so on, and a hash of the images' names."""
    plain = card.model_dump(mode="json")
    flat = {f"{table}.{key}": value for table in ("image", "train", "vqvae") for key, value in plain[table].items()}
    learns = prepared.samples.iloc[prepared.rows("unlabelled")]
    names = "\n".join(f"{a}\t{b}\t{c}" for a, b, c in zip(learns["id"], learns["slice"], learns["sha256"], strict=True))
    return {"seed": card.seed, **flat, "unlabelled images": hashlib.sha256(names.encode()).hexdigest()[:16]}


def check_belongs(prepared: Prepared, folder: Path, *, advice: str = RESUME_ADVICE) -> None:
    """Refuse a dataset that is not the one which the training in `folder`, finished or not, has learned from.

    Raises:
        ToolkitError: naming each setting that differs, and `advice`.
    """
    if (folder / DESCRIPTION).exists():
        path, then = folder / DESCRIPTION, describe(folder)["settings"]
    elif (folder / NAME).exists():
        path = folder / NAME
        with safe_open(path, framework="pt") as file:
            then = json.loads((file.metadata() or {}).get("settings", "{}"))
    else:
        return
    check_settings(settings_of(prepared.card, prepared), then, origin=path, advice=advice)


def check_settings(
    now: Mapping[str, Any], then: Mapping[str, Any], *, origin: Path, advice: str = RESUME_ADVICE
) -> None:
    """Refuse to go on under other settings: the result would be that of no card at all.

    Raises:
        ToolkitError: naming each setting that differs.
    """
    different = [key for key in {**now, **then} if now.get(key) != then.get(key)]
    if different:
        details = "; ".join(f"{key} was {then.get(key)!r} and is now {now.get(key)!r}" for key in different)
        raise ToolkitError(f"{origin} belongs to a training with other settings: {details}. {advice}")


def save_state(
    folder: Path, state: TrainingState, model: VQVAE, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> None:
    """Write everything in one step: a kill at any moment leaves either the old file or the new one."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    tensors["code_counts"] = state.code_counts
    plain = {key: value for key, value in vars(state).items() if key != "code_counts"}
    metadata = {"format": FORMAT, "state": json.dumps(plain), "settings": json.dumps(dict(settings))}
    with replacing(folder / NAME) as temporary:
        temporary.write_bytes(
            save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata)
        )


def load_state(
    folder: Path, model: VQVAE, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> TrainingState:
    """Fill `model` and `optimizer` from `folder` and say where the training stands.

    Raises:
        ToolkitError: the file is damaged, or belongs to other settings.
    """
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ToolkitError(f"{path} is not a training state of this version: start afresh with --overwrite")
            check_settings(settings, json.loads(metadata["settings"]), origin=path)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        plain = json.loads(metadata["state"])
        model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
        for name, parameter in model.named_parameters():
            # In the parameter's own memory layout, as the optimizer would have made it.
            moments = {key: torch.empty_like(parameter).copy_(tensors[f"optimizer.{key}.{name}"]) for key in MOMENTS}
            step = tensors[f"optimizer.step.{name}"].to(parameter.device if optimizer.defaults["fused"] else "cpu")
            optimizer.state[parameter] = {"step": step, **moments}
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise ToolkitError(f"{path} is damaged ({error}): start afresh with --overwrite") from None
    return TrainingState(code_counts=tensors["code_counts"].to(model.mean.device), **plain)


MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
