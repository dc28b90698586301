"""Images through the codes and back: how good reconstructions are, and pictures from a code store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toolkit_datasets.codes import Codes
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.progress import Bar, Progress, Silent

from . import scores
from .autoencoder import Autoencoder, Levels
from .batches import padded
from .checkpoint import load_model
from .quantizer import Quantized


@dataclass(frozen=True)
class Scored:
    """Reconstructions of n images, each judged by itself, in float32 and clipped to [0, 1]."""

    mse: np.ndarray  # (n,) of images in [0, 1]
    psnr: np.ndarray  # (n,) dB
    ssim: np.ndarray  # (n,) at most 1
    ssim_foreground: np.ndarray | None  # (n,) of the pixels that are not black, NaN where all are; None: not asked for
    code_counts: dict[str, np.ndarray]  # level -> (R, K) int64: how often each code was chosen in all n together


class CodeCounts:
    """How often each code of each level was chosen, over many batches; nothing of a model without codes."""

    def __init__(self, model: Autoencoder) -> None:
        device = model.mean.device
        self._counts = {
            name: torch.zeros(each.depth, each.codes, dtype=torch.long, device=device)
            for name, each in model.quantizers.items()
        }

    def add(self, quantized: Mapping[str, Quantized], n: int) -> None:
        """Count the first `n` images of a batch."""
        for name, counts in self._counts.items():
            for depth, chosen in enumerate(quantized[name].indices[:n].unbind(1)):
                counts[depth] += torch.bincount(chosen.reshape(-1), minlength=counts.shape[1])

    def arrays(self) -> dict[str, np.ndarray]:
        """Level -> (R, K) int64."""
        return {name: counts.cpu().numpy() for name, counts in self._counts.items()}


def score(
    model: Autoencoder,
    images: np.ndarray,
    rows: np.ndarray,
    *,
    batch_size: int,
    foreground: bool = False,
    bar: Bar | None = None,
) -> Scored:
    """Reconstruct `images[rows]` (n, H, W, C) uint8 and compare; memory does not grow with n, apart from the scores.

    With `foreground` also inside it, which slices of volumes have; see `scores.judge`.
    """
    names = ("mse", "psnr", "ssim", *(("ssim_foreground",) if foreground else ()))
    columns: dict[str, list[Tensor]] = {name: [] for name in names}
    counts = CodeCounts(model)
    for part, batch in padded(images, rows, batch_size, model.mean.device):
        decoded, quantized = reconstruct(model, batch)
        originals, decoded = batch[: len(part)].float() / 255, decoded[: len(part)]
        found = scores.judge(originals, decoded, foreground=foreground)
        for name, column in columns.items():
            column.append(found[name].cpu())
        counts.add(quantized, len(part))
        if bar is not None:
            bar.update(len(part))
    joined = {name: torch.cat(column).numpy() if column else np.zeros(0) for name, column in columns.items()}
    return Scored(
        joined["mse"], joined["psnr"], joined["ssim"], joined.get("ssim_foreground"), code_counts=counts.arrays()
    )


@torch.inference_mode()
def reconstruct(model: Autoencoder, batch: Tensor) -> tuple[Tensor, dict[str, Quantized]]:
    """uint8 images (B, C, H, W) -> their reconstructions in [0, 1], float32, and the codes of each level with any."""
    was_training = model.training
    model.eval()
    latents = model.encode(batch)
    quantized = model.quantize(latents)
    decoded = model.decode(latents | {name: each.vectors for name, each in quantized.items()})
    model.train(was_training)
    return decoded, quantized


def evaluate(
    model: Autoencoder, images: np.ndarray, rows: np.ndarray, *, batch_size: int = 250, progress: Progress | None = None
) -> dict[str, float]:
    """Mean scores of `images[rows]`: n, psnr (dB), ssim, mse (of images in [0, 1]), normalised_mse.

    `normalised_mse` is the mse over the variance of the training images: 1 is what their mean image would score.
    """
    with (progress or Silent()).bar("evaluate", len(rows), "images") as bar:
        return summary(score(model, images, rows, batch_size=min(batch_size, max(1, len(rows))), bar=bar), model)


def summary(scored: Scored, model: Autoencoder) -> dict[str, float]:
    """The means over images; inside the foreground over those that have one."""
    mse = float(scored.mse.mean())
    found = {
        "n": len(scored.mse),
        "psnr": float(scored.psnr.mean()),
        "ssim": float(scored.ssim.mean()),
        "mse": mse,
        "normalised_mse": mse / float(model.deviation) ** 2,
    }
    if scored.ssim_foreground is not None and not np.isnan(scored.ssim_foreground).all():
        found["ssim_foreground"] = float(np.nanmean(scored.ssim_foreground))
    return found


def decode(
    model_folder: Path,
    codes: Codes,
    rows: np.ndarray | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Turn the codes of a store back into images, batch by batch.

    Args:
        model_folder: the model that made the codes.
        codes: a store of any content; latents of a VQ-VAE are quantised first, as the model would have done.
        rows: which rows of the store; all by default.
        device: where the decoder runs.
        progress: counts images.

    Yields:
        (rows (n,), images (n, H, W, C) uint8).

    Raises:
        ToolkitError: the codes are another model's.
    """
    loaded = load_model(model_folder, device)
    if loaded.model_hash != codes.info.model_hash:
        raise ToolkitError(
            f"the codes in {codes.path} were made by the model {codes.info.model_hash[:12]}…, but {model_folder} holds "
            f"{loaded.model_hash[:12]}…: give the run that encoded them, or encode again with this one"
        )
    model, size = loaded.model, loaded.card.encode_batch
    rows = np.arange(len(codes)) if rows is None else np.asarray(rows)
    with (progress or Silent()).bar("decode", len(rows), "images") as bar:
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            vectors = {
                level.name: filled(torch.from_numpy(codes.vectors(level.name, part)), size).to(model.mean.device)
                for level in model.levels
            }
            with torch.inference_mode():
                if codes.info.content == "latents":
                    vectors = model.vectors(vectors)
                images = to_uint8(model.decode(vectors)[: len(part)])
            yield part, images
            bar.update(len(part))


def to_uint8(decoded: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [0, 1] as (B, H, W, C) uint8."""
    return (decoded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def decoded_pictures(model: Autoencoder, vectors: Levels, *, batch_size: int) -> np.ndarray:
    """What the decoder makes of each level's `vectors` (n, D, h, w): (n, H, W, C) uint8.

    Batches have one size, so that a picture does not depend on how many there are.
    """
    found = []
    for start in range(0, len(next(iter(vectors.values()))), batch_size):
        parts = {name: values[start : start + batch_size] for name, values in vectors.items()}
        with torch.inference_mode():
            whole = {name: filled(part, batch_size).to(model.mean.device) for name, part in parts.items()}
            found.append(to_uint8(model.decode(whole)[: len(next(iter(parts.values())))]))
    return np.concatenate(found)


def filled(batch: Tensor, size: int) -> Tensor:
    """`batch` (n, D, h, w) with its last one repeated to `size` of them, as channels_last."""
    whole = torch.cat([batch, batch[-1:].expand(size - len(batch), -1, -1, -1)])
    return whole.contiguous(memory_format=torch.channels_last)
