"""The report of a run: one HTML page that needs nothing but itself, whatever of the run is there.

Python here only gathers: every section of the page is a value or None, and the template says which file was missing.
Names, labels and paths are data: jinja2 escapes them all, matplotlib those in plots, and the page's own security
policy forbids scripts and any access to the network, should an escape ever fail.
"""

from __future__ import annotations

import base64
import io
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from toolkit import drawing, plots, report_continuous
from toolkit.code_map import code_map
from toolkit.leakage import leakage_text
from toolkit.wording import (
    CLASSIFIERS,
    TITLES,
    amount,
    amounts,
    baseline_title,
    bits_text,
    by_slice,
    duration,
    few_subjects,
    headline,
    interval,
    is_continuous,
    judged,
    n_judged,
    of_subjects,
    percent,
    ratio,
    ratios,
    references_table,
    single,
    verdict,
)
from toolkit_datasets.atomic import write_text
from toolkit_datasets.cache import is_fault
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import EMPTY
from toolkit_datasets.targets import counted

if TYPE_CHECKING:
    from toolkit_datasets.prepare import Prepared

SKIPPED_SHOWN = 100
CLASSES_SHOWN = 12  # in the gallery of right and wrong


def write_report(folder: Path, prepared: Prepared | None) -> Path:
    """Write `folder/report.html` from the files of the run folder, and return its path.

    Args:
        folder: a run folder; any of its parts may be missing, and the page says so.
        prepared: the decoded images, for thumbnails of right and wrong predictions; None leaves them out.

    Raises:
        ToolkitError: the folder holds neither `results.json` nor `stage1/metrics.json`, or one of them is not JSON.
    """
    results = _read_json(folder / "results.json")
    metrics = _read_json(folder / "stage1" / "metrics.json")
    if not results and not metrics:
        raise ToolkitError(
            f"{folder} is no run folder: it has neither results.json nor stage1/metrics.json. "
            "Make one with `toolkit run` or `toolkit train`."
        )
    card = folder / "card.toml"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    continuous = _continuous(results, text)
    subjects = of_subjects(results.get("probe", {}))
    predictions = folder / "probe" / ("predictions_subjects.csv" if subjects else "predictions.csv")
    html = _environment().get_template("report.html.j2").render(
        results=results,
        stage1=results.get("stage1") or metrics,
        card_text=text,
        headline=headline(results, metrics),
        leakage=leakage_text(results["leakage"]) if results.get("leakage") else "",
        splits=splits_table(results, folder / "samples.csv", continuous=continuous),
        continuous=continuous,
        skipped=skipped(folder / "samples.csv"),
        losses=losses(folder / "stage1"),
        references=references_table(results.get("stage1") or metrics),
        reconstructions=reconstructions(folder / "stage1" / "examples.npz"),
        usage={name: Markup(plots.usage(counts)) for name, counts in metrics.get("code_counts", {}).items()},
        probe=probe(results, predictions),
        gallery=gallery(predictions, prepared),
        predictions=predictions.name,
        subjects=subjects,
        has_images=prepared is not None,
        map=code_map(folder, continuous=continuous),
    )  # fmt: skip
    write_text(folder / "report.html", html)
    return folder / "report.html"


