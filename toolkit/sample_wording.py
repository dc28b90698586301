"""What `toolkit sample` says of its images, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .leakage import leakage_text
from .sample_record import MEASURES, TAIL
from .wording import amount


def sample_text(summary: Mapping[str, Any], out: Path) -> str:
    """The summary for the terminal."""
    lines = [leakage_text(summary["leakage"])] if summary.get("leakage") else []
    lines.append(f"samples   {_made(summary)}")
    if "neighbours" in summary:
        lines += _nearest(summary["neighbours"])
        lines += [copies_text(summary), *_off(summary)]
    else:
        lines.append("nearest   not compared with the training images, so copies would not be seen")
    if "latents" in summary:
        lines.append(f"latents   {latents_text(summary['latents'])}")
    return "\n".join([*lines, f"look at   {out / 'grid.png'}"])


def copies_text(summary: Mapping[str, Any]) -> str:
    """Whether samples are copies of training images, by the yardstick of unseen ones."""
    found = summary["neighbours"]
    copies, n, names = found["copies"], summary["images"], found["copies"]["suspects"]
    unseen = f"{100 * (1 - TAIL):.0f} % of {found['unseen']['n']} unseen images are to theirs"
    if not copies["judged"]:
        return "copies    not judged: the model has learned from one of the two ends, and nearness to it is no copy"
    if not names:
        return f"copies    no sign of any: none of {n} is nearer to a training image than {unseen}"
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    count = f"{len(names)} of {n} {'is' if len(names) == 1 else 'are'} nearer to a training image than {unseen}"
    if copies["more_than_chance"]:
        return f"COPIES    {count}; by chance it would be {copies['by_chance']:.1f}. Look at {listed}"
    return f"copies    {count}: no more than chance ({copies['by_chance']:.1f}). Look at {listed}"


def latents_text(found: Mapping[str, Any]) -> str:
    """How far the latents of the training images are from the prior that draws come from."""
    text = f"{found['active']} of {found['numbers']} vary from image to image"
    if not found["active"]:
        return f"{text}: draws say nothing, and all look alike"
    (low, high), (narrow, wide) = found["means"], found["deviations"]
    return (
        f"{text}; over the training images means {amount(low, like=1)} to {amount(high, like=1)}, deviations "
        f"{amount(narrow, like=1)} to {amount(wide, like=1)}\n"
        f"          (the prior has 0 and 1; with all correlations they are at least {amount(found['nats_from_prior'])} "
        "nats from it)"
    )


def _made(summary: Mapping[str, Any]) -> str:
    n = summary["images"]
    if summary["kind"] == "draws":
        how = f"temperature {summary['temperature']:g}, seed {summary['seed']}"
        return f"{n} drawn from the {summary['prior']} prior, {how}"
    first, last = (f"{end['name']} ({end['split'] or 'a file'})" for end in summary["ends"])
    return f"{n} from {first} to {last}; {summary['way']}"


def _nearest(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"nearest   of {found['training_images']:,} training images, at the median (root mean squares):",
        f"          {'':10} {'samples':>8} {found['unseen']['split'] + ' images':>18} {'the same, rebuilt':>18}",
    ]
    for measure in MEASURES:
        scores = found[measure]
        lines.append(
            f"          by {measure:7} {scores['median']:8.3f} {scores['unseen_median']:18.3f} "
            f"{scores['unseen_rebuilt_median']:18.3f}"
        )
    return lines


def _off(summary: Mapping[str, Any]) -> list[str]:
    """Samples that are farther from all training images than real images are; nothing where chance explains them."""
    found, n = summary["neighbours"], summary["images"]
    off = [f"{found[m]['far']} of {n} by {m}" for m in MEASURES if found[m]["far_more_than_chance"]]
    unseen = f"{100 * (1 - TAIL):.0f} % of the unseen ones"
    if not off:
        return []
    return [f"off       {' and '.join(off)}: farther from every training image than {unseen}, so unlike real images"]
