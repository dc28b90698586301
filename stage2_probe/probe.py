"""The probe: how well a small classifier reads frozen codes, by a protocol that does not flatter.

For each draw of n labels from the pool: standardise, choose the regularisation by cross-validation inside the draw,
refit, score the test set once. The same draws serve every feature set; intervals come from a joint bootstrap over
draws and test groups (intervals.py). Nothing is ever chosen on the test set. Where a group is a subject of several
slices, a decision is about the subject (groups.py), and the scores of single slices stand beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from toolkit_datasets.atomic import output_folder, replacing, write_json
from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import Codes, Level
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.progress import Progress, Silent
from toolkit_datasets.splits import leakage
from toolkit_datasets.targets import Kind

from . import baselines, classifiers, regressors
from .baselines import Images
from .classification import Classification
from .draws import plan
from .evaluate import Outcome, evaluate
from .features import Spec, choices, feature_set
from .groups import by_group, group_table
from .judge import CODES, Judge
from .learner import Learner
from .regression import Regression
from .saved import Saved, save
from .task import POOL, AnyTask, ClassTask, ContinuousTask, Task, task_of

OTHER = "other"
SUBJECTS = "predictions_subjects.csv"
NO_IMAGES: Images = MappingProxyType({})


def probe(
    codes: Codes,
    settings: Probe,
    *,
    seed: int,
    out: Path,
    kind: Kind = "class",
    pool_split: str = POOL,
    images: Images = NO_IMAGES,
    against: Codes | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the protocol on a code store and write the results into `out`.

    Args:
        codes: with labelled and test samples in its manifest.
        settings: the card's `[probe]` table. The CNN always works on the code grid, whatever `features` says, and its
            image baselines, which have no grid, use logistic regression.
        seed: of draws, folds, random starts and resamples.
        out: gets results.json, predictions.csv, draws.csv, classifier.json and classifier.npz; where subjects are
            decided upon, predictions_subjects.csv too.
        kind: what the labels are, the card's `labels.kind`.
        pool_split: the split that label draws are taken from, the card's `split.pool`.
        images: baselines by name (`pixels`, `hog`, `random`): arrays with one row for each row of the manifest, or
            several of them for each draw to choose from.
        against: other codes of the same images, one more baseline, called `other`.
        device: of the CNN.
        progress: bars.

    Returns:
        What results.json holds: `probe`, `baselines` and `curve`, and first of all `leakage` where test groups were
        seen in training. Scores are of subjects where `probe.decided` is "group", and those of their samples then
        stand under `per_sample`. All of it but `probe.seconds` is fixed by codes, settings, seed and images.

    Raises:
        ToolkitError: nothing labelled, one class, labels that are no numbers, too few labels for a draw, a classifier
            or features that the labels or the codes cannot have.
    """
    began = time.perf_counter()
    progress = progress or Silent()
    task = task_of(codes.manifest, kind, judge=settings.judge, unit=settings.unit, pool_split=pool_split, seed=seed)
    labels = task.size(settings.labels)
    curve = tuple(sorted(size for size in settings.curve))
    draws = plan(task, labels=labels, draws=settings.draws, curve=curve, seed=seed)
    cnn = settings.classifier == "cnn" and kind == "class"
    specs = feature_choices(codes.info.levels, settings, content=codes.stored_content, origin=str(codes.path))
    sets = {
        CODES: [feature_set(codes, spec) for spec in specs],
        **baselines.feature_sets(images, codes.manifest, task, seed=seed),
    }
    if against is not None:
        plain = settings.model_copy(update={"levels": (), "classifier": "logistic"})  # all of its levels, and no CNN
        other = feature_choices(against.info.levels, plain, content=against.stored_content, origin=str(against.path))
        sets[OTHER] = baselines.of_store(codes, against, other, task)
    classifier = settings.classifier if kind == "class" else regressors.name_for(settings.classifier)
    makers = {name: _maker(classifier, name, codes, specs[0], task, device) for name in sets}
    makers[CODES]()  # a classifier that cannot be had should say so before the work, not after it
    output_folder(out)

    outcomes: dict[str, dict[int, Outcome]] = {}
    total = len(sets) * sum(len(of_size) for of_size in draws.values())
    with progress.bar("probe", total, "draw") as bar:
        for name, of_name in sets.items():
            bar.set_postfix_str(name)
            kept = labels if name == CODES else None
            outcomes[name] = evaluate(of_name, task, draws, makers[name], seed=seed, keep_answers=kept, bar=bar)

    beside = _judge(task, outcomes, draws, labels=labels, seed=seed)  # what single samples say
    judge = beside
    if task.by_group:
        of_groups = {
            name: {size: found.of_groups for size, found in by_size.items() if found.of_groups is not None}
            for name, by_size in outcomes.items()
        }
        judge = _judge(by_group(task), of_groups, draws, labels=labels, seed=seed)
    titles = {name: of_name[0].title for name, of_name in sets.items() if name != CODES}
    if cnn:
        titles = {name: f"{title} (logistic regression)" for name, title in titles.items()}
    titles = {judge.constant: judge.constant_title(), **titles}
    leaking = leakage(codes.manifest)
    results = {
        **({"leakage": leaking} if leaking else {}),
        "probe": {
            "kind": kind,
            "features": settings.features if len(specs) > 1 else str(specs[0]),
            "features_chosen": {
                str(spec): judge.main.features.count(place) for place, spec in enumerate(specs)
            },  # in how many draws
            "judge": settings.judge,
            "classifier": classifier,
            "n_labelled": labels,
            "n_pool": task.n_pool,
            "pool": task.pool_split,
            "n_test": len(task.test),
            "n_test_groups": len(np.unique(task.test_groups)),
            "draws": len(draws[labels]),
            "unit": task.unit,
            "grouped": task.grouped,
            "decided": "group" if task.by_group else "sample",
            **judge.results(),
            **(
                {"per_sample": {"n": len(task.test), "of": _samples(codes), **beside.figures()}}
                if task.by_group
                else {}
            ),
            "saved_classifier": {"draw": 0, **judge.saved_scores()},
            "unsupervised_transform": False,  # of the codes; the pixels' PCA is said in its title
        },
        "baselines": {
            name: {
                "title": title,
                **judge.baseline(name),
                **({"per_sample": beside.baseline(name)} if task.by_group else {}),
            }
            for name, title in titles.items()
        },
        "curve": judge.curve(curve),
    }
    results["probe"]["seconds"] = round(time.perf_counter() - began, 1)
    saved = Saved(
        classifier=judge.main.first,
        classes=task.classes if isinstance(task, ClassTask) else (),
        features=specs[judge.main.features[0]],
        model_hash=codes.info.model_hash,
        content=codes.info.content,
        levels=codes.info.levels,
        decided=results["probe"]["decided"],
    )
    _write(out, codes, task, judge, beside, saved, results, seed=seed)
    return results


