"""The phases of each objective, and two of them: `agree`, which makes the coarse level, and `reconstruct`, which makes
the rest of a VQ-VAE. The VAE's is in elbo.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from toolkit_datasets.card import Card
from toolkit_datasets.progress import Progress

from .assessment import perplexity, usage
from .autoencoder import Autoencoder
from .batches import load, padded
from .coarse import shrink
from .codebook_start import learn_patterns, start_codebook, start_summaries
from .distributed import Share, World
from .elbo import Elbo
from .model import VQVAE
from .networks import fold, trunk, trunk_width
from .objectives import agreement, commitment, corrupted, reconstruction
from .phase import Outcome, Phase
from .quantizer import Quantized, early
from .reconstruct import evaluate
from .views import apply, draw

SHRUNK_AT_ONCE = 32  # images made small together: a whole batch of 512 px would take 786 MB in float32


class Reconstruct(Phase):
    """The VQ-VAE of van den Oord et al. (2017): encoder, codebook and decoder, given the coarse codes if there are any.

    Its codebook learns by moving averages after each step: a batch is judged by the codes it was coded with.
    """

    name, history = "train", "history.csv"
    model: VQVAE
    code_counts: Tensor  # (R, K) long: how often each code was chosen in this epoch so far
    restarted: Tensor  # scalar, long: codes moved in this epoch
    updates: Tensor  # scalar, long: steps so far

    def __init__(self, model: Autoencoder, card: Card) -> None:
        assert isinstance(model, VQVAE), f"{type(model).__name__} has no codebook to train"
        super().__init__(model, card)
        self.settings = card.train
        self.register_buffer("code_counts", torch.zeros(model.quantizer.counts.shape, dtype=torch.long))
        self.register_buffer("restarted", torch.zeros((), dtype=torch.long))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self._coded: Quantized | None = None
        self._share: Share | None = None
        self._frozen: dict[str, np.ndarray] = {}  # by level, see `frozen_codes`

    def begin(self, images: np.ndarray, rows: np.ndarray) -> None:
        """The codebook starts on k-means centres of the untrained encoder's latents."""
        start_codebook(self.model, images, rows, batch_size=self.settings.batch_size, seed=self.card.seed)

    def ready(self, images: np.ndarray, rows: np.ndarray, progress: Progress) -> None:
        """The codes of earlier phases stay as they are: look them up once, and not in every epoch."""
        if self.model.summaries:
            size = self.card.encode_batch
            self._frozen = frozen_codes(self.model, images, rows, batch_size=size, world=self.world, progress=progress)

    def loss(
        self, batch: Tensor, rows: np.ndarray, *, generator: torch.Generator, share: Share | None = None
    ) -> Outcome:
        """Squared error over the training variance, plus beta x commitment."""
        model = self.model
        target = model.normalise(batch)
        seen = corrupted(target, self.card.corrupt, generator=generator, share=share)
        coded = model.quantizer(model.encoder(seen))
        vectors = {model.fine: coded.vectors}
        for level in model.summaries:
            indices = torch.from_numpy(self._frozen[level.name][rows]).to(target.device).long()
            vectors[level.name] = level.quantizer.lookup(indices)
        error = reconstruction(model.decoder(model.joined(vectors)), target)
        pull = commitment(coded)
        self._coded, self._share = coded, share
        psnr = -10 * (error.detach() * model.deviation**2).clamp_min(1e-10).log10()
        return Outcome(
            error + self.card.vqvae.commitment * pull, {"reconstruction": error, "commitment": pull, "psnr": psnr}
        )

    def after_step(self, *, generator: torch.Generator) -> None:
        """Move the codebook, and count its codes."""
        assert self._coded is not None, "a step without a loss"
        weight = early(self.updates, self.card.vqvae.decay)
        self.restarted += self.model.quantizer.update(
            self._coded, generator=generator, weight=weight, world=self.world, share=self._share
        )
        self.updates += 1
        chosen = [each.reshape(-1) for each in self._coded.indices.unbind(1)]
        found = [torch.bincount(each, minlength=self.code_counts.shape[1]) for each in chosen]
        self.code_counts += torch.stack(self.world.sum(*found))
        self._coded = self._share = None

    def progress(self, values: Mapping[str, float]) -> str:
        """Loss, PSNR, and how many codes were in use in this epoch."""
        used = f"codes {int((self.code_counts > 0).sum())}/{self.code_counts.numel()}"
        return f"loss {values['loss']:.4f}, PSNR {values['psnr']:.1f} dB, {used}"

    def end_epoch(self, images: np.ndarray, validation: np.ndarray) -> dict[str, float]:
        """PSNR of held-out images, and how the codes were used in this epoch."""
        scores = evaluate(self.model, images, validation, batch_size=self.card.encode_batch)
        counts = self.code_counts.cpu().numpy()
        row = {
            "validation_psnr": scores["psnr"],
            "validation_mse": scores["mse"],
            "usage": usage(counts),
            "perplexity": perplexity(counts),
            "restarted": int(self.restarted),
        }
        self.code_counts.zero_()
        self.restarted.zero_()
        return row


