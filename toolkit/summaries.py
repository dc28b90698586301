"""Results as a few lines for the terminal, and `toolkit info`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolkit_datasets.codes import Codes, Shard, open_codes
from toolkit_datasets.errors import ToolkitError

from .leakage import leakage_text
from .pipeline import without_counts
from .runs import read_results
from .wording import (
    TITLES,
    amount,
    amounts,
    baseline_title,
    bits_text,
    by_slice,
    compared,
    few_subjects,
    headline,
    inside_text,
    interval,
    is_continuous,
    of_subjects,
    percent,
    ratio,
    references_table,
)

COUNTED = 1000  # samples of a folder whose codes `info` counts: each is a file to open, all 25,000 take seconds


def stage1_text(metrics: Mapping[str, Any]) -> str:
    """Reconstruction, the codes of each level, and what the training took."""
    lines = [
        f"stage 1   {metrics['psnr']:.2f} dB PSNR, {metrics['ssim']:.3f} SSIM{inside_text(metrics)} on "
        f"{metrics['figures_on']} images, {bits_text(metrics['bits_per_pixel'], metrics)}"
    ]
    lines += references_text(metrics)
    for name, level in metrics.get("levels", {}).items():
        which = f"{name}: " if len(metrics["levels"]) > 1 else ""
        if "usage" in level:
            lines.append(
                f"          {which}{level['usage']:.0%} of the codes used, perplexity {level['perplexity']:.0f}"
            )
        elif "active" in level:
            lines.append(f"          {level['active']} of {level['numbers']} latents vary from image to image")
    phases = ", ".join(f"{each['name']} {each['images_per_second']:.0f} images/s" for each in metrics.get("phases", []))
    lines.append(f"          {metrics['train_seconds']:.0f} s on {metrics['device']} ({phases})")
    return "\n".join(lines)


def references_text(metrics: Mapping[str, Any]) -> list[str]:
    """What simple methods score on the same images, one line each."""
    rows = references_table(metrics)
    width = max((len(title) for _, title, _ in rows), default=0)
    return [
        f"          {title:{width}}  {scores['psnr']:5.2f} dB, {scores['ssim']:.3f} SSIM{inside_text(scores)}, "
        f"{scores['normalised_mse']:.3f} normalised MSE"
        for _, title, scores in rows
    ]


def probe_text(results: Mapping[str, Any]) -> str:
    """The scores with their intervals, and how they stand against each baseline."""
    probe = results["probe"]
    words = headline(results, {})
    lines = [leakage_text(results["leakage"])] if results.get("leakage") else []
    lines += [f"stage 2   {words['result']}", f"          {words['conclusion']}".rstrip()]
    lines += _error_table(results) if is_continuous(probe) else _accuracy_table(results)
    if slices := by_slice(probe):
        lines.append(f"          {slices}")
    draws = "one draw" if probe["draws"] == 1 else f"{probe['draws']} draws"
    how = f"{draws} of {probe['n_labelled']} labels, {features_text(probe)}, {probe['classifier']}"
    if probe.get("pool") == "unlabelled":
        how += "; stage 1 learned from the labelled ones too, without their labels"
    if probe["judge"] == "pool":
        how += "; judged on half of the pool, the test set was not touched"
    return "\n".join(filter(str.strip, [*lines, f"          ({how})"]))


def _accuracy_table(results: Mapping[str, Any]) -> list[str]:
    few, subjects = few_subjects(results["probe"]), of_subjects(results["probe"])

    def row(title: str, scores: Mapping[str, Any]) -> str:
        bounds = f"{interval(scores['accuracy']['ci95']):>13} " if few else ""
        area = f" {ratio(scores.get('auroc', {}).get('mean')):>6}" if subjects else ""
        return f"          {title:30} {bounds}{percent(scores['accuracy']['mean']):>9}{area}"

    head = f"{'95 % interval ' if few else ''}{'accuracy':>9}{'  AUROC' if subjects else ''}"
    lines = [
        f"          {'':30} {head}   codes minus this, 95 % interval",
        row(TITLES["codes"], results["probe"]),
    ]
    for name, baseline in results.get("baselines", {}).items():
        difference = baseline["difference"]
        lines.append(
            f"{row(baseline_title(name, baseline), baseline)}   "
            f"{100 * difference['mean']:+.1f} points, {interval(difference['ci95'], sign=True)}: {compared(baseline)}"
        )
    return lines


def _error_table(results: Mapping[str, Any]) -> list[str]:
    like = results["probe"]["mae"]["mean"]
    rows = {TITLES["codes"]: (results["probe"], "")}
    for name, baseline in results.get("baselines", {}).items():
        difference = baseline["difference"]["mae"]
        bounds = amounts(difference["ci95"], like=like, sign=True)
        against = f"{amount(difference['mean'], like=like, sign=True)}, {bounds}"
        rows[baseline_title(name, baseline)] = (baseline, f"   {against}: {compared(baseline)}")
    few = few_subjects(results["probe"])
    head = f"{'95 % interval':>15} " if few else ""
    lines = [
        f"          {'':30} {head}{'MAE':>9} {'R²':>6}   codes minus this in MAE (below 0 is better), 95 % interval"
    ]
    for title, (scores, against) in rows.items():
        mae, r2 = amount(scores["mae"]["mean"], like=like), ratio(scores["r2"]["mean"])
        bounds = f"{amounts(scores['mae']['ci95'], like=like):>15} " if few else ""
        lines.append(f"          {title:30} {bounds}{mae:>9} {r2:>6}{against}")
    return lines


def features_text(probe: Mapping[str, Any]) -> str:
    """Which features of the codes were used; of several on offer, in how many draws each."""
    if probe["features"] != "auto":
        return str(probe["features"])
    return " or ".join(f"{name} ({draws})" for name, draws in probe["features_chosen"].items() if draws)


def results_text(results: Mapping[str, Any]) -> str:
    """Both stages."""
    probe = probe_text(results) if "probe" in results else f"stage 2   not done: {results['probe_skipped']}"
    leaks = f"{leakage_text(results['leakage'])}\n" if results.get("leakage") and "probe" not in results else ""
    return f"{leaks}{stage1_text(results['stage1'])}\n{probe}"


def codes_text(codes: Codes, *, then: str) -> str:
    """What was written, and the command that comes next."""
    folder = codes.path.is_dir()
    return (
        f"codes:  {len(codes):,} samples, {codes.info.content}, {codes.info.bits_per_pixel:.4g} bits per pixel"
        + (f", such as {codes.path / codes.manifest['file'].iat[0]}" if folder else f" in {codes.path}")
        + f"\nnext:   {then}"
    )


def shard_text(codes: Codes, shard: Shard, store: Path) -> str:
    """What was written of a store that still lacks shards."""
    return (
        f"shard:  {shard}, {len(codes):,} samples, in {codes.path}\n"
        f"next:   the other shards; the last one to finish joins all {shard.of} to {store}"
    )


def info_of(path: Path) -> dict[str, Any]:
    """What lies at `path`: a run folder, a stage-1 model, a probe or a code store, as plain data.

    Raises:
        ToolkitError: nothing that the toolkit wrote.
    """
    if (path / "run.json").is_file():
        parts: dict[str, Any] = {
            "kind": "run",
            "path": str(path),
            "card": (path / "card.toml").read_text(encoding="utf-8"),
        }
        if (path / "stage1" / "model.json").is_file():
            parts["stage1"] = _model(path / "stage1")
        for name in ("codes", "codes.h5"):
            if (path / name).exists():
                parts["codes"] = _store(open_codes(path / name))
        results = read_results(path / "results.json") or read_results(path / "probe" / "results.json")
        return {**parts, "results": results} if results else parts
    if (path / "model.json").is_file():
        return {"kind": "model", "path": str(path), "stage1": _model(path)}
    if (path / "classifier.json").is_file():
        return {"kind": "probe", "path": str(path), "results": read_results(path / "results.json")}
    if (path / "meta.json").is_file() or path.is_file():
        return {"kind": "code store", "path": str(path), "codes": _store(open_codes(path))}
    raise ToolkitError(f"{path} is no run folder, model, probe or code store of this toolkit")


def info_text(found: dict[str, Any]) -> str:
    """`info_of` for people."""
    lines = [f"{found['kind']}: {found['path']}"]
    if "stage1" in found:
        model = found["stage1"]
        lines += [f"model     {model['parameters']:,} parameters, sha256 {model['model_hash'][:12]}"]
        lines += [stage1_text(model)] if "psnr" in model else []
    if "codes" in found:
        store = found["codes"]
        counts = ", ".join(f"{split} {count:,}" for split, count in store["splits"].items())
        lines += [f"codes     {store['samples']:,} samples ({counts}), {store['content']}"]
        for level in store["levels"]:
            grid, dim = f"{level['height']}x{level['width']} grid", level["dim"]
            what = f"{level['codes']} codes of {dim} dimensions, depth {level['depth']}"
            if level["codes"] == 0:
                what = f"{dim} numbers at each place, not quantised, no codebook"
            lines.append(f"          level {level['name']}: {grid}, {what}")
            if "usage" in level:
                part = f" (in {level['counted']:,} of the samples)" if level["counted"] < store["samples"] else ""
                used = f"{level['usage']:.0%} of its codes used, perplexity {level['perplexity']:.0f}"
                lines.append(f"          {used}{part}")
        lines += [f"          {store['bits_per_pixel']:.4g} bits per pixel; made by model {store['model_hash'][:12]}"]
    if "probe" in found.get("results", {}):
        lines += [probe_text(found["results"])]
    return "\n".join(lines)


def _model(folder: Path) -> dict[str, Any]:
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return {"model_hash": about["model_hash"], **without_counts(about["metrics"])}


def _store(codes: Codes, block: int = 1000) -> dict[str, Any]:
    """The store's metadata, with the usage of each codebook counted from the codes themselves."""
    info = codes.info
    counted = np.arange(len(codes))
    if codes.path.is_dir() and len(codes) > COUNTED:
        counted = np.linspace(0, len(codes) - 1, COUNTED).astype(np.int64)
    levels = []
    for level, data in zip(info.levels, info.to_json()["levels"], strict=True):
        if codes.stored_content != "latents" and (codes.stored_content == "indices" or level.depth == 1):
            counts = np.zeros((level.depth, level.codes), np.int64)
            for start in range(0, len(counted), block):
                rows = counted[start : start + block]
                for depth, chosen in enumerate(codes.indices(level.name, rows).swapaxes(0, 1)):
                    counts[depth] += np.bincount(chosen.ravel(), minlength=level.codes)
            shares = counts / counts.sum(axis=1, keepdims=True)
            logs = np.log(shares, out=np.zeros_like(shares), where=counts > 0)
            perplexity = float(np.exp(-(shares * logs).sum(axis=1)).mean())  # over residual depths
            data |= {"usage": float((counts > 0).mean()), "perplexity": perplexity, "counted": len(counted)}
        levels.append(data)
    return {
        "samples": len(codes),
        "splits": {str(k): int(v) for k, v in codes.manifest["split"].value_counts().items()},
        "content": info.content,
        "levels": levels,
        "bits_per_pixel": info.bits_per_pixel,
        "model_hash": info.model_hash,
        "versions": info.versions,
    }