def probe(results: Mapping[str, Any], predictions_csv: Path | None = None) -> dict[str, Any] | None:
    """The probe's section: its numbers, a table of rows to compare, and three plots."""
    if "probe" not in results:
        return None
    if is_continuous(results["probe"]):
        there = predictions_csv is not None and predictions_csv.is_file()
        return report_continuous.section(results, _read_csv(predictions_csv) if there and predictions_csv else None)
    found, baselines = results["probe"], results.get("baselines", {})
    rows = [
        {
            "name": "codes",
            "title": "these codes",
            "accuracy": found["accuracy"],
            "per_sample": found.get("per_sample"),
            "auroc": found.get("auroc"),
            "difference": None,
            "verdict": "",
        }
    ]
    for name, baseline in baselines.items():
        difference = baseline.get("difference")
        rows.append(
            {
                "name": name,
                "title": baseline_title(name, baseline),
                "accuracy": baseline["accuracy"],
                "per_sample": baseline.get("per_sample"),
                "auroc": baseline.get("auroc"),
                "difference": difference,
                "verdict": verdict(difference),
            }
        )
    chance = (TITLES["majority"], float(baselines["majority"]["accuracy"]["mean"])) if "majority" in baselines else None
    curve = dict(results.get("curve") or {})
    if chance:  # it is drawn as a line of its own
        curve["accuracy"] = {name: points for name, points in curve.get("accuracy", {}).items() if name != "majority"}
    titles = {row["name"]: row["title"] for row in rows}
    matrix = found.get("confusion")
    drawn = [(row["name"], row["title"], row["accuracy"]) for row in rows if row["name"] != "majority"]
    measure = plots.of_people(plots.ACCURACY, found)
    return {
        "found": found,
        "judged": judged(found),
        "n_judged": n_judged(found),
        "few": few_subjects(found),
        "by_slice": by_slice(found),
        "single": single(found),
        "cases": "subjects" if of_subjects(found) else "images",
        "classifier": CLASSIFIERS.get(found["classifier"], found["classifier"]),
        "rows": rows,
        "bars": Markup(plots.score_bars(drawn, chance, measure)),
        "curve": Markup(plots.label_curve(curve, titles, chance, measure))
        if len(curve.get("labels", [])) > 1
        else None,
        "curve_data": curve,
        "titles": titles,
        "confusion": Markup(plots.confusion(np.array(matrix), found["classes"])) if matrix else None,
    }


def splits_table(results: Mapping[str, Any], samples_csv: Path, *, continuous: bool = False) -> dict[str, Any] | None:
    """Images per split and label: {"labels", "rows": [(split, total, [count per label])]}; None if unknown.

    Labels that are numbers are counted all together.
    """
    counts: dict[str, dict[str, int]] = results.get("samples", {}).get("splits") or {}
    if not counts and samples_csv.is_file():
        samples = _read_csv(samples_csv)
        good = samples[samples["status"] == "ok"]
        labels_of = counted(good["label"], "continuous" if continuous else "class")
        for split, label in zip(good["split"], labels_of, strict=True):
            counts.setdefault(split, {}).setdefault(label, 0)
            counts[split][label] += 1
    if not counts:
        return None
    labels = sorted({label for row in counts.values() for label in row}, key=lambda label: (label == "", label))
    shown = labels if len(labels) <= CLASSES_SHOWN else []  # else totals only: the table would be wider than the page
    order = ["unlabelled", "labelled", "test", "unused"]
    splits = sorted(counts, key=lambda split: (order.index(split) if split in order else len(order), split))
    rows = [(s, sum(counts[s].values()), [counts[s].get(label, 0) for label in shown]) for s in splits]
    return {"labels": shown, "rows": rows, "classes": len([label for label in labels if label])}


def skipped(samples_csv: Path) -> dict[str, Any] | None:
    """Files that were not used, with the reason: {"total", "rows": [(path, reason)]}; None without a sample table.

    A volume is told once for each reason, not once for each of its slices.
    """
    if not samples_csv.is_file():
        return None
    samples = _read_csv(samples_csv)
    bad = samples[is_fault(samples["status"])].drop_duplicates(["path", "status"])
    rows = list(zip(bad["path"].head(SKIPPED_SHOWN), bad["status"].head(SKIPPED_SHOWN), strict=True))
    empty = int(samples["status"].str.startswith(EMPTY).sum())
    return {"total": len(bad), "rows": rows, "empty": empty}


def losses(stage1: Path) -> list[Markup]:
    """The training curve of each phase that has a row to draw, in the order of the phases."""
    paths = [stage1 / name for name in ("history-agree.csv", "history.csv")]
    histories = [pd.read_csv(path) for path in paths if path.is_file()]
    return [Markup(plots.loss_svg(history)) for history in histories if len(history)]


