"""The probe: how well a small classifier reads frozen codes, by a protocol that does not flatter.

For each draw of n labels from the pool: standardise, choose the regularisation by cross-validation inside the draw,
refit, score the test set once. The same draws serve every feature set; intervals come from a joint bootstrap over
draws and test groups (intervals.py). Nothing is ever chosen on the test set.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from toolkit_datasets.atomic import output_folder, write_json, write_text
from toolkit_datasets.card import Probe
from toolkit_datasets.codes import Codes
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.progress import Progress, Silent

from . import baselines, metrics
from .classifiers import Classifier, create
from .draws import Task, plan, task_of
from .evaluate import Outcome, evaluate
from .features import feature_set
from .intervals import Bootstrap, interval
from .predict import prediction_table
from .saved import Saved, save

CODES, MAJORITY = "codes", "majority"

NO_IMAGES: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True)
class _Scores:
    """Accuracy of one feature set at one size."""

    per_draw: np.ndarray  # (draws,)
    resampled: np.ndarray  # (B,)

    def summary(self) -> dict[str, Any]:
        return {**metrics.mean_sd(self.per_draw.tolist()), "ci95": interval(self.resampled)}


def probe(
    codes: Codes,
    settings: Probe,
    *,
    seed: int,
    out: Path,
    images: Mapping[str, np.ndarray] = NO_IMAGES,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the protocol on a code store and write the results into `out`.

    Args:
        codes: with labelled and test samples in its manifest.
        settings: the card's `[probe]` table. The CNN always works on the code grid, whatever `features` says, and its
            image baselines, which have no grid, use logistic regression.
        seed: of draws, folds, random starts and resamples.
        out: gets results.json, predictions.csv, draws.csv, classifier.json and classifier.npz.
        images: baselines by name (`pixels`, `hog`, `random`): arrays with one row for each row of the manifest.
        device: of the CNN.
        progress: bars.

    Returns:
        What results.json holds: `probe`, `baselines` and `curve`. All of it but `probe.seconds` is fixed by codes,
        settings, seed and images.

    Raises:
        ToolkitError: nothing labelled, one class, too few labels for a draw, features that the codes cannot give.
    """
    began = time.perf_counter()
    progress = progress or Silent()
    task = task_of(codes.manifest)
    curve = tuple(sorted(size for size in settings.curve))
    draws = plan(task, labels=settings.labels, draws=settings.draws, curve=curve, seed=seed)
    kind = "vectors" if settings.classifier == "cnn" else settings.features
    code_features = feature_set(codes, kind, settings.grid)
    sets = {CODES: code_features, **baselines.feature_sets(images, codes.manifest, task, seed=seed)}
    makers = {name: _maker(settings.classifier, name, codes, task, device) for name in sets}
    makers[CODES]()  # a classifier that cannot be had should say so before the work, not after it
    output_folder(out)

    outcomes: dict[str, dict[int, Outcome]] = {}
    total = len(sets) * sum(len(of_size) for of_size in draws.values())
    with progress.bar("probe", total, "draw") as bar:
        for name, features in sets.items():
            bar.set_postfix_str(name)
            held = features.held(np.concatenate([task.pool, task.test]))
            outcomes[name] = {
                size: evaluate(
                    held,
                    task,
                    of_size,
                    makers[name],
                    seed=seed,
                    keep_shares=name == CODES and size == settings.labels,
                    bar=bar,
                )
                for size, of_size in draws.items()
            }
            del held  # one matrix of features at a time

    scores = _scores(task, outcomes, seed=seed)
    main = outcomes[CODES][settings.labels]
    assert main.shares is not None
    titles = {name: features.title for name, features in sets.items() if name != CODES}
    if settings.classifier == "cnn":
        titles = {name: f"{title} (logistic regression)" for name, title in titles.items()}
    titles = {MAJORITY: f"always {task.classes[_majority(task)]!r}, the most frequent class of the pool", **titles}
    results = {
        "probe": {
            "features": kind,
            "grid": settings.grid,
            "classifier": settings.classifier,
            "n_labelled": settings.labels,
            "n_pool": task.n_pool,
            "n_test": len(task.test),
            "n_test_groups": len(np.unique(task.test_groups)),
            "draws": len(draws[settings.labels]),
            "classes": list(task.classes),
            "unit": task.unit,
            "grouped": task.grouped,
            **_metrics(task, main, scores[CODES][settings.labels]),
            "unsupervised_transform": False,  # of the codes; the pixels' PCA is said in its title
        },
        "baselines": {
            name: {
                "title": title,
                "accuracy": scores[name][settings.labels].summary(),
                "difference": _difference(scores[CODES][settings.labels], scores[name][settings.labels]),
            }
            for name, title in titles.items()
        },
        "curve": _curve(curve, draws, scores),
    }
    results["probe"]["seconds"] = round(time.perf_counter() - began, 1)
    _write(out, codes, task, settings, kind, draws, main, results, seed=seed)
    return results


