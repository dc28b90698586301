"""Rows of the training: our loop with its defaults, against the same network written the usual way, and MONAI's VQVAE.

All sides see the same batches of the same images in memory, and take a step by turns. About four minutes on two cores.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measure import Row

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from toolkit_datasets.card import Card
    from toolkit_datasets.prepare import Prepared

PICTURES, EPOCHS = 2000, 4
USUAL_DECAY = 0.99  # of the others' codebooks: ours is slower, and begins fast, which they cannot do
CARD = ("train.objective=reconstruct", f"train.epochs={EPOCHS}", "train.validation=0.2")


def rows(folder: Path) -> list[Row]:
    """Rows of a few hundred steps on the first pictures in `folder`."""
    from stage1_vqvae.batches import epoch_batches
    from stage1_vqvae.holdout import split_validation
    from stage1_vqvae.train import train

    with tempfile.TemporaryDirectory() as place:
        prepared = in_memory(folder, Path(place) / "cache")
        card = prepared.card
        training, validation = split_validation(
            prepared.samples, prepared.rows("unlabelled"), share=card.train.validation, seed=card.seed
        )
        batches = [
            batch
            for epoch in range(EPOCHS)
            for batch in epoch_batches(training, card.train.batch_size, seed=card.seed, epoch=epoch)
        ]
        data = Normalised(prepared.images, training)
        others: list[Other] = [SameNetwork(data, card, len(batches))]
        if importlib.util.find_spec("monai"):
            others.append(Monai(data, card, len(batches)))
        else:
            print("no row against MONAI, which is not installed: pip install --no-deps monai", file=sys.stderr)
        turns = Turns(others, batches)
        metrics = train(prepared, Path(place) / "run", device="cpu", progress=turns)
    error = metrics["splits"]["validation"]["normalised_mse"]
    return [row(other, other.error(validation), error, turns, per_epoch=len(batches) // EPOCHS) for other in others]


def row(other: Other, their_error: float, error: float, turns: Turns, *, per_epoch: int) -> Row:
    """One repeat for each epoch, without its first step, in which ours also closes the epoch before."""
    ours, theirs = (
        np.array(turns.seconds[side]).reshape(EPOCHS, per_epoch)[:, 1:].mean(1) for side in ("ours", other.name)
    )
    batch, steps = turns.images_per_step, EPOCHS * per_epoch
    return Row(
        f"training-{other.name}",
        f"training on {batch:g} images of 64x64 a step, our loop with its defaults against {other.what}; validation "
        f"error (1: the mean image) after {steps} steps",
        f"{batch / np.median(ours):,.0f} images/s, error {error:.3f}",
        f"{batch / np.median(theirs):,.0f} images/s, error {their_error:.3f}",
        tuple((theirs / ours).tolist()),
        target=2.0,
        note="Three quarters of our step are convolutions, which bfloat16 makes twice as fast: what else is gained "
        "comes from the memory format and from what stands between them.",
    )


def in_memory(folder: Path, cache: Path) -> Prepared:
    """The first pictures of a folder under the card cats-vs-dogs, all of them unlabelled."""
    from toolkit_datasets.card import load_card
    from toolkit_datasets.prepare import prepare

    before = os.environ.get("TOOLKIT_CACHE")
    os.environ["TOOLKIT_CACHE"] = str(cache)
    try:
        found = prepare(load_card("folder", ["image.size=64"]), folder, limit=PICTURES, split=False)
    finally:
        os.environ.pop("TOOLKIT_CACHE")
        if before is not None:
            os.environ["TOOLKIT_CACHE"] = before
    good = found.rows("new")
    samples = found.samples.iloc[good].assign(split="unlabelled").reset_index(drop=True)
    return replace(found, card=load_card("cats-vs-dogs", CARD), samples=samples, images=found.images[good])


class Turns:
    """A progress that lets the others take a step after each of ours, and keeps the time of all of them."""

    def __init__(self, others: list[Other], batches: list[np.ndarray]) -> None:
        self.others, self.batches, self.done = others, batches, 0
        self.images_per_step = float(np.mean([len(rows) for rows in batches]))
        self.seconds: dict[str, list[float]] = {name: [] for name in ["ours", *(other.name for other in others)]}

    @contextmanager
    def bar(self, title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Turns]:
        self.training = title == "train"
        self.began = time.perf_counter()
        yield self

    def update(self, n: int = 1) -> None:
        if not self.training:
            return
        self.seconds["ours"].append(time.perf_counter() - self.began)
        for other in self.others:
            began = time.perf_counter()
            other.step(self.batches[self.done], self.done)
            self.seconds[other.name].append(time.perf_counter() - began)
        self.done += 1
        self.began = time.perf_counter()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None: ...

    def say(self, line: str) -> None: ...


class Normalised:
    """Images as the usual script holds them: float32 (N, C, H, W), contiguous, with mean 0 and variance 1."""

    def __init__(self, images: np.ndarray, training: np.ndarray) -> None:
        import torch

        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()
        learned = pixels[training]
        self.mean = learned.mean((0, 2, 3), keepdim=True)
        self.deviation = (learned - self.mean).square().mean().sqrt()
        self.images = (pixels - self.mean) / self.deviation

    def error(self, decoded: Tensor, rows: np.ndarray) -> Tensor:
        """Squared error of pictures whose pixels are held to [0, 1], over the variance, for each of `rows`."""
        low, high = -self.mean / self.deviation, (1 - self.mean) / self.deviation
        return (decoded.clamp(low, high) - self.images[rows]).square().mean((1, 2, 3))


class Other(ABC):
    """A VQ-VAE in float32 with torch's AdamW as it comes; learning rate, clipping and weight decay are ours."""

    name: str
    what: str

    def __init__(self, data: Normalised, card: Card, steps: int) -> None:
        import torch

        self.data, self.settings, self.steps = data, card.train, steps
        with torch.random.fork_rng():
            torch.manual_seed(card.seed)
            self.model = self.network(card)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=card.train.learning_rate, weight_decay=card.train.weight_decay
        )

    @abstractmethod
    def network(self, card: Card) -> torch.nn.Module:
        """What is trained, untrained."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions, and the loss of the codes."""
        decoded, pull = self.model(images)
        return decoded, pull

    def step(self, rows: np.ndarray, number: int) -> None:
        import torch
        import torch.nn.functional as F

        from stage1_vqvae.train import learning_rate

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, self.steps, self.settings)
        images = self.data.images[rows]
        self.model.train()
        decoded, pull = self.forward(images)
        loss = F.mse_loss(decoded, images) + pull
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        loss.item()  # for the progress bar

    def error(self, rows: np.ndarray) -> float:
        """Mean error of held-out images."""
        import torch

        self.model.eval()
        parts = np.array_split(rows, -(-len(rows) // 100))
        with torch.inference_mode():
            return float(
                torch.cat([self.data.error(self.forward(self.data.images[part])[0], part) for part in parts]).mean()
            )


class SameNetwork(Other):
    """Our encoder and decoder, with vector-quantize-pytorch between them."""

    name = "usual"
    what = "the same network in float32 with vector-quantize-pytorch and plain AdamW"
    model: torch.nn.ModuleDict

    def network(self, card: Card) -> torch.nn.ModuleDict:
        from torch import nn
        from vector_quantize_pytorch import VectorQuantize

        from stage1_vqvae.networks import decoder, encoder

        settings = card.vqvae
        shape: dict[str, Any] = {
            "channels": card.image.channels,
            "stride": settings.stride,
            "width": settings.width,
            "blocks": settings.blocks,
            "dim": settings.code_dim,
        }
        tokens_per_code = card.train.batch_size * (card.image.size // settings.stride) ** 2 / settings.codebook_size
        quantizer = VectorQuantize(
            dim=settings.code_dim,
            codebook_size=settings.codebook_size,
            decay=USUAL_DECAY,
            commitment_weight=settings.commitment,
            kmeans_init=True,
            threshold_ema_dead_code=settings.restart * tokens_per_code,
            accept_image_fmap=True,
        )
        return nn.ModuleDict({"encoder": encoder(**shape), "quantizer": quantizer, "decoder": decoder(**shape)})

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors, _, pull = self.model["quantizer"](self.model["encoder"](images))
        return self.model["decoder"](vectors), pull.sum()


class Monai(Other):
    """MONAI's VQVAE at our strides and widths; it has a residual block at each resolution, ours two at the last one."""

    name = "monai"
    what = "MONAI's VQVAE at the same strides and widths"

    def network(self, card: Card) -> torch.nn.Module:
        from monai.networks.nets.vqvae import VQVAE

        from stage1_vqvae.networks import channels_at

        settings = card.vqvae
        widths = channels_at(settings.stride, settings.width)
        return VQVAE(
            spatial_dims=2,
            in_channels=card.image.channels,
            out_channels=card.image.channels,
            channels=widths,
            num_res_channels=widths,
            num_res_layers=1,
            downsample_parameters=((2, 4, 1, 1),) * len(widths),  # stride, kernel, dilation, padding
            upsample_parameters=((2, 4, 1, 1, 0),) * len(widths),
            num_embeddings=settings.codebook_size,
            embedding_dim=settings.code_dim,
            commitment_cost=settings.commitment,
            decay=USUAL_DECAY,
        )