def reconstructions(examples_npz: Path) -> list[dict[str, Any]] | None:
    """Pairs of original and reconstruction as PNG data, with their figures."""
    if not examples_npz.is_file():
        return None
    with np.load(examples_npz, allow_pickle=False) as examples:
        columns = [examples[key] for key in ("originals", "reconstructions", "id", "split", "psnr", "ssim")]
    return [
        {
            "original": png(o),
            "rebuilt": png(r),
            "id": str(i),
            "split": str(s),
            "psnr": float(p),
            "ssim": float(q),
        }
        for o, r, i, s, p, q in zip(*columns, strict=True)
    ]


def gallery(predictions_csv: Path, prepared: Prepared | None) -> dict[str, Any] | None:
    """The most confident right and wrong predictions of each class, with thumbnails; None without images.

    A subject is shown by its middle slice. For continuous targets see `report_continuous.gallery`.
    """
    if prepared is None or not predictions_csv.is_file():
        return None
    predictions = _with_rows(_read_csv(predictions_csv), prepared.samples)
    if "target" in predictions:
        return report_continuous.gallery(predictions, lambda row: png(np.asarray(prepared.images[int(row["row"])])))
    own = [row.get(f"p_{row['predicted']}", "") for row in predictions.to_dict("records")]
    predictions["confidence"] = pd.to_numeric(pd.Series(own, dtype=str), errors="coerce").fillna(-1.0)
    predictions = predictions.sort_values(["confidence", "file"], ascending=[False, True], kind="stable")
    classes = sorted(predictions["label"].unique())
    each = 4 if len(classes) <= 4 else 2
    shown = []
    for label in classes[:CLASSES_SHOWN]:
        true = predictions[predictions["label"] == label]
        right = true["predicted"] == true["label"]
        parts = {"right": true[right].head(each), "wrong": true[~right].head(each)}
        shown.append(
            {"label": label}
            | {key: [_thumbnail(row, prepared) for row in part.to_dict("records")] for key, part in parts.items()}
        )
    return {"classes": shown, "more": max(0, len(classes) - CLASSES_SHOWN)}


def _with_rows(predictions: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """The predictions whose picture is known, with a column row: the image's, or that of a subject's middle slice."""
    numbered = samples.reset_index(names="row")
    if "group" not in predictions:
        unique = numbered.drop_duplicates("id", keep=False)  # never a wrong picture
        return predictions.merge(unique[["id", "row"]], on="id", how="inner")
    good = numbered[numbered["status"] == "ok"]
    named = good["group"].where(good["group"] != "", good["id"])
    middle = {name: rows.iloc[len(rows) // 2] for name, rows in good["row"].groupby(named)}
    known = predictions[predictions["group"].isin(middle)].reset_index(drop=True)
    return known.assign(id=known["group"], file=known["group"], row=known["group"].map(middle))


def png(image: np.ndarray) -> str:
    """An image (H, W, C) uint8 as a `data:` address of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _continuous(results: Mapping[str, Any], card_text: str) -> bool:
    """Whether the run's labels are numbers, by its results or, where nothing was judged, by its card."""
    if "probe" in results:
        return is_continuous(results["probe"])
    try:
        labels = tomllib.loads(card_text).get("labels", {})
    except tomllib.TOMLDecodeError:
        return False
    return bool(labels.get("kind") == "continuous")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("toolkit", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a slip in the template is an error in its test, not a gap in the page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, interval=interval, duration=duration, short=drawing.shorten)
    environment.filters.update(amount=amount, amounts=amounts, ratio=ratio, ratios=ratios, bits=bits_text)
    return environment


def _thumbnail(row: Mapping[Any, Any], prepared: Prepared) -> dict[str, Any]:
    confidence = float(row["confidence"])
    return {
        "image": png(np.asarray(prepared.images[int(row["row"])])),
        "id": row["id"],
        "predicted": row["predicted"],
        "probability": confidence if confidence >= 0 else None,
    }


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ToolkitError(f"{path} is not valid JSON ({error}): run the command that wrote it again") from None
    return data


def _read_csv(path: Path) -> pd.DataFrame:
    """All columns as text; a label such as "NA" stays what it is."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)
