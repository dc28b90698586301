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
from .phase import Phase

RESUME_ADVICE = "Resume with the old ones, or start afresh with --overwrite or in another --out folder."
NAME = "last.training.safetensors"
FORMAT = "vqvae-toolkit training 2"
TABLES = {  # of the card, which decide the weights
    "reconstruct": ("image", "train", "corrupt", "vqvae"),
    "agree": ("image", "train", "corrupt", "vqvae", "coarse", "agree", "views"),
    "vae": ("image", "train", "corrupt", "vae"),
}
DEFAULTS = {
    f"{table}.{key}": value
    for table, settings in Card(title="").model_dump(mode="json").items()
    if isinstance(settings, dict)
    for key, value in settings.items()
}


@dataclass
class TrainingState:
    """Where a training stands, apart from weights and optimizer."""

    phase: int = 0  # its number in the objective's list
    step: int = 0  # steps done in it
    seconds: float = 0.0  # over all sittings and phases
    training_seconds: float = 0.0  # of those, this phase's finished epochs without validation and saving
    epoch_seconds: float = 0.0  # the same of this epoch
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch's values, each weighted by its batch
    history: list[dict[str, float]] = field(default_factory=list)  # this phase's epochs, the rows of its history
    phases: list[dict[str, Any]] = field(default_factory=list)  # finished ones: name, epochs, steps, seconds, rate

    def add(self, values: Mapping[str, float], images: int, *, seconds: float) -> None:
        """Count one step on a batch of `images` with its values."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * images
        self.step += 1
        self.epoch_seconds += seconds

    def end_epoch(self, *, epoch: int, rate: float, images: int, figures: Mapping[str, float]) -> None:
        """Add the row of an epoch on `images` to the history: means of its values, and `figures`."""
        row = {
            "epoch": epoch + 1,
            "step": self.step,
            "seconds": self.seconds,
            "images_per_second": images / self.epoch_seconds,
            "learning_rate": rate,
            **{name: value / images for name, value in self.sums.items()},
            **figures,
        }
        self.history.append(row)
        self.training_seconds += self.epoch_seconds
        self.sums, self.epoch_seconds = {}, 0.0

    def end_phase(self, name: str, *, epochs: int, steps: int, images: int) -> None:
        """Note what the phase took, and stand at the start of the next one."""
        spent = self.seconds - sum(phase["seconds"] for phase in self.phases)
        rate = epochs * images / self.training_seconds
        self.phases.append(
            {"name": name, "epochs": epochs, "steps": steps, "seconds": spent, "images_per_second": rate}
        )
        self.phase += 1
        self.step, self.training_seconds, self.history = 0, 0.0, []


@dataclass(frozen=True)
class Saved:
    """What a file held: the plain part, and the tensors of phase and optimizer."""

    state: TrainingState
    tensors: dict[str, Tensor]
    path: Path


def settings_of(card: Card, prepared: Prepared) -> dict[str, Any]:
    """All that decides the weights, flat: `train.epochs` -> 20 and so on, and a hash of the images' names."""
    plain = card.model_dump(mode="json")
    flat = {f"{table}.{key}": value for table in TABLES[card.train.objective] for key, value in plain[table].items()}
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

    A setting that did not exist at the time stood, in effect, at its default, which is always what was done before it.

    Raises:
        ToolkitError: naming each setting that differs.
    """
    then = {key: DEFAULTS[key] for key in now if key in DEFAULTS} | dict(then)
    different = [key for key in {**now, **then} if now.get(key) != then.get(key)]
    if different:
        details = "; ".join(f"{key} was {then.get(key)!r} and is now {now.get(key)!r}" for key in different)
        raise ToolkitError(f"{origin} belongs to a training with other settings: {details}. {advice}")


def save_state(
    folder: Path, state: TrainingState, phase: Phase, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> None:
    """Write everything in one step: a kill at any moment leaves either the old file or the new one."""
    tensors = {f"phase.{name}": value for name, value in phase.state_dict().items()}
    for name, parameter in phase.learners():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    metadata = {"format": FORMAT, "state": json.dumps(vars(state)), "settings": json.dumps(dict(settings))}
    with replacing(folder / NAME) as temporary:
        temporary.write_bytes(
            save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata)
        )


def load_state(folder: Path, settings: Mapping[str, Any]) -> Saved:
    """Read where the training in `folder` stands.

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
        return Saved(TrainingState(**json.loads(metadata["state"])), tensors, path)
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise _damaged(path, error) from None


def restore(saved: Saved, phase: Phase, optimizer: torch.optim.Optimizer) -> None:
    """Fill `phase` and `optimizer` with what was saved.

    Raises:
        ToolkitError: the file lacks something.
    """
    tensors = saved.tensors
    try:
        phase.load_state_dict({name: tensors[f"phase.{name}"] for name in phase.state_dict()})
        for name, parameter in phase.learners():
            # In the parameter's own memory layout, as the optimizer would have made it.
            moments = {key: torch.empty_like(parameter).copy_(tensors[f"optimizer.{key}.{name}"]) for key in MOMENTS}
            step = tensors[f"optimizer.step.{name}"].to(parameter.device if optimizer.defaults["fused"] else "cpu")
            optimizer.state[parameter] = {"step": step, **moments}
    except (KeyError, RuntimeError) as error:
        raise _damaged(saved.path, error) from None


def _damaged(path: Path, error: Exception) -> ToolkitError:
    return ToolkitError(f"{path} is damaged ({error}): start afresh with --overwrite")


MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
