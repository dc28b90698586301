"""The summary of `toolkit reconstruct` as a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cohort_check import FEWEST
from .wording import amount

ROWS = (("SSIM", "ssim", "ssim_foreground"), ("PSNR, dB", "psnr", "psnr_foreground"))


def reconstructed_text(summary: Mapping[str, Any]) -> str:
    """Who was reconstructed and how well; then what is unusual about them."""
    scores, several = summary["scores"], summary["subjects"] > 1
    unit = "subject" if summary["volumes"] else "group" if summary["subjects"] < summary["images"] else "image"
    lines = [summary["caveat"]] if summary["caveat"] else []
    where = "new to the run" if summary["split"] == "new" else f"{summary['split']} split"
    where += "" if summary["caveat"] or summary["split"] == "new" else ", unseen by stage 1"
    people = f" of {summary['subjects']:,} {unit}s" if unit != "image" else ""
    lines.append(f"images    {summary['images']:,}{people}, {where}")
    inside = "ssim_foreground" in scores
    lines.append(f"          {'':9} {'whole image':36}{'inside the foreground' if inside else ''}".rstrip())
    for title, whole, foreground in ROWS:
        cells = [_cell(scores[name]) for name in (whole, foreground) if name in scores]
        lines.append(f"          {title:9} " + "".join(f"{cell:36}" for cell in cells).rstrip())
    if several:
        interval = f"; 95 % interval by bootstrap over {unit}s" if scores["ssim"]["ci95"] else ""
        lines.append(f"          (means over {unit}s; their sd{interval})")
    lines += _cohort_lines(summary.get("cohort"))
    lines += [f"note: {note}" for note in summary["notes"]]
    return "\n".join(lines)


def _cell(score: Mapping[str, Any]) -> str:
    digits = 2 if score["mean"] > 2 else 3  # dB, or a share
    text = f"{score['mean']:.{digits}f}"
    spread = [] if score["sd"] is None else [f"sd {score['sd']:.{digits}f}"]
    if score["ci95"]:
        spread.append(" to ".join(f"{bound:.{digits}f}" for bound in score["ci95"]))
    return f"{text} ({'; '.join(spread)})" if spread else text


def _cohort_lines(cohort: Mapping[str, Any] | None) -> list[str]:
    if cohort is None:
        return []
    units = cohort["units"]
    lines = [f"WARNING   {sentence}" for sentence in cohort["warnings"]]
    if not cohort["warnings"] and cohort["own"] >= FEWEST:
        codes = cohort["statistics"].get("codes")
        how = f"; codes at {amount(codes['median'])} from theirs" if codes else ""
        lines.append(f"cohort    nothing unusual beside the run's own {cohort['own']:,} {units}{how}")
    return lines + [f"note: {note}" for note in cohort["notes"]]