def _maker(name: str, features: str, codes: Codes, task: Task, device: str) -> Callable[[], Classifier]:
    """How to make a fresh classifier for a feature set."""
    n_classes = len(task.classes)
    if name != "cnn":
        return lambda: create(name, n_classes=n_classes)
    if features != CODES:
        return lambda: create("logistic", n_classes=n_classes)
    if len(codes.info.levels) > 1:
        raise ToolkitError(
            f"the cnn reads one code grid, but {codes.path} has {len(codes.info.levels)} levels: "
            "set probe.classifier to logistic, ridge, svm, knn or mlp"
        )
    level = codes.info.levels[0]
    return lambda: create("cnn", n_classes=n_classes, shape=(level.dim, level.height, level.width), device=device)


def _majority(task: Task) -> int:
    return int(np.bincount(task.pool_y, minlength=len(task.classes)).argmax())


def _scores(task: Task, outcomes: dict[str, dict[int, Outcome]], *, seed: int) -> dict[str, dict[int, _Scores]]:
    """Accuracies of every feature set and size, resampled together so that they are paired."""
    correct = {(name, size): o.correct for name, by_size in outcomes.items() for size, o in by_size.items()}
    always = task.test_y == _majority(task)
    for size, outcome in outcomes[CODES].items():
        correct[MAJORITY, size] = np.broadcast_to(always, outcome.correct.shape)
    bootstrap = Bootstrap(task.test_groups, seed=seed)
    scores: dict[str, dict[int, _Scores]] = {}
    for (name, size), resampled in bootstrap.resample(correct).items():
        scores.setdefault(name, {})[size] = _Scores(correct[name, size].mean(axis=1), resampled)
    return scores


def _metrics(task: Task, main: Outcome, scores: _Scores) -> dict[str, Any]:
    assert main.shares is not None
    n_classes = len(task.classes)
    counts = [metrics.confusion(task.test_y, shares.argmax(axis=1), n_classes) for shares in main.shares]
    return {
        "accuracy": scores.summary(),
        "balanced_accuracy": metrics.mean_sd([metrics.balanced_accuracy(c) for c in counts]),
        "auroc": metrics.mean_sd([metrics.auroc(task.test_y, shares) for shares in main.shares]),
        "f1": metrics.mean_sd([metrics.macro_f1(c) for c in counts]),
        "confusion": np.mean(counts, axis=0).tolist(),
        "per_draw": [
            {"draw": number, "accuracy": metrics.accuracy(c), "chosen": chosen}
            for number, (c, chosen) in enumerate(zip(counts, main.chosen, strict=True))
        ],
        "saved_classifier": {"draw": 0, "accuracy": metrics.accuracy(counts[0])},
    }


def _difference(codes: _Scores, other: _Scores) -> dict[str, Any]:
    """Codes minus a baseline, paired by draw and by resample."""
    return {
        "mean": float((codes.per_draw - other.per_draw).mean()),
        "ci95": interval(codes.resampled - other.resampled),
    }


def _curve(
    sizes: tuple[int, ...], draws: dict[int, list[np.ndarray]], scores: dict[str, dict[int, _Scores]]
) -> dict[str, Any]:
    kept = [size for size in dict.fromkeys(sizes) if size in draws]
    return {
        "labels": kept,
        "draws": [len(draws[size]) for size in kept],
        "accuracy": {name: [by_size[size].summary() for size in kept] for name, by_size in scores.items()},
    }


def _write(
    out: Path,
    codes: Codes,
    task: Task,
    settings: Probe,
    kind: str,
    draws: dict[int, list[np.ndarray]],
    main: Outcome,
    results: dict[str, Any],
    *,
    seed: int,
) -> None:
    assert main.shares is not None
    names = np.array(task.classes, dtype=object)
    table = prediction_table(codes.manifest.iloc[task.test], main.shares[0], task.classes)
    table.insert(2, "label", names[task.test_y])
    table["share_right"] = main.correct.mean(axis=0)
    write_text(out / "predictions.csv", _csv(table, float_format="%.6f"))

    ids = codes.manifest["id"].to_numpy()[task.pool]
    rows = [
        pd.DataFrame({"size": size, "draw": number, "id": ids[positions]})
        for size, of_size in draws.items()
        for number, positions in enumerate(of_size)
    ]
    write_text(out / "draws.csv", _csv(pd.concat(rows)))
    saved = Saved(
        classifier=main.first,
        classes=task.classes,
        features=kind,
        grid=settings.grid,
        model_hash=codes.info.model_hash,
        content=codes.info.content,
        levels=codes.info.levels,
    )
    save(
        out,
        saved,
        n_labelled=settings.labels,
        seed=seed,
        test_accuracy=results["probe"]["saved_classifier"]["accuracy"],
    )
    write_json(out / "results.json", results)  # last: where it is, the rest is whole


def _csv(table: pd.DataFrame, float_format: str | None = None) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, float_format=float_format, lineterminator="\n")
    return text.getvalue()
