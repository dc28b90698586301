"""The phases of a training: `agree`, which makes the coarse level, and `reconstruct`, which makes the rest.

A phase says what learns, the loss of a batch, and what happens before the first step, after each and after the last.
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

from toolkit_datasets.card import Agree as AgreeSettings
from toolkit_datasets.card import Card, Train
from toolkit_datasets.progress import Progress

from .assessment import perplexity, usage
from .batches import load, padded
from .coarse import shrink
from .codebook_start import learn_patterns, start_coarse, start_codebook
from .model import COARSE, VQVAE
from .networks import fold, trunk, trunk_width
from .objectives import agreement, commitment, corrupted, reconstruction
from .quantizer import Quantized
from .reconstruct import evaluate
from .views import apply, draw

SHRUNK_AT_ONCE = 32  # images made small together: a whole batch of 512 px would take 786 MB in float32


@dataclass(frozen=True)
class Outcome:
    """One batch under a phase."""

    loss: Tensor  # scalar, what is minimised
    parts: dict[str, Tensor]  # scalars worth a column of the history


class Phase(nn.Module, ABC):
    """What the training loop needs to know. `model` is the model in the making, on its device."""

    name: ClassVar[str]  # also the title of its progress bar
    history: ClassVar[str]  # file name
    settings: Train | AgreeSettings

    def __init__(self, model: VQVAE, card: Card) -> None:
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
    def loss(self, batch: Tensor, rows: np.ndarray, *, generator: torch.Generator) -> Outcome:
        """The loss of a uint8 batch (B, C, H, W), which is `rows` of the images; runs under autocast."""

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


class Reconstruct(Phase):
    """The VQ-VAE of van den Oord et al. (2017): encoder, codebook and decoder, given the coarse codes if there are any.

    Its codebook learns by moving averages after each step: a batch is judged by the codes it was coded with.
    """

    name, history = "train", "history.csv"
    code_counts: Tensor  # (R, K) long: how often each code was chosen in this epoch so far
    restarted: Tensor  # scalar, long: codes moved in this epoch

    def __init__(self, model: VQVAE, card: Card) -> None:
        super().__init__(model, card)
        self.settings = card.train
        self.register_buffer("code_counts", torch.zeros(model.quantizer.counts.shape, dtype=torch.long))
        self.register_buffer("restarted", torch.zeros((), dtype=torch.long))
        self._coded: Quantized | None = None
        self._coarse = np.zeros(0)  # (N, R, g, g) the coarse codes of the training images, at their rows

    def begin(self, images: np.ndarray, rows: np.ndarray) -> None:
        """The codebook starts on k-means centres of the untrained encoder's latents."""
        start_codebook(self.model, images, rows, batch_size=self.settings.batch_size, seed=self.card.seed)

    def ready(self, images: np.ndarray, rows: np.ndarray, progress: Progress) -> None:
        """The coarse codes stay as they are: look them up once, and not in every epoch."""
        if self.model.coarse:
            self._coarse = coarse_codes(
                self.model, images, rows, batch_size=self.card.encode.batch_size, progress=progress
            )

    def loss(self, batch: Tensor, rows: np.ndarray, *, generator: torch.Generator) -> Outcome:
        """Squared error over the training variance, plus beta x commitment."""
        model = self.model
        target = model.normalise(batch)
        seen = corrupted(target, self.card.corrupt, generator=generator)
        coded = model.quantizer(model.encoder(seen))
        vectors = {model.fine: coded.vectors}
        if model.coarse:
            indices = torch.from_numpy(self._coarse[rows]).to(target.device).long()
            vectors[COARSE] = model.coarse.quantizer.lookup(indices)
        error = reconstruction(model.decoder(model.joined(vectors)), target)
        pull = commitment(coded)
        self._coded = coded
        psnr = -10 * (error.detach() * model.deviation**2).clamp_min(1e-10).log10()
        return Outcome(
            error + self.card.vqvae.commitment * pull, {"reconstruction": error, "commitment": pull, "psnr": psnr}
        )

    def after_step(self, *, generator: torch.Generator) -> None:
        """Move the codebook, and count its codes."""
        assert self._coded is not None, "a step without a loss"
        self.restarted += self.model.quantizer.update(self._coded, generator=generator)
        for counts, chosen in zip(self.code_counts, self._coded.indices.unbind(1), strict=True):
            counts += torch.bincount(chosen.reshape(-1), minlength=len(counts))
        self._coded = None

    def progress(self, values: Mapping[str, float]) -> str:
        """Loss, PSNR, and how many codes were in use in this epoch."""
        used = f"codes {int((self.code_counts > 0).sum())}/{self.code_counts.numel()}"
        return f"loss {values['loss']:.4f}, PSNR {values['psnr']:.1f} dB, {used}"

    def end_epoch(self, images: np.ndarray, validation: np.ndarray) -> dict[str, float]:
        """PSNR of held-out images, and how the codes were used in this epoch."""
        scores = evaluate(self.model, images, validation, batch_size=self.card.encode.batch_size)
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

    def __init__(self, model: VQVAE, card: Card) -> None:
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

    def loss(self, batch: Tensor, rows: np.ndarray, *, generator: torch.Generator) -> Outcome:
        """NT-Xent of two views of each image."""
        card = self.card
        with torch.autocast(batch.device.type, enabled=False):  # places and colours in float32
            parts = [shrink(part.float() / 255, card.coarse_size) for part in torch.split(batch, SHRUNK_AT_ONCE)]
            images = torch.cat(parts)
            views = [
                apply(images, draw(len(batch), batch.shape[1], card.views, generator=generator), size=self.view_size)
                for _ in range(2)
            ]
            seen = torch.cat([(view - self.model.mean) / self.model.deviation for view in views])
        pooled = self.trunk(seen.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        loss, found = agreement(*self.projection(pooled).chunk(2), temperature=card.agree.temperature)
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
        start_coarse(self.model, images, rows, seed=self.card.seed)


PHASES: dict[str, tuple[type[Phase], ...]] = {"reconstruct": (Reconstruct,), "agree": (Agree, Reconstruct)}
"""The phases of each objective, in order."""


@torch.no_grad()
def coarse_codes(
    model: VQVAE, images: np.ndarray, rows: np.ndarray, *, batch_size: int, progress: Progress
) -> np.ndarray:
    """Coarse codes of `images[rows]`, computed as encoding does it: (len(images), R, g, g), zeros elsewhere."""
    assert model.coarse is not None
    level = next(level for level in model.levels if level.name == COARSE)
    codes = np.zeros((len(images), level.depth, level.height, level.width), level.index_dtype)
    with progress.bar("coarse codes", len(rows), "images") as bar:
        for part, batch in padded(images, rows, batch_size, model.mean.device):
            indices = model.coarse.quantizer(model.coarse(model.normalise(batch))).indices
            codes[part] = indices[: len(part)].cpu().numpy()
            bar.update(len(part))
    return codes


def create(kind: type[Phase], model: VQVAE, card: Card, *, number: int) -> Phase:
    """A phase whose own weights depend on the card's seed and its number alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence([card.seed, number]).generate_state(1)[0]))
        phase = kind(model, card)
    return phase.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