def feature_choices(levels: Sequence[Level], settings: Probe, *, content: str, origin: str) -> tuple[Spec, ...]:
    """The features that the card's `[probe]` table stands for on codes of this kind; the CNN takes the whole grid.

    Raises:
        ToolkitError: see `choices`; or several levels for the CNN.
    """
    kind, cnn = settings.features, settings.classifier == "cnn"
    specs = choices(
        "vectors" if cnn else kind,
        settings.grid,
        levels,
        wanted=settings.levels,
        content=content,
        origin=origin,
    )
    if cnn and len(specs[0].levels) > 1:
        raise ToolkitError(
            f"the cnn reads one code grid, but {origin} has the levels {', '.join(specs[0].levels)}: choose one, such "
            f"as --set 'probe.levels=[\"{specs[0].levels[0]}\"]', or another probe.classifier"
        )
    return specs


def _samples(codes: Codes) -> str:
    """What the samples of a store are, in the plural."""
    return "slices" if (codes.manifest["slice"] != "").any() else "images"


def _judge(
    task: AnyTask,
    outcomes: Mapping[str, Mapping[int, Outcome]],
    draws: Mapping[int, list[np.ndarray]],
    *,
    labels: int,
    seed: int,
) -> Judge[Any]:
    """The judge of this kind of task."""
    if isinstance(task, ContinuousTask):
        return Regression(task, outcomes, draws, labels=labels, seed=seed)
    assert isinstance(task, ClassTask)
    return Classification(task, outcomes, draws, labels=labels, seed=seed)


def _maker(name: str, features: str, codes: Codes, spec: Spec, task: Task, device: str) -> Callable[[], Learner]:
    """How to make a fresh classifier or regressor for a feature set."""
    if not isinstance(task, ClassTask):
        return lambda: regressors.create(name)
    n_classes = len(task.classes)
    if name != "cnn":
        return lambda: classifiers.create(name, n_classes=n_classes)
    if features != CODES:
        return lambda: classifiers.create("logistic", n_classes=n_classes)
    level = codes.info.level(spec.levels[0])
    shape = (level.dim, level.height, level.width)
    return lambda: classifiers.create("cnn", n_classes=n_classes, shape=shape, device=device)


def _write(
    out: Path,
    codes: Codes,
    task: Task,
    judge: Judge[Any],
    beside: Judge[Any],
    saved: Saved,
    results: dict[str, Any],
    *,
    seed: int,
) -> None:
    tested = codes.manifest.iloc[task.test]
    predictions = beside.predictions(tested[["file", "id"]])
    _write_table(out / "predictions.csv", predictions, float_format=judge.number_format)
    (out / SUBJECTS).unlink(missing_ok=True)  # of an earlier probe that decided upon subjects
    if task.by_group:
        predictions = judge.predictions(group_table(tested, task.test_groups))
        _write_table(out / SUBJECTS, predictions, float_format=judge.number_format)
    ids = codes.manifest["id"].to_numpy()[task.pool]
    rows = [
        pd.DataFrame({"size": size, "draw": number, "id": ids[positions]})
        for size, of_size in judge.draws.items()
        for number, positions in enumerate(of_size)
    ]
    _write_table(out / "draws.csv", pd.concat(rows))
    scores = {f"{results['probe']['judge']}_{measure}": value for measure, value in judge.saved_scores().items()}
    save(out, saved, n_labelled=judge.labels, seed=seed, **scores)
    write_json(out / "results.json", results)  # last: where it is, the rest is whole


def _write_table(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n")
