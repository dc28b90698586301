"""The phase of objective `vae`: maximise the evidence lower bound (Kingma & Welling, 2014).

Both terms of the bound are in nats for each image, summed over its pixels and over its latents, and the batch is
averaged over. Averaging one of the two over its own numbers as well is the classic mistake: it multiplies the weight of
the KL by the number of pixels (all latents die) or divides it by the number of latents (the KL grows as long as one
trains). Both are the same as another `vae.noise`; docs/models.md shows them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from toolkit_datasets.card import Card
from toolkit_datasets.progress import Progress

from .autoencoder import Autoencoder
from .batches import padded
from .distributed import Share
from .objectives import corrupted, divergence, gaussian_error
from .phase import Outcome, Phase
from .reconstruct import evaluate
from .vae import VAE


class Elbo(Phase):
    """Encoder and decoder together, with a weight of the KL that grows from 0 to 1 (Bowman et al. 2016, section 3.1).

    Without this warm-up latents that say nothing yet are pressed into the prior before the decoder has learned to read
    them.
    """

    name, history = "train", "history.csv"
    model: VAE
    steps: Tensor  # scalar, long: steps done

    def __init__(self, model: Autoencoder, card: Card) -> None:
        assert isinstance(model, VAE), f"{type(model).__name__} has no bound to maximise"
        super().__init__(model, card)
        self.settings = card.train
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.warmup = 1  # steps

    def ready(self, images: np.ndarray, rows: np.ndarray, progress: Progress) -> None:
        """How many steps the warm-up takes."""
        steps = self.settings.epochs * -(-len(rows) // self.settings.batch_size)
        self.warmup = max(1, round(self.card.vae.kl_warmup * steps))

    def loss(
        self, batch: Tensor, rows: np.ndarray, *, generator: torch.Generator, share: Share | None = None
    ) -> Outcome:
        """The negative bound, with the KL weighted, in the unit of the normalised squared error.

        The bound is multiplied by the constant 2 noise^2 / (C H W): the error is then the mean squared error of
        normalised images, as for a VQ-VAE, and learning rates and gradient clips mean the same for both.
        """
        model, noise = self.model, self.card.vae.noise
        target = model.normalise(batch)
        posterior = model.posterior(corrupted(target, self.card.corrupt, generator=generator, share=share))
        decoded = model.decoder(posterior.draw(generator=generator, share=share))
        error = gaussian_error(decoded, target, noise=noise)
        kl = divergence(posterior.mean, posterior.log_variance)
        weight = (self.steps / self.warmup).clamp(max=1)
        unit = 2 * noise**2 / target[0].numel()
        mse = error.detach() * unit
        return Outcome(
            (error + weight * kl) * unit,
            {
                "reconstruction": mse,  # normalised: 1 is what the mean image scores
                "kl": kl,  # nats for each image
                "kl_weight": weight,
                "negative_bound": error + kl,  # nats for each image, but for a constant
                "psnr": -10 * (mse * model.deviation**2).clamp_min(1e-10).log10(),
            },
        )

    def after_step(self, *, generator: torch.Generator) -> None:
        """Count it: the weight of the KL depends on how many there were."""
        self.steps += 1

    def progress(self, values: Mapping[str, float]) -> str:
        """Loss, PSNR, and what the latents say."""
        return f"loss {values['loss']:.4f}, PSNR {values['psnr']:.1f} dB, KL {values['kl']:.1f} nats"

    def end_epoch(self, images: np.ndarray, validation: np.ndarray) -> dict[str, float]:
        """PSNR and KL of held-out images, rebuilt from the means of their latents."""
        size = self.card.encode_batch
        scores = evaluate(self.model, images, validation, batch_size=size)
        kl = 0.0
        self.eval()
        with torch.inference_mode():
            for part, batch in padded(images, validation, min(size, len(validation)), self.model.mean.device):
                posterior = self.model.posterior(self.model.normalise(batch))
                shares = divergence(posterior.mean[: len(part)], posterior.log_variance[: len(part)])
                kl += float(shares) * len(part) / len(validation)
        self.train()
        return {"validation_psnr": scores["psnr"], "validation_mse": scores["mse"], "validation_kl": kl}
