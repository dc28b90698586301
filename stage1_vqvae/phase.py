"""What a phase of a training is: what learns, the loss of a batch, and what happens between the steps.

The loop in train.py does everything else. A phase is a module, so that its state is all there is to save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from toolkit_datasets.card import Card
from toolkit_datasets.card_stages import Agree, Train
from toolkit_datasets.progress import Progress

from .autoencoder import Autoencoder
from .batch_norm import over_all_processes
from .distributed import ALONE, Share, World


@dataclass(frozen=True)
class Outcome:
    """One batch under a phase."""

    loss: Tensor  # scalar, what is minimised
    parts: dict[str, Tensor]  # scalars worth a column of the history


class Phase(nn.Module, ABC):
    """What the training loop needs to know. `model` is the model in the making, on its device."""

    name: ClassVar[str]  # also the title of its progress bar
    history: ClassVar[str]  # file name
    settings: Train | Agree
    world: World = ALONE

    def __init__(self, model: Autoencoder, card: Card) -> None:
        super().__init__()
        self.model, self.card = model, card

    def epochs(self, images: int) -> int:
        """Epochs of a training on so many images."""
        return self.settings.epochs

    def learners(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of what the optimizer changes."""
        return ((name, value) for name, value in self.named_parameters() if value.requires_grad)

    def begin(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Before the first step: `images[rows]` (N, H, W, C) are those of the training."""

    def ready(self, images: np.ndarray, rows: np.ndarray, progress: Progress) -> None:
        """Before the first step and before going on with a training: compute what is no state."""

    @abstractmethod
    def loss(
        self, batch: Tensor, rows: np.ndarray, *, generator: torch.Generator, share: Share | None = None
    ) -> Outcome:
        """The loss of a uint8 batch (B, C, H, W), which is `rows` of the images; runs under autocast.

        With a `share` these are one process's images of the batch. Means are then those over the share, and what
        depends on all images is gathered from all processes; without one nothing is.
        """

    def after_step(self, *, generator: torch.Generator) -> None:
        """After the optimizer's step."""

    @abstractmethod
    def progress(self, values: Mapping[str, float]) -> str:
        """A few words for the progress bar; `values` are loss and parts of the step."""

    @abstractmethod
    def end_epoch(self, images: np.ndarray, validation: np.ndarray) -> dict[str, float]:
        """After each epoch: figures for the history, of held-out images too."""

    def finish(self, images: np.ndarray, rows: np.ndarray) -> None:
        """After the last step; called again where the training is killed meanwhile."""


def create(kind: type[Phase], model: Autoencoder, card: Card, *, number: int, world: World = ALONE) -> Phase:
    """A phase whose own weights depend on the card's seed and its number alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence([card.seed, number]).generate_state(1)[0]))
        phase = kind(model, card)
    phase.world = world
    over_all_processes(phase, world)
    return phase.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
