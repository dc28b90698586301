"""Where a VAE's latents really lie: the aggregate posterior, q(z) = the mean of q(z | x) over the training images.

Draws come from the prior, but the decoder has learned to read q(z). Where the two differ, draws are off: Hoffman &
Johnson, "ELBO surgery" (2016); Rosca et al., "Distribution matching in variational inference" (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .assessment import ACTIVE
from .vae import Posterior


@dataclass(frozen=True)
class Aggregate:
    """Moments of the latents over the training images, in float64; the prior has mean 0 and covariance 1."""

    mean: np.ndarray  # (D,)
    of_means: np.ndarray  # (D, D) covariance of the posteriors' means from image to image
    within: np.ndarray  # (D,) mean variance of the posteriors themselves

    @property
    def variance(self) -> np.ndarray:
        """(D,) Of a draw from the posterior of a random training image: from image to image, and within."""
        variance: np.ndarray = self.of_means.diagonal() + self.within
        return variance

    @property
    def active(self) -> np.ndarray:
        """(D,) bool: latents that tell images apart, by a variance of means above 0.01 (Burda et al. 2016, 5.2)."""
        active: np.ndarray = self.of_means.diagonal() > ACTIVE
        return active

    @property
    def nats(self) -> float:
        """KL(N(mean, covariance) || N(0, 1)), a lower bound of KL(q(z) || p(z)) that is 0 for a perfect fit.

        To a normal prior nothing with these moments is nearer than the normal distribution that has them. Latents that
        each look right may hang together all the same: on brain slices single ones came to 4.5 nats, all together to
        39.
        """
        covariance = self.of_means + np.diag(self.within)
        _, log_determinant = np.linalg.slogdet(covariance)
        return float((self.mean @ self.mean + np.trace(covariance) - len(self.mean) - log_determinant) / 2)


class AggregateSums:
    """Adds posteriors up, batch by batch."""

    def __init__(self, dim: int) -> None:
        self._n = 0
        self._means, self._products, self._variances = np.zeros(dim), np.zeros((dim, dim)), np.zeros(dim)

    def add(self, posterior: Posterior, n: int) -> None:
        """Count the first `n` images of a batch."""
        means = posterior.mean[:n].cpu().double().numpy()  # (n, D)
        self._n += n
        self._means += means.sum(0)
        self._products += means.T @ means
        self._variances += posterior.log_variance[:n].exp().cpu().double().numpy().sum(0)

    def found(self) -> Aggregate:
        """Of all images so far."""
        mean = self._means / self._n
        return Aggregate(mean, self._products / self._n - np.outer(mean, mean), self._variances / self._n)