class Agree(Phase):
    """The coarse level: a trunk whose pooled map should be the same for two views of an image (SimCLR, 2020).

    The trunk learns with BatchNorm, behind its pooled map a projection that is dropped afterwards. `finish` folds the
    trunk into the model and completes the coarse level.
    """

    name, history = "agree", "history-agree.csv"
    model: VQVAE

    def __init__(self, model: Autoencoder, card: Card) -> None:
        assert isinstance(model, VQVAE), f"{type(model).__name__} has no codebook to train"
        super().__init__(model, card)
        self.settings = card.agree
        settings, width = card.agree, trunk_width(stride=card.coarse.stride, width=card.coarse.width)
        self.trunk = trunk(
            channels=card.image.channels, stride=card.coarse.stride, width=card.coarse.width, normed=True
        )
        self.projection = nn.Sequential(
            nn.Linear(width, settings.hidden),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, settings.projection),
        )
        self.view_size = max(card.coarse.stride, round(card.views.share * card.coarse_size))

    def epochs(self, images: int) -> int:
        """See `card.Agree.epochs_for`: large sets take fewer."""
        return self.card.agree.epochs_for(images)

    def learners(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trunk and projection; the model itself learns later."""
        return ((name, value) for name, value in self.named_parameters() if not name.startswith("model."))

    def loss(
        self, batch: Tensor, rows: np.ndarray, *, generator: torch.Generator, share: Share | None = None
    ) -> Outcome:
        """NT-Xent of two views of each image."""
        card, total = self.card, share.total if share else len(batch)
        with torch.autocast(batch.device.type, enabled=False):  # places and colours in float32
            parts = [shrink(part.float() / 255, card.coarse_size) for part in torch.split(batch, SHRUNK_AT_ONCE)]
            images = torch.cat(parts)
            views = [
                apply(images, drawn, size=self.view_size)
                for drawn in (
                    draw(total, batch.shape[1], card.views, generator=generator, share=share) for _ in range(2)
                )
            ]
            seen = torch.cat([(view - self.model.mean) / self.model.deviation for view in views])
        pooled = self.trunk(seen.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        projected = self.projection(pooled).chunk(2)
        if share:  # the counter-examples are all other views of the batch
            projected = tuple(self.world.gather(view, share) for view in projected)
        loss, found = agreement(*projected, temperature=card.agree.temperature)
        return Outcome(loss, {"agreement": found})

    def progress(self, values: Mapping[str, float]) -> str:
        """Loss, and how many views find their other view."""
        return f"loss {values['loss']:.3f}, {values['agreement']:.0%} of the views find each other"

    def end_epoch(self, images: np.ndarray, validation: np.ndarray) -> dict[str, float]:
        """Loss and agreement of held-out images, on views that are the same after every epoch."""
        device = self.model.mean.device
        generator = torch.Generator(device).manual_seed(self.card.seed)
        count = min(len(validation), self.settings.batch_size)  # as many counter-examples as in training
        chosen = validation[np.linspace(0, len(validation) - 1, count).astype(int)]
        with torch.inference_mode():
            self.eval()
            outcome = self.loss(load(images, chosen, device), chosen, generator=generator)
            self.train()
        return {"validation_loss": float(outcome.loss), "validation_agreement": float(outcome.parts["agreement"])}

    def finish(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Freeze the trunk, learn the patterns, and put codes on both."""
        assert self.model.coarse is not None
        fold(self.trunk.eval(), self.model.coarse.trunk)
        learn_patterns(self.model, images, rows, seed=self.card.seed)
        start_summaries(self.model, images, rows, seed=self.card.seed)


PHASES: dict[str, tuple[type[Phase], ...]] = {
    "reconstruct": (Reconstruct,),
    "agree": (Agree, Reconstruct),
    "vae": (Elbo,),
}
"""The phases of each objective, in order."""


@torch.no_grad()
def frozen_codes(
    model: VQVAE, images: np.ndarray, rows: np.ndarray, *, batch_size: int, world: World, progress: Progress
) -> dict[str, np.ndarray]:
    """Codes of `images[rows]` at the levels that sum the picture up, computed as encoding does it.

    Each process of the `world` looks up a part of them, and gets the others'.

    Returns:
        Level -> (len(images), R, g, g), zeros at other rows.
    """
    codes = {
        level.name: np.zeros((len(images), level.depth, level.height, level.width), level.index_dtype)
        for level in model.levels
        if level.name != model.fine
    }
    rows = np.array_split(rows, world.size)[world.rank]
    with progress.bar("coarse codes", len(rows), "images") as bar:
        for part, batch in padded(images, rows, batch_size, model.mean.device):
            normal = model.normalise(batch)
            for level in model.summaries:
                codes[level.name][part] = level.quantizer(level(normal)).indices[: len(part)].cpu().numpy()
            bar.update(len(part))
    for array in codes.values():
        world.complete(array)
    return codes
