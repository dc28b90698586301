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
    unit = "subject" if summary["volumes"] or summary["subjects"] < summary["images"] else "image"
    lines = [summary["caveat"]] if summary["caveat"] else []
    where = {"new": "new to the run", "unlabelled": "unlabelled split"}.get(
        summary["split"], f"{summary['split']} split, unseen by stage 1"
    )
    lines.append(f"images    {summary['images']:,} of {summary['subjects']:,} {unit}s, {where}")
    inside = "ssim_foreground" in scores
    lines.append(f"          {'':9} {'whole image':36}" + ("inside the foreground" if inside else ""))
    for title, whole, foreground in ROWS:
        cells = [_cell(scores[name]) for name in (whole, foreground) if name in scores]
        lines.append(f"          {title:9} " + "".join(f"{cell:36}" for cell in cells).rstrip())
    if several:
        lines.append(f"          (means over {unit}s; their sd; 95 % interval by bootstrap over {unit}s)")
    lines += _cohort_lines(summary.get("cohort"))
    lines += [f"note: {note}" for note in summary["notes"]]
    return "\n".join(lines)


def _cell(score: Mapping[str, Any]) -> str:
    digits = 2 if score["mean"] > 2 else 3  # dB, or a share
    text = f"{score['mean']:.{digits}f}"
    if score["ci95"]:
        low, high = score["ci95"]
        text += f" (sd {score['sd']:.{digits}f}; {low:.{digits}f} to {high:.{digits}f})"
    return text


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
