"""Where a VAE's latents really lie: the aggregate posterior, q(z) = the mean of q(z | x) over the training images.

Draws come from the prior, but the decoder has learned to read q(z). Where the two differ, draws are off: Hoffman &
Johnson, "ELBO surgery" (2016); Rosca et al., "Distribution matching in variational inference" (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .assessment import ACTIVE, Spread
from .vae import Posterior


@dataclass(frozen=True)
class Aggregate:
    """Mean and variance of each latent over the training images; the prior has 0 and 1. All (D,) float64."""

    mean: np.ndarray
    of_means: np.ndarray  # variance of the posteriors' means from image to image
    within: np.ndarray  # mean variance of the posteriors themselves

    @property
    def variance(self) -> np.ndarray:
        """Of a draw from the posterior of a random training image: the sum of the two."""
        variance: np.ndarray = self.of_means + self.within
        return variance

    @property
    def active(self) -> np.ndarray:
        """(D,) bool: latents that tell images apart, by a variance of means above 0.01 (Burda et al. 2016, 5.2)."""
        active: np.ndarray = self.of_means > ACTIVE
        return active

    @property
    def nats(self) -> np.ndarray:
        """KL(N(mean, variance) || N(0, 1)) of each latent; their sum is a lower bound of KL(q(z) || p(z)).

        With a prior of independent latents that KL is at least the sum over latents of KL(q(z_i) || p(z_i)), and with a
        normal prior each of these is at least that of the normal distribution with the same moments. What is missed:
        latents that hang together, and shapes that are not normal.
        """
        nats: np.ndarray = (self.mean**2 + self.variance - 1 - np.log(self.variance)) / 2
        return nats


class AggregateSums:
    """Adds posteriors up, batch by batch."""

    def __init__(self) -> None:
        self._spread = Spread()

    def add(self, posterior: Posterior, n: int) -> None:
        """Count the first `n` images of a batch."""
        values = {"mean": posterior.mean, "variance": posterior.log_variance.exp()}
        self._spread.add({name: each[:, :, None, None] for name, each in values.items()}, n)

    def found(self) -> Aggregate:
        """Of all images so far."""
        mean, of_means = self._spread.moments("mean")
        within, _ = self._spread.moments("variance")
        return Aggregate(mean.numpy(), of_means.numpy(), within.numpy())
