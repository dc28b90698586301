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
from toolkit_datasets.card_stages import Agree, Train
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Progress, Silent

from . import checkpoint, training_state
from .assessment import assess, write_examples
from .batches import check_shape, epoch_batches, load
from .device import choose_device, training_dtype
from .distributed import ALONE, World, share_of
from .holdout import split_validation
from .interrupt import Interrupt
from .model import build
from .phase import Phase, create
from .phases import PHASES
from .training_state import TrainingState, check_settings, load_state, restore, save_state, settings_of

METRICS, EXAMPLES = "metrics.json", "examples.npz"


def train(
    prepared: Prepared,
    folder: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    world: World = ALONE,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the card's model on the unlabelled images and leave the finished model in `folder`.

    Args:
        prepared: card, sample table and decoded images.
        folder: gets model.safetensors, model.json, a history of each phase (history.csv, history-agree.csv),
            metrics.json, examples.npz, and the state to resume.
        device: `auto`, `cpu`, `cuda`, `cuda:<number>` or `mps`.
        resume: go on where an earlier call stopped; a finished training is returned as it is. Otherwise what an
            earlier training left in `folder` is removed.
        world: the processes that train together, all with the same arguments; the first one writes.
        progress: shows images per second, loss, PSNR and codes in use.

    Returns:
        The metrics, as in metrics.json; nothing in processes other than the first.

    Raises:
        ToolkitError: too few images, no such device, a state of other settings, or a loss that is no number.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, in any of the processes, once the state is saved.
    """
    show = progress or Silent()
    began = time.perf_counter()
    card, images = prepared.card, prepared.images
    settings = settings_of(card, prepared)
    place = world.device if world.size > 1 else choose_device(device)
    check_shape(images, card)
    if world.first:
        output_folder(folder)
    finished = resume and (folder / checkpoint.DESCRIPTION).exists()
    world.check_same([settings, finished], what="what is trained, or whether it is finished,")
    if finished:
        description = checkpoint.describe(folder)
        check_settings(settings, description["settings"], origin=folder / checkpoint.DESCRIPTION)
        return dict(description["metrics"])
    phases = PHASES[card.train.objective]
    if not resume and world.first:
        made = [checkpoint.DESCRIPTION, checkpoint.WEIGHTS, training_state.NAME, METRICS, EXAMPLES]
        for name in made + [phase.history for phase in phases]:
            (folder / name).unlink(missing_ok=True)

    # data: rows of the memory map; labels are never looked at
    training, validation = split_validation(
        prepared.samples, prepared.rows("unlabelled"), share=card.train.validation, seed=card.seed
    )
    model = build(card, seed=card.seed).to(place)
    model.measure(images, training)
    dtype = training_dtype(place, card.train.precision)

    # where it stands: at an earlier state, or at the start
    saved = load_state(folder, settings) if resume and (folder / training_state.NAME).exists() else None
    state = saved.state if saved else TrainingState()
    stands = [state.phase, state.step, str(dtype)]
    world.check_same(stands, what="how far the training has come, or its train.precision,")
    before = state.seconds  # of earlier sittings

    def save(phase: Phase, optimizer: torch.optim.Optimizer) -> None:
        state.seconds = before + time.perf_counter() - began
        if world.first:
            save_state(folder, state, phase, optimizer, settings)
        world.barrier()

    for kind in phases[state.phase :]:
        # model and optimizer; weight decay on convolutions only, not on biases and norms
        phase = create(kind, model, card, number=state.phase, world=world).to(place)
        plan = phase.settings
        per_epoch = -(-len(training) // plan.batch_size)
        epochs = phase.epochs(len(training))
        steps = per_epoch * epochs
        learners = [parameter for _, parameter in phase.learners()]
        groups = [
            {"params": [p for p in learners if p.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [p for p in learners if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, fused=place.type in ("cpu", "cuda"))
        if saved:
            restore(saved, phase, optimizer)
            show.say(f"resuming {phase.name} after step {state.step} of {steps}")
            saved = None
        else:
            if world.first:
                phase.begin(images, training)
            world.broadcast(phase)
        phase.ready(images, training, show)
        loss_of = world.parallel(phase, learners)

        batches: list[np.ndarray] = []
        done = state.step * len(training) // per_epoch
        with (
            show.bar(phase.name, epochs * len(training), "images", done=done) as bar,
            Interrupt(patient=world.size > 1) as interrupt,
        ):
            for step in range(state.step, steps):
                tick = time.perf_counter()
                epoch, place_in_epoch = divmod(step, per_epoch)
                if not batches or place_in_epoch == 0:
                    batches = epoch_batches(training, plan.batch_size, seed=card.seed, epoch=epoch)
                rate = learning_rate(step, steps, plan)
                for group in optimizer.param_groups:
                    group["lr"] = rate

                # forward, in bfloat16 where the device computes in it; quantisers stay in float32
                rows = batches[place_in_epoch]
                share = world.share(len(rows))
                mine = share_of(rows, share)
                batch = load(images, mine, place)
                generator = torch.Generator(place).manual_seed(seed_of(card.seed, state.phase, step))
                phase.train()
                with torch.autocast(place.type, dtype=dtype, enabled=dtype != torch.float32):
                    outcome = loss_of(batch, mine, generator=generator, share=share)
                values = world.means({"loss": outcome.loss, **outcome.parts}, share)
                for name, value in values.items():
                    finite(name, value, phase=phase, step=step, epoch=epoch, rate=rate)

                # backward, clip, step
                optimizer.zero_grad(set_to_none=True)
                (outcome.loss * share.weight).backward()  # type: ignore[no-untyped-call]
                length = torch.nn.utils.clip_grad_norm_(learners, plan.clip)
                finite("gradient norm", float(length), phase=phase, step=step, epoch=epoch, rate=rate)
                optimizer.step()
                phase.after_step(generator=generator)

                # sums of the epoch
                state.add(values, len(rows), seconds=time.perf_counter() - tick)
                bar.update(len(rows))
                bar.set_postfix_str(f"epoch {epoch + 1}/{epochs}, {phase.progress(values)}", refresh=False)

                # end of an epoch: validate, one row of history, save
                if place_in_epoch == per_epoch - 1:
                    figures = phase.end_epoch(images, validation)
                    state.seconds = before + time.perf_counter() - began
                    state.end_epoch(epoch=epoch, rate=rate, images=len(training), figures=figures)
                    if world.first:
                        write_text(folder / phase.history, pd.DataFrame(state.history).to_csv(index=False))
                    save(phase, optimizer)
                if world.any(interrupt.requested):
                    save(phase, optimizer)
                    raise KeyboardInterrupt

        if world.first:
            phase.finish(images, training)
        world.broadcast(phase)
        state.seconds = before + time.perf_counter() - began
        state.end_phase(phase.name, epochs=epochs, steps=steps, images=len(training))

    # figures on images that stage 1 never learned from, and the finished model
    if not world.first:
        world.barrier()
        return {}
    model.eval()
    metrics, examples = assess(prepared, model, validation, progress=progress)
    last = state.phases[-1]
    metrics |= {
        "train_seconds": before + time.perf_counter() - began,
        **{name: last[name] for name in ("images_per_second", "epochs", "steps")},
        "phases": state.phases,
        "parameters": model.parameter_count,
        "device": str(place),
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **({"processes": world.size} if world.size > 1 else {}),
    }
    write_examples(folder / EXAMPLES, examples)
    write_json(folder / METRICS, metrics)
    checkpoint.save_model(folder, model, card, metrics, settings=settings)
    world.barrier()
    return metrics


def learning_rate(step: int, steps: int, settings: Train | Agree) -> float:
    """Linear warm-up over the first `settings.warmup` of all steps, then half a cosine down to a hundredth.

    >>> [round(learning_rate(step, 100, Train(learning_rate=1.0, warmup=0.1)), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.505, 0.01]
    """
    warm = round(settings.warmup * steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return settings.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def finite(name: str, value: float, *, phase: Phase, step: int, epoch: int, rate: float) -> None:
    """Stop at the first number that is none, before it reaches the weights.

    Raises:
        ToolkitError: naming quantity, step and what to try.
    """
    if not math.isfinite(value):
        raise ToolkitError(
            f"training diverged: {name} is {value} at step {step + 1} of {phase.name} (epoch {epoch + 1}, learning "
            f"rate {rate:.2g}). Try --set {phase.name}.learning_rate with a third of its value, a smaller "
            f"{phase.name}.clip, or "
            "train.precision=float32, and start afresh: the state saved last is from before this step"
        )


def seed_of(seed: int, phase: int, step: int) -> int:
    """A seed for one step of a phase, unrelated to those of other steps and runs."""
    return int(np.random.SeedSequence([seed, phase, step]).generate_state(1, np.uint64)[0] >> 1)
