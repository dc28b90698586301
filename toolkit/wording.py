"""Results in words: the same sentences in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSIFIERS = {
    "logistic": "a logistic classifier",
    "ridge": "a ridge classifier",
    "svm": "a linear support-vector machine",
    "knn": "a nearest-neighbours classifier",
    "mlp": "a small neural network",
    "cnn": "a small convolutional network",
}
TITLES = {
    "codes": "these codes",
    "majority": "guessing the commonest class",
    "pixels": "raw pixels",
    "hog": "HOG",
    "random": "an untrained encoder",
}


def verdict(difference: Mapping[str, Any] | None) -> str:
    """What a paired difference (codes - baseline) says: "better", "worse", "not distinguishable" or "not compared".

    >>> verdict({"mean": -0.02, "ci95": [-0.03, -0.01]})
    'worse'
    """
    bounds = (difference or {}).get("ci95")
    if not bounds:
        return "not compared"
    low, high = bounds
    return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"


def headline(results: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """What came out, in plain sentences: {"result", "verdict", "conclusion"}, plain text; the last two may be empty."""
    if "probe" not in results:
        figures = results.get("stage1") or metrics
        what = {"test": "unseen test images", "labelled": "unseen labelled images"}
        on = what.get(str(figures.get("figures_on")), "held-out images")
        sentence = "The model was trained."
        if figures.get("psnr") is not None:
            sentence = f"The model rebuilds {on} at {figures['psnr']:.1f} dB PSNR, SSIM {figures.get('ssim', 0):.2f}"
            bits = figures.get("bits_per_pixel")
            sentence += f", from {bits:.3g} bits per pixel." if bits else "."
        reason = str(results.get("probe_skipped") or "the run holds no results of a probe").rstrip(".")
        return {"result": sentence, "verdict": f"No classifier was judged: {reason}.", "conclusion": ""}
    found = results["probe"]
    classifier = CLASSIFIERS.get(found["classifier"], f"a {found['classifier']} classifier")
    kind = "labelled subjects" if found.get("grouped") else "labels"
    bounds = found["accuracy"].get("ci95")
    sentence = (
        f"With {found['n_labelled']:,} {kind}, {classifier} on these codes gets {percent(found['accuracy']['mean'])}"
        + f" of {found['n_test']:,} test images right"
        + (f" (95 % interval {100 * bounds[0]:.1f}–{100 * bounds[1]:.1f})." if bounds else ".")
    )
    groups: dict[str, list[str]] = {}
    not_beaten = []
    baselines = results.get("baselines", {})
    for name, baseline in baselines.items():
        outcome, title = verdict(baseline.get("difference")), baseline_title(name, baseline)
        groups.setdefault(outcome, []).append(f"{title} ({percent(baseline['accuracy']['mean'])})")
        if outcome != "better":
            not_beaten.append(title)
    words = {
        "better": "better than",
        "worse": "worse than",
        "not distinguishable": "not distinguishable from",
        "not compared": "not compared with",
    }
    parts = [f"{words[outcome]} {_and(groups[outcome])}" for outcome in words if outcome in groups]
    conclusion = ""
    if baselines:
        conclusion = "The codes are better than every baseline here."
    if not_beaten:
        conclusion = f"The codes are NOT better than {_and(not_beaten)} here."
    return {"result": sentence, "verdict": f"That is {'; '.join(parts)}." if parts else "", "conclusion": conclusion}


def baseline_title(name: str, baseline: Mapping[str, Any]) -> str:
    """What a baseline is called in sentences and plots."""
    return TITLES.get(name) or str(baseline.get("title") or name)


def percent(share: float) -> str:
    """A share from 0 to 1 as text: `53.1 %`."""
    return f"{100 * share:.1f} %"


def interval(bounds: Any, *, sign: bool = False) -> str:
    """A pair of shares in percent, `52.0 to 54.2`; with `sign`, `+0.3 to +1.2`; a dash where there is none."""
    if not bounds:
        return "–"
    low, high = (f"{100 * bound:{'+' if sign else ''}.1f}".replace("-", "−") for bound in bounds)
    return f"{low} to {high}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(42.4), duration(200), duration(7300)
    ('42 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
