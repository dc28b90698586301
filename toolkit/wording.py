"""Results in words: the same sentences in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log10
from typing import Any

from toolkit_datasets.card import Card

CLASSIFIERS = {
    "logistic": "a logistic classifier",
    "ridge": "a ridge classifier",
    "svm": "a linear support-vector machine",
    "knn": "a nearest-neighbours classifier",
    "mlp": "a small neural network",
    "cnn": "a small convolutional network",
}
REGRESSORS = {
    "ridge": "ridge regression",
    "knn": "nearest-neighbours regression",
    "mlp": "a small neural network",
}
TITLES = {
    "codes": "these codes",
    "majority": "guessing the commonest class",
    "mean": "the mean of the labels",
    "pixels": "raw pixels",
    "hog": "HOG",
    "random": "an untrained encoder",
    "head_size": "head size",
    "other": "other codes",
}
FEW = 50  # subjects: below, an interval says more than its middle, and stands before it


def model_text(card: Card, learners: int) -> str:
    """What stage 1 trains and for how long, in half a sentence.

    >>> from toolkit_datasets.card import load_card
    >>> model_text(load_card("digits", ["train.objective=reconstruct"]), 900)
    'VQ-VAE of 4x4 codes from 64 (16 dimensions); 30 epochs'
    """
    if card.train.objective == "vae":
        network = "the thesis's VAE" if card.vae.network == "thesis" else "VAE"
        return f"{network} of {card.vae.latent_dim} latents that are not quantised; {card.train.epochs} epochs"
    fine, coarse = card.vqvae, card.coarse
    side = card.image.size // fine.stride
    depth = f"{fine.depth} x " if fine.depth > 1 else ""
    text = f"{side}x{side} codes from {depth}{fine.codebook_size} ({fine.code_dim} dimensions)"
    network = "the thesis's VQ-VAE" if fine.network == "thesis" else "VQ-VAE"
    if card.train.objective == "reconstruct":
        return f"{network} of {text}; {card.train.epochs} epochs"
    patterns = f"as many of {coarse.patterns} patterns; " if coarse.patterns else ""
    return (
        f"{network} of {coarse.grid}x{coarse.grid} coarse codes from {coarse.depth} x {coarse.codebook_size} "
        f"that two views agree on, {card.agree.epochs_for(learners)} epochs; {patterns}"
        f"and of {text}, {card.train.epochs} epochs"
    )


def bits_text(bits: float, figures: Mapping[str, Any]) -> str:
    """What an image costs; of a VAE's latents, which are not quantised, by which count.

    >>> bits_text(0.5, {"model": "vqvae"}), bits_text(4.0, {"model": "vae"})
    ('0.5 bits per pixel', '4 bits per pixel (latents, not quantised: 32 bits a number)')
    """
    text = f"{bits:.3g} bits per pixel"
    return f"{text} (latents, not quantised: 32 bits a number)" if figures.get("model") == "vae" else text


def references_table(metrics: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Name, title and scores of the model, then of each reference on the same images; empty where there are none."""
    found = metrics.get("references") or {}
    if not found:
        return []
    pca = found.get("pca", {})
    titles = {
        "mean": "mean image",
        "blurred": f"input, blurred by {found.get('blurred', {}).get('sigma', 0):.3g} px",
        "pca": f"PCA, {pca.get('components', 0)} components in {pca.get('bits_per_pixel', 0):.3g} bits per pixel",
    }
    return [("model", "this model", metrics), *((name, titles[name], found[name]) for name in titles if name in found)]


def inside_text(figures: Mapping[str, Any]) -> str:
    """The SSIM inside the foreground, where there is one.

    >>> inside_text({"ssim_foreground": 0.8914}), inside_text({"ssim": 0.9})
    (', 0.891 inside the foreground', '')
    """
    inside = figures.get("ssim_foreground")
    return "" if inside is None else f", {inside:.3f} inside the foreground"


def verdict(difference: Mapping[str, Any] | None, *, smaller_is_better: bool = False) -> str:
    """What a paired difference (codes - baseline) says: "better", "worse", "not distinguishable" or "not compared".

    >>> verdict({"mean": -0.02, "ci95": [-0.03, -0.01]})
    'worse'
    >>> verdict({"mean": -0.02, "ci95": [-0.03, -0.01]}, smaller_is_better=True)
    'better'
    """
    bounds = (difference or {}).get("ci95")
    if not bounds:
        return "not compared"
    low, high = (-bounds[1], -bounds[0]) if smaller_is_better else bounds
    return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"


def is_continuous(found: Mapping[str, Any]) -> bool:
    """Whether the `probe` part of results judges continuous targets."""
    return found.get("kind") == "continuous"


def compared(baseline: Mapping[str, Any]) -> str:
    """The verdict on a baseline: by accuracy, or by the mean absolute error where the targets are continuous."""
    difference = baseline.get("difference")
    if "mae" in baseline:
        return verdict((difference or {}).get("mae"), smaller_is_better=True)
    return verdict(difference)


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
            sentence += f", from {bits_text(bits, figures)}." if bits else "."
        reason = str(results.get("probe_skipped") or "the run holds no results of a probe").rstrip(".")
        return {"result": sentence, "verdict": f"No classifier was judged: {reason}.", "conclusion": ""}
    found = results["probe"]
    sentence = _errors(found) if is_continuous(found) else _rightness(found)
    groups: dict[str, list[str]] = {}
    not_beaten = []
    baselines = results.get("baselines", {})
    like = found["mae"]["mean"] if is_continuous(found) else None
    for name, baseline in baselines.items():
        outcome, title = compared(baseline), baseline_title(name, baseline)
        score = (
            amount(baseline["mae"]["mean"], like=like) if "mae" in baseline else percent(baseline["accuracy"]["mean"])
        )
        groups.setdefault(outcome, []).append(f"{title} ({score})")
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


