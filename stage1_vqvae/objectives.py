"""What stage 1 minimises. An objective takes the model and a batch and says the loss, its parts, and the codes.

More objectives are more functions in `OBJECTIVES`, each a composition of parts such as the two below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from toolkit_datasets.card import Card

from .model import VQVAE
from .quantizer import Quantized


@dataclass(frozen=True)
class Outcome:
    """One batch under an objective."""

    loss: Tensor  # scalar, what is minimised
    parts: dict[str, Tensor]  # scalars worth a column in history.csv; "reconstruction" is the normalised MSE
    quantized: Quantized  # what the codebook then learns from


Objective = Callable[[VQVAE, Tensor, Card], Outcome]
"""(model, uint8 images (B, C, H, W), card) -> Outcome."""


def reconstruct(model: VQVAE, images: Tensor, card: Card) -> Outcome:
    """The VQ-VAE of van den Oord et al. (2017): squared error over the training variance, plus beta x commitment."""
    target = model.normalise(images)
    quantized = model.quantize(model.encoder(target))
    error = F.mse_loss(model.decoder(quantized.vectors).float(), target)
    pull = commitment(quantized)
    return Outcome(error + card.vqvae.commitment * pull, {"reconstruction": error, "commitment": pull}, quantized)


def commitment(quantized: Quantized) -> Tensor:
    """Mean squared distance of the latents from their codes; only the encoder feels it."""
    return F.mse_loss(quantized.latents, quantized.vectors.detach())


OBJECTIVES: dict[str, Objective] = {"reconstruct": reconstruct}
