"""The parts of which stage 1's objectives are made, each a function of tensors with its source.

How they are put together is the business of phases.py: `reconstruct` is reconstruction + beta x commitment, of images
that corruption may have touched; `agree` comes before it and trains the coarse level by agreement. `vae` is Gaussian
error + divergence (elbo.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit_datasets.card_stages import Corrupt

from .distributed import Share, share_of
from .quantizer import Quantized


def reconstruction(decoded: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of normalised images: 1 is what the mean image scores (van den Oord et al. 2017, eq. 3)."""
    return F.mse_loss(decoded.float(), target)


def commitment(quantized: Quantized) -> Tensor:
    """Mean squared distance of the latents from their codes; only the encoder feels it (ibid., last term of eq. 3)."""
    return F.mse_loss(quantized.latents, quantized.vectors.detach())


def gaussian_error(decoded: Tensor, target: Tensor, *, noise: float) -> Tensor:
    """-log p(x | z) in nats, where each value is normally distributed about the decoder's with deviation `noise`.

    Summed over the values of an image (B, C, H, W), averaged over images; without the constant C H W log(noise
    sqrt(2 pi)), which no weight changes.
    """
    return (decoded.float() - target).square().sum() / (2 * noise**2 * len(target))


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z | x) || N(0, 1)) in nats, summed over latents (B, D), mean over images (Kingma & Welling 2014, app. B).

    >>> float(divergence(torch.zeros(3, 5), torch.zeros(3, 5))), float(divergence(torch.ones(3, 5), torch.zeros(3, 5)))
    (0.0, 2.5)
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum() / (2 * len(mean))


def corrupted(images: Tensor, settings: Corrupt, *, generator: torch.Generator, share: Share | None = None) -> Tensor:
    """Normalised `images` (B, C, H, W) with noise and with cells in the mean colour, which is zero here.

    A model that must give the clean image back cannot copy: denoising (Vincent et al. 2008), masking (He et al.,
    "Masked autoencoders", 2022; here with the same network for what is seen and what is not). `images` may be a
    `share` of the batch.
    """
    total = share.total if share else len(images)
    if settings.noise:
        noise = torch.randn(total, *images.shape[1:], generator=generator, device=images.device)
        images = images + settings.noise * share_of(noise, share)
    if settings.mask:
        _, _, height, width = images.shape
        cells = (-(-height // settings.cell), -(-width // settings.cell))
        hidden = torch.rand(total, 1, *cells, generator=generator, device=images.device) < settings.mask
        hidden = share_of(hidden, share)
        hidden = hidden.repeat_interleave(settings.cell, 2).repeat_interleave(settings.cell, 3)
        images = images.masked_fill(hidden[:, :, :height, :width], 0.0)
    return images


def agreement(first: Tensor, second: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """How well each view finds the other view of its image among all views of the batch.

    NT-Xent (Chen et al., "SimCLR", 2020, eq. 1): cross-entropy of cosine similarities over the temperature, where
    the other view is right and the 2 B - 2 views of other images are wrong.

    Args:
        first, second: (B, P) projections of the two views of B images.
        temperature: of the softmax.

    Returns:
        The loss and the share of views whose most similar view is the right one; scalars.
    """
    n = len(first)
    with torch.autocast(first.device.type, enabled=False):  # logits up to 1 / temperature need more than 8 bits
        views = F.normalize(torch.cat([first, second]).float(), dim=1)
        similar = (views @ views.t() / temperature).fill_diagonal_(-torch.inf)  # (2B, 2B)
        right = torch.arange(2 * n, device=views.device).roll(n)
        return F.cross_entropy(similar, right), (similar.argmax(1) == right).float().mean()