def judged(found: Mapping[str, Any]) -> str:
    """What the scores are of: images, or subjects."""
    what = "subjects" if of_subjects(found) else "images"
    return f"held-out {what} of the pool" if found.get("judge") == "pool" else f"test {what}"


def n_judged(found: Mapping[str, Any]) -> int:
    """How many of them there are."""
    return int(found["n_test_groups"] if of_subjects(found) else found["n_test"])


def of_subjects(found: Mapping[str, Any]) -> bool:
    """Whether a decision is about a whole subject, so that scores count subjects."""
    return found.get("decided") == "group"


def few_subjects(found: Mapping[str, Any]) -> bool:
    """Whether they are so few that an interval goes before its middle."""
    return of_subjects(found) and n_judged(found) < FEW


def by_slice(found: Mapping[str, Any]) -> str:
    """What the single slices of the subjects score, as half a sentence; "" where images are judged anyway."""
    scores = found.get("per_sample")
    if not scores:
        return ""
    begin = f"{single(found)} by {single(found)}:"
    if is_continuous(found):
        like, mae = found["mae"]["mean"], scores["mae"]
        error, bounds = amount(mae["mean"], like=like), amounts(mae["ci95"], like=like)
        return f"{begin} a mean absolute error of {error} ({bounds}) over {scores['n']:,}"
    bounds = interval(scores["accuracy"]["ci95"])
    return f"{begin} {percent(scores['accuracy']['mean'])} of {scores['n']:,} right ({bounds})"


def single(found: Mapping[str, Any]) -> str:
    """What a single sample of a subject is called: a slice, or an image."""
    return str(found.get("per_sample", {}).get("of", "images")).removesuffix("s")


def _rightness(found: Mapping[str, Any]) -> str:
    classifier = CLASSIFIERS.get(found["classifier"], f"a {found['classifier']} classifier")
    mean, bounds = percent(found["accuracy"]["mean"]), found["accuracy"].get("ci95")
    begin = f"With {_labels(found)}, {classifier} on these codes gets "
    if few_subjects(found) and bounds:
        return (
            f"{begin}{interval(bounds)} % of subjects right (95 % interval; {mean} of the {n_judged(found)} "
            f"{judged(found)})."
        )
    return f"{begin}{mean} of {n_judged(found):,} {judged(found)} right" + (
        f" (95 % interval {100 * bounds[0]:.1f}–{100 * bounds[1]:.1f})." if bounds else "."
    )


def _errors(found: Mapping[str, Any]) -> str:
    regressor = REGRESSORS.get(found["classifier"], found["classifier"])
    mae, r2 = found["mae"], found["r2"]
    bounds = amounts(mae.get("ci95"), like=mae["mean"])
    if few_subjects(found) and mae.get("ci95"):
        return (
            f"With {_labels(found)}, {regressor} on these codes predicts the targets of subjects with a mean absolute "
            f"error of {bounds} (95 % interval; {amount(mae['mean'])} for the {n_judged(found)} {judged(found)}) and "
            f"an R² of {ratios(r2.get('ci95'))} ({ratio(r2['mean'])})."
        )
    return (
        f"With {_labels(found)}, {regressor} on these codes predicts the targets of {n_judged(found):,} "
        f"{judged(found)} with a mean absolute error of {amount(mae['mean'])} (95 % interval {bounds}) and an R² of "
        + ratio(r2["mean"])
        + (f" ({ratios(r2['ci95'])})." if r2.get("ci95") else ".")
    )


def _labels(found: Mapping[str, Any]) -> str:
    whole = "all " if found["n_labelled"] == found.get("n_pool") else ""
    return f"{whole}{found['n_labelled']:,} {'labelled subjects' if found.get('grouped') else 'labels'}"


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


def amount(value: float, *, like: float | None = None, sign: bool = False) -> str:
    """A number in the unit of the labels, to three digits, or to as many decimals as three digits of `like` have.

    >>> amount(0.04567), amount(45.67), amount(-1234567.8), amount(0.0), amount(2.5, sign=True)
    ('0.0457', '45.7', '−1,234,568', '0', '+2.50')
    >>> amount(0.04567, like=1.25), amount(1234.567, like=12.5)
    ('0.05', '1,234.6')
    """
    scale = abs(value if like is None else like)
    if not scale:
        return f"{value:.3g}".replace("-", "−")
    size = floor(log10(scale))
    decimals = max(0, 2 - size)
    rounded = round(value, decimals) + 0.0  # never a negative zero
    text = f"{rounded:{'+' if sign else ''},.{decimals}f}" if -5 < size < 9 else f"{value:.3g}"
    return text.replace("-", "−")


def amounts(bounds: Any, *, like: float | None = None, sign: bool = False) -> str:
    """A pair of `amount`s, `3.91 to 4.30`; a dash where there is none."""
    return " to ".join(amount(bound, like=like, sign=sign) for bound in bounds) if bounds else "–"


def ratio(value: float | None) -> str:
    """A number such as R² to two decimals; a dash where it is undefined.

    >>> ratio(0.618), ratio(-0.05), ratio(-0.001), ratio(None)
    ('0.62', '−0.05', '0.00', '–')
    """
    return "–" if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def ratios(bounds: Any) -> str:
    """A pair of `ratio`s; a dash where there is none."""
    return " to ".join(ratio(bound) for bound in bounds) if bounds else "–"


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
