"""A small convolutional network on the code grid: the one classifier that needs torch, imported only when asked for.

1x1 convolution D -> 32, a 3x3 convolution, mean over the grid, one linear layer: about 11,000 weights for D = 64.
Full-batch AdamW for a fixed number of steps; the weight decay is chosen inside the draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .classifiers import Classifier
from .learner import Arrays
from .linear import softmax
from .selection import choose

WIDTH = 32
STEPS = 40  # full batches: a draw of 100 (1,000) takes 5 (20) s with its cross-validation
LEARNING_RATE = 1e-2
DROPOUT = 0.2


class CNN(Classifier):
    """See the module's head. Features are the flattened code grid, (n, D h w).

    Args:
        n_classes: C.
        shape: (D, h, w).
        device: where it trains and scores.
    """

    name = "cnn"
    meaning = "probabilities of the network"
    values: ClassVar[tuple[float, ...]] = (1.0, 0.01)

    def __init__(self, *, n_classes: int, shape: tuple[int, int, int], device: str = "cpu") -> None:
        self.n_classes, self.shape = n_classes, shape
        self.chosen = {}
        self._device = torch.device(device)
        self._mean, self._scale = np.zeros(shape[0], np.float32), np.ones(shape[0], np.float32)
        self._network = self._fresh()

    def fit(self, x: np.ndarray, y: np.ndarray, *, units: np.ndarray | None = None, seed: int = 0) -> Self:
        """See `Learner.fit`; standardised by channel."""
        grid = x.reshape(len(x), *self.shape)
        self._mean = grid.mean(axis=(0, 2, 3), dtype=np.float64).astype(np.float32)
        sd = grid.std(axis=(0, 2, 3), dtype=np.float64)
        self._scale = np.where(sd > 1e-6, 1 / np.maximum(sd, 1e-6), 0).astype(np.float32)
        with _one_thread():
            self._fit(self._inputs(x), torch.from_numpy(y.astype(np.int64)).to(self._device), y, units, seed)
        return self

    def _fit(
        self, inputs: torch.Tensor, targets: torch.Tensor, y: np.ndarray, units: np.ndarray | None, seed: int
    ) -> None:

        def fit_rows(rows: np.ndarray, decay: float) -> Any:
            network = self._train(inputs[rows], targets[rows], decay, seed)
            return lambda held_out: self._shares(network, inputs[held_out])

        units = np.arange(len(y)) if units is None else units
        choice = choose(self.values, fit_rows, y, units, probabilities=True, seed=seed, repeats=1)
        self.loss = choice.loss
        self._network = self._train(inputs, targets, choice.value, seed)
        self.chosen = {"weight_decay": choice.value}

    def answers(self, x: np.ndarray) -> np.ndarray:
        """See `Learner.answers`."""
        with _one_thread():
            return self._shares(self._network, self._inputs(x))

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """See `Learner.state`."""
        arrays = {name: value.cpu().numpy() for name, value in self._network.state_dict().items()}
        info = {"classifier": self.name, "n_classes": self.n_classes, "chosen": self.chosen, "shape": list(self.shape)}
        return {**arrays, "mean": self._mean, "scale": self._scale}, info

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Self:
        """See `Learner.from_state`; always on the CPU."""
        classifier = cls(n_classes=int(info["n_classes"]), shape=tuple(info["shape"]))
        classifier.chosen = dict(info["chosen"])
        classifier._mean, classifier._scale = arrays["mean"], arrays["scale"]
        weights = {name: torch.from_numpy(arrays[name]) for name in classifier._network.state_dict()}
        classifier._network.load_state_dict(weights)
        return classifier

    def _fresh(self) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(self.shape[0], WIDTH, 1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, self.n_classes),
        ).to(self._device)

    def _train(self, inputs: torch.Tensor, targets: torch.Tensor, decay: float, seed: int) -> nn.Sequential:
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed)
            network = self._fresh().train()
            optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=decay)
            for _ in range(STEPS):
                optimiser.zero_grad()
                F.cross_entropy(network(inputs), targets).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return network.eval()

    def _inputs(self, x: np.ndarray) -> torch.Tensor:
        """(m, D h w) raw -> (m, D, h, w) standardised, on the device."""
        grid = x.reshape(len(x), *self.shape).astype(np.float32)
        grid = (grid - self._mean[:, None, None]) * self._scale[:, None, None]
        return torch.from_numpy(grid).to(self._device)

    @torch.no_grad()
    def _shares(self, network: nn.Sequential, inputs: torch.Tensor) -> np.ndarray:
        network.eval()
        return softmax(network(inputs).double().cpu().numpy())


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for the block: the network is tiny, and the result then does not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
