"""Where new images come from: a prior draws what the decoder of a model is to see.

A VAE has its prior by definition. A VQ-VAE has none until one is learned over its codes (van den Oord et al. 2017,
section 3.3): such a model would be one more class here, and one more answer of `prior_of`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch

from toolkit_datasets.errors import ToolkitError

from .autoencoder import Autoencoder, Levels
from .vae import LATENTS, VAE


class Prior(ABC):
    """A distribution over what a decoder sees."""

    title: ClassVar[str]  # in words, for the record of what was drawn

    @abstractmethod
    def draw(self, count: int, *, seed: int, temperature: float = 1.0) -> Levels:
        """Vectors of each level (count, D, h, w) float32 on the CPU, as `Autoencoder.decode` takes them.

        The same seed gives the same draws, and the first ones of many are those of few. A `temperature` below 1 stays
        closer to what is most probable.
        """


class StandardNormal(Prior):
    """The VAE's: independent normal numbers with mean 0 and deviation 1, times the temperature."""

    title = "standard normal"

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def draw(self, count: int, *, seed: int, temperature: float = 1.0) -> Levels:
        """Latents (count, D, 1, 1). NumPy draws them, number by number: torch's draws depend on how many there are."""
        drawn = temperature * np.random.default_rng(seed).standard_normal((count, self.dim))
        return {LATENTS: torch.from_numpy(drawn.astype(np.float32))[:, :, None, None]}


def prior_of(model: Autoencoder) -> Prior:
    """The prior that `model` has.

    Raises:
        ToolkitError: it has none.
    """
    if isinstance(model, VAE):
        return StandardNormal(model.dim)
    raise ToolkitError(
        "a VQ-VAE has no prior to draw from: its codes follow no known distribution. Possible are pictures between "
        "two images, with --between IMAGE IMAGE, or draws from a VAE, trained with --objective vae"
    )
