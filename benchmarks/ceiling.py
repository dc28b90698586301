"""What codes could give at best, and what a glance gives: a run's codes beside their latents, and beside three numbers.

    python benchmarks/ceiling.py runs/cats --data train/

The latents are those of the levels that sum the picture up, before the nearest codes are looked up: the ceiling of any
codes for the same network. Each draw of labels chooses among the first and both, as with the codes. The three numbers
are each image's brightness, contrast and sharpness, in which sources and scanners differ: what a classifier makes of
them alone need not be a finding. All read the same draws. The table goes to the run as ceiling.md: what
docs/experiments.md quotes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import machine  # benchmarks/measure.py

from stage1_vqvae.batches import padded
from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.model import VQVAE
from stage2_probe import classifiers
from stage2_probe.baselines import of_array
from stage2_probe.draws import plan
from stage2_probe.evaluate import evaluate
from stage2_probe.features import FeatureSet, feature_set
from stage2_probe.probe import feature_choices
from stage2_probe.task import ClassTask, task_of
from toolkit.baselines import rows_in
from toolkit.confounds import trivial
from toolkit.pipeline import open_data, run_data
from toolkit_datasets.codes import open_codes
from toolkit_datasets.progress import SILENT

LABELS, DRAWS = (100, 1000, 5000), 20


def latents(run: Path, images: np.ndarray, rows: np.ndarray, place: np.ndarray) -> list[FeatureSet]:
    """The first summary's latents of `images[rows]`, and all summaries' side by side; row i is sample `place[i]`."""
    loaded = load_model(run / "stage1", "cpu")
    model, card = loaded.model, loaded.card
    assert isinstance(model, VQVAE), f"{run} has a VAE, which quantises nothing"
    found: dict[str, list[np.ndarray]] = {level.name: [] for level in model.summaries}
    with torch.inference_mode():
        for part, batch in padded(images, rows, card.encode_batch, torch.device("cpu")):
            normal = model.normalise(batch)
            for level in model.summaries:
                found[level.name].append(level(normal)[: len(part)].flatten(1).numpy())
    arrays = [scattered(np.concatenate(each), place) for each in found.values()]
    return [of_array(arrays[0], "latents"), of_array(np.concatenate(arrays, 1), "latents of all summaries")]


def glance(images: np.ndarray, rows: np.ndarray, place: np.ndarray) -> list[FeatureSet]:
    """Brightness, contrast and sharpness of `images[rows]`; row i is sample `place[i]`."""
    parts = [images[part] for part in np.array_split(rows, -(-len(rows) // 500))]
    found = [trivial(part, np.ones(part.shape[:3], bool)) for part in parts]
    numbers = np.concatenate([np.stack(list(each.values()), 1) for each in found])
    return [of_array(scattered(numbers, place), "brightness, contrast, sharpness")]


def scattered(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """`values` (n, ...) as float32 rows of a whole store's array, zeros elsewhere."""
    out = np.zeros((place.max() + 1, *values.shape[1:]), np.float32)
    out[place] = values
    return out


def table(run: Path, data: Path) -> str:
    """Accuracy in % by number of labels."""
    card, source, _ = run_data(run, None, None)
    prepared = open_data(card, replace(source, folder=data), progress=SILENT)
    codes = open_codes(next(path for path in (run / "codes", run / "codes.h5") if path.exists()))
    task = task_of(codes.manifest, "class", judge="test", pool_split=card.split.pool, seed=card.seed)
    assert isinstance(task, ClassTask)
    draws = plan(task, labels=LABELS[0], draws=DRAWS, curve=LABELS, seed=card.seed)
    specs = feature_choices(codes.info.levels, card.probe, content=codes.stored_content, origin=str(codes.path))
    judged = np.concatenate([task.pool, task.test])
    rows = rows_in(prepared, codes)[judged]
    sets = {
        "codes": [feature_set(codes, spec) for spec in specs],
        "their latents, not quantised": latents(run, prepared.images, rows, judged),
        "brightness, contrast and sharpness alone": glance(prepared.images, rows, judged),
    }
    lines = [f"| labels | {' | '.join(f'{size:,}' for size in draws)} |", "|---" * (len(draws) + 1) + "|"]
    create = partial(classifiers.create, "logistic", n_classes=len(task.classes))
    for name, offered in sets.items():
        with SILENT.bar(name, sum(map(len, draws.values())), "draws") as bar:
            found = evaluate(offered, task, draws, create, seed=card.seed, keep_answers=None, bar=bar)
        right = [100 * (found[size].predicted == task.test_y).mean() for size in draws]
        lines.append(f"| {name} | {' | '.join(f'{each:.1f}' for each in right)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--data", type=Path, required=True, help="its images")
    arguments = parser.parse_args()
    text = f"{table(arguments.run, arguments.data)}\n\nMeasured on {machine()}, {date.today()}.\n"
    (arguments.run / "ceiling.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
