"""The training loop of stage 1, from an empty folder to a finished model: read it from top to bottom."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from toolkit_datasets.atomic import output_folder, write_json, write_text
from toolkit_datasets.card import Train
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress, Silent

from . import checkpoint, training_state
from .assessment import assess, perplexity, usage, write_examples
from .batches import check_shape, epoch_batches, load
from .codebook_start import start_codebook
from .device import choose_device, training_dtype
from .holdout import split_validation
from .interrupt import Interrupt
from .model import build
from .objectives import OBJECTIVES
from .reconstruct import evaluate
from .training_state import TrainingState, check_settings, load_state, save_state, settings_of

HISTORY, METRICS, EXAMPLES = "history.csv", "metrics.json", "examples.npz"


def train(
    prepared: Prepared, folder: Path, *, device: str = "auto", resume: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Train the card's VQ-VAE on the unlabelled images and leave the finished model in `folder`.

    Args:
        prepared: card, sample table and decoded images.
        folder: gets model.safetensors, model.json, history.csv, metrics.json, examples.npz, and the state to resume.
        device: `auto`, `cpu`, `cuda`, `cuda:<number>` or `mps`.
        resume: go on where an earlier call stopped; a finished training is returned as it is. Otherwise what an
            earlier training left in `folder` is removed.
        progress: shows images per second, loss, PSNR and codes in use.

    Returns:
        The metrics, as in metrics.json.

    Raises:
        ToolkitError: too few images, no such device, a state of other settings, or a loss that is no number.
        KeyboardInterrupt: after Ctrl-C, once the state is saved.
    """
    show = progress or Silent()
    began = time.perf_counter()
    card, images = prepared.card, prepared.images
    settings = settings_of(card, prepared)
    place = choose_device(device)
    check_shape(images, card)
    output_folder(folder)
    if resume and (folder / checkpoint.DESCRIPTION).exists():
        description = checkpoint.describe(folder)
        check_settings(settings, description["settings"], origin=folder / checkpoint.DESCRIPTION)
        return dict(description["metrics"])
    if not resume:
        for name in (checkpoint.DESCRIPTION, checkpoint.WEIGHTS, training_state.NAME, HISTORY, METRICS, EXAMPLES):
            (folder / name).unlink(missing_ok=True)

    # data: rows of the memory map; labels are never looked at
    training, validation = split_validation(
        prepared.samples, prepared.rows("unlabelled"), share=card.train.validation, seed=card.seed
    )
    per_epoch = -(-len(training) // card.train.batch_size)
    steps = per_epoch * card.train.epochs

    # model and optimizer; weight decay on convolutions only, not on biases and norms
    model = build(card, seed=card.seed).to(place)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": card.train.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=card.train.learning_rate, fused=place.type in ("cpu", "cuda"))
    dtype = training_dtype(place, card.train.precision)
    objective = OBJECTIVES[card.train.objective]

    # where it stands: at an earlier state, or at the start with brightness measured and the codebook on the latents
    if resume and (folder / training_state.NAME).exists():
        state = load_state(folder, model, optimizer, settings)
        show.say(f"resuming after step {state.step} of {steps}")
    else:
        state = TrainingState(code_counts=torch.zeros(card.vqvae.codebook_size, dtype=torch.long, device=place))
        model.measure(images, training)
        start_codebook(model, images, training, batch_size=card.train.batch_size, seed=card.seed)

    variance = float(model.deviation) ** 2
    batches: list[np.ndarray] = []
    before = state.seconds  # of earlier sittings
    with show.bar("train", card.train.epochs * len(training), "images") as bar, Interrupt() as interrupt:
        bar.update(state.step * len(training) // per_epoch)
        for step in range(state.step, steps):
            tick = time.perf_counter()
            epoch, place_in_epoch = divmod(step, per_epoch)
            if not batches or place_in_epoch == 0:
                batches = epoch_batches(training, card.train.batch_size, seed=card.seed, epoch=epoch)
            rate = learning_rate(step, steps, card.train)
            for group in optimizer.param_groups:
                group["lr"] = rate

            # forward, in bfloat16 where the device computes in it; the quantiser stays in float32
            batch = load(images, batches[place_in_epoch], place)
            model.train()
            with torch.autocast(place.type, dtype=dtype, enabled=dtype != torch.float32):
                outcome = objective(model, batch, card)
            parts = {"loss": outcome.loss, **outcome.parts}
            values = {name: float(value.detach()) for name, value in parts.items()}
            for name, value in values.items():
                finite(name, value, step=step, epoch=epoch, rate=rate)

            # backward, clip, step
            optimizer.zero_grad(set_to_none=True)
            outcome.loss.backward()  # type: ignore[no-untyped-call]
            length = torch.nn.utils.clip_grad_norm_(model.parameters(), card.train.clip)
            finite("gradient norm", float(length), step=step, epoch=epoch, rate=rate)
            optimizer.step()

            # the codebook learns after the lookup: this batch was judged by the codes it was coded with
            generator = torch.Generator(place).manual_seed(seed_of(card.seed, step))
            restarted = model.quantizer.update(outcome.quantized, generator=generator)

            # sums of the epoch
            values["psnr"] = -10 * math.log10(max(values["reconstruction"] * variance, 1e-10))
            state.add(values, len(batch), indices=outcome.quantized.indices, restarted=int(restarted))
            state.step = step + 1
            state.epoch_seconds += time.perf_counter() - tick
            bar.update(len(batch))
            bar.set_postfix_str(
                f"epoch {epoch + 1}/{card.train.epochs}, loss {values['loss']:.4f}, PSNR {values['psnr']:.1f} dB, "
                f"codes {int((state.code_counts > 0).sum())}/{len(state.code_counts)}",
                refresh=False,
            )

            # end of an epoch: validate, one row of history, save
            if place_in_epoch == per_epoch - 1:
                scores = evaluate(model, images, validation, batch_size=card.encode.batch_size)
                state.training_seconds += state.epoch_seconds
                state.seconds = before + time.perf_counter() - began
                state.history.append(history_row(state, epoch=epoch, rate=rate, images=len(training), scores=scores))
                state.begin_epoch()
                write_text(folder / HISTORY, pd.DataFrame(state.history).to_csv(index=False))
                save_state(folder, state, model, optimizer, settings)
            if interrupt.requested:
                state.seconds = before + time.perf_counter() - began
                save_state(folder, state, model, optimizer, settings)
                raise KeyboardInterrupt

    # figures on images that stage 1 never learned from, and the finished model
    model.eval()
    metrics, examples = assess(prepared, model, validation, progress=progress)
    metrics |= {
        "train_seconds": before + time.perf_counter() - began,
        "images_per_second": card.train.epochs * len(training) / state.training_seconds,
        "epochs": card.train.epochs,
        "steps": steps,
        "parameters": model.parameter_count,
        "device": str(place),
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    write_examples(folder / EXAMPLES, examples)
    write_json(folder / METRICS, metrics)
    checkpoint.save_model(folder, model, card, metrics, settings=settings)
    return metrics


def learning_rate(step: int, steps: int, settings: Train) -> float:
    """Linear warm-up over the first `settings.warmup` of all steps, then half a cosine down to a hundredth.

    >>> [round(learning_rate(step, 100, Train(learning_rate=1.0, warmup=0.1)), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.505, 0.01]
    """
    warm = round(settings.warmup * steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return settings.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def finite(name: str, value: float, *, step: int, epoch: int, rate: float) -> None:
    """Stop at the first number that is none, before it reaches the weights.

    Raises:
        ToolkitError: naming quantity, step and what to try.
    """
    if not math.isfinite(value):
        raise ToolkitError(
            f"training diverged: {name} is {value} at step {step + 1} (epoch {epoch + 1}, learning rate {rate:.2g}). "
            "Try --set train.learning_rate with a third of its value, a smaller train.clip, or "
            "train.precision=float32, and start afresh: the state saved last is from before this step"
        )


def seed_of(seed: int, step: int) -> int:
    """A seed for one step, unrelated to those of other steps and runs."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def history_row(
    state: TrainingState, *, epoch: int, rate: float, images: int, scores: dict[str, float]
) -> dict[str, float]:
    """One line of history.csv: means over the epoch's images, and scores of the validation images."""
    means = {name: value / images for name, value in state.sums.items()}
    counts = state.code_counts.cpu().numpy()
    return {
        "epoch": epoch + 1,
        "step": state.step,
        "seconds": state.seconds,
        "images_per_second": images / state.epoch_seconds,
        "learning_rate": rate,
        **means,
        "validation_psnr": scores["psnr"],
        "validation_mse": scores["mse"],
        "usage": usage(counts),
        "perplexity": perplexity(counts),
        "restarted": state.restarted,
    }
