"""What a card finds in a folder, told before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from toolkit_datasets.card import card_names, load_card
from toolkit_datasets.card_data import Split
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.splits import leakage
from toolkit_datasets.targets import counted, number

from .describe_volumes import people_facts, people_lines, volume_facts, volume_lines
from .leakage import leakage_text
from .wording import model_text

SHEET_IMAGES = 48


def cards_text() -> tuple[str, dict[str, Any]]:
    """The shipped cards as text and as data."""
    cards = {name: load_card(name) for name in card_names()}
    width = max(map(len, cards))
    lines = [f"{name:{width}}  {card.title}" for name, card in cards.items()]
    lines += ["", "toolkit datasets CARD --data DIR  says what a card finds in a folder;"]
    lines += ["a card of your own is a TOML file: give its path instead of a name."]
    return "\n".join(lines), {name: card.model_dump(mode="json") for name, card in cards.items()}


def describe(prepared: Prepared) -> dict[str, Any]:
    """Counts per split and label, sizes and modes as stored, and what is skipped and why."""
    samples, details, card = prepared.samples, prepared.details, prepared.card
    good = samples["status"] == "ok"
    labels = counted(samples["label"], card.labels.kind)
    table = samples[good].assign(label=labels[good]).groupby(["split", "label"]).size().unstack(fill_value=0)
    sizes = (details["width"] + "x" + details["height"])[good].value_counts()
    return {
        "card": card.name,
        "title": card.title,
        "data": prepared.origin,
        "licence": card.source.licence,
        "images": len(samples),
        "decoded": int(good.sum()),
        "ignored": prepared.ignored,
        "labels": {str(k): int(v) for k, v in labels[good & (labels != "")].value_counts().items()},
        **({"targets": _range(samples[good])} if card.labels.kind == "continuous" else {}),
        "unlabelled": int((good & (samples["label"] == "")).sum()),
        "splits": {str(split): {str(k): int(v) for k, v in row.items()} for split, row in table.iterrows()},
        "pool": card.split.pool,
        "groups": int(samples[good & (samples["group"] != "")]["group"].nunique()),
        "grouped": int((good & (samples["group"] != "")).sum()),
        "sizes": {str(k): int(v) for k, v in sizes.items()},
        "modes": {str(k): int(v) for k, v in details["mode"][good].value_counts().items()},
        "becomes": card.image.model_dump(),
        **volume_facts(prepared),
        **people_facts(prepared),
        "skipped": [{"path": path, "reason": reason} for path, reason in prepared.skipped_files],
        "leakage": leakage(samples),
        "notes": list(prepared.notes),
    }


def described_text(found: dict[str, Any], prepared: Prepared) -> str:
    """`describe` as a page for people."""
    becomes = found["becomes"]
    colours = "grey" if becomes["channels"] == 1 else "RGB"
    volumes = volume_lines(found, prepared)
    lines = [leakage_text(found["leakage"])] if found["leakage"] else []
    lines += [
        f"{found['title']}",
        f"data      {found['data']}",
        f"licence   {found['licence']}",
        f"images    {found['images']:,} ({found['decoded']:,} decode, {len(found['skipped']):,} files skipped); "
        f"{found['ignored']:,} other files ignored",
        *volumes,
        f"labels    {_targets(found) or _counts(found['labels'])}"
        + (f"; {found['unlabelled']:,} without" if found["unlabelled"] else ""),
    ]
    lines += people_lines(found)
    if volumes:
        lines.append(f"become    {becomes['size']}x{becomes['size']} {colours}")
    else:
        lines += [
            f"sizes     {_counts(found['sizes'])}",
            f"modes     {_counts(found['modes'])}",
            f"become    {becomes['size']}x{becomes['size']} {colours}, {becomes['fit']}",
        ]
    if found["grouped"]:
        lines.append(
            f"groups    {found['grouped']:,} images in {found['groups']:,} groups that stay on one side of the split "
            f"({_why_grouped(prepared.card.split)})"
        )
    lines += ["", _table(found["splits"])]
    if "subjects" in found:
        lines.append(f"subjects    {', '.join(f'{split} {count:,}' for split, count in found['subjects'].items())}")
    if found["pool"] == "unlabelled":
        lines.append(
            "pool        those of 'unlabelled' with a label (split.labelled); neither stage sees the test split"
        )
    if found["skipped"]:
        lines += ["", "skipped:"]
        lines += [f"  {entry['path']}: {entry['reason']}" for entry in found["skipped"][:20]]
        if len(found["skipped"]) > 20:
            lines.append(f"  … and {len(found['skipped']) - 20} more (--json lists all)")
    lines += [f"note: {note}" for note in found["notes"]]
    return "\n".join(lines)


def _why_grouped(split: Split) -> str:
    why = split.group or "pixel-identical"
    return f"{why}, or alike by {split.near_duplicates:g}" if split.near_duplicates else why


def plan_text(prepared: Prepared, out: Path, *, steps: tuple[str, ...]) -> str:
    """What a command would do, for --dry-run."""
    card = prepared.card
    learners = len(prepared.rows("unlabelled"))
    lines = [
        described_text(describe(prepared), prepared),
        "",
        f"would     {', '.join(steps)} into {out}",
        f"model     {model_text(card, learners)}; {learners:,} images",
    ]
    if "probe" in steps:
        p = card.probe
        learner: str = p.classifier
        if card.labels.kind == "continuous":
            from stage2_probe.regressors import name_for

            learner = name_for(learner)
        draws = "one draw of the whole pool" if p.labels == "all" else f"{p.draws} draws of {p.labels} labels"
        lines.append(f"probe     {draws}, {p.features} -> {learner}")
    return "\n".join(lines)


def write_sheet(prepared: Prepared, path: Path) -> None:
    """A contact sheet of images spread evenly over the table, as a model sees them; of volumes, their planes too."""
    from toolkit_datasets.atomic import output_folder

    from .plots import contact_sheet
    from .volume_sheet import write_volume_sheet

    output_folder(path.parent)
    if prepared.scan is not None and prepared.scan.volumes is not None:
        write_volume_sheet(prepared, path)
        return
    rows = np.flatnonzero((prepared.samples["status"] == "ok").to_numpy())
    rows = rows[np.linspace(0, len(rows) - 1, min(SHEET_IMAGES, len(rows))).astype(int)]
    samples = prepared.samples.iloc[rows]
    captions = [
        f"{i.rsplit('/', 1)[-1]} {label}".strip() for i, label in zip(samples["id"], samples["label"], strict=True)
    ]
    contact_sheet(prepared.images[rows], captions, path)


def _range(samples: pd.DataFrame) -> dict[str, float] | None:
    """Smallest, median and largest label where the labels are numbers; None where there is none."""
    values = [value for label in samples["label"] if (value := number(label)) is not None]
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _targets(found: dict[str, Any]) -> str:
    spread = found.get("targets")
    if not spread:
        return ""
    total = sum(found["labels"].values())
    return f"{total:,} numbers from {spread['min']:g} to {spread['max']:g}, median {spread['median']:g}"


def _counts(counts: dict[str, int], most: int = 8) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    return ", ".join(shown + ([f"and {len(counts) - most} more"] if len(counts) > most else [])) or "none"


def _table(splits: dict[str, dict[str, int]]) -> str:
    labels = sorted({label for counts in splits.values() for label in counts})
    heads = [label or "(no label)" for label in labels]
    widths = [max(len(head), 7) for head in heads]
    lines = ["split       " + "  ".join(f"{head:>{w}}" for head, w in zip(heads, widths, strict=True)) + "      all"]
    for split in ("unlabelled", "labelled", "test", "unused", "new"):
        if split in splits:
            counts = [splits[split].get(label, 0) for label in labels]
            cells = "  ".join(f"{count:>{w},}" for count, w in zip(counts, widths, strict=True))
            lines.append(f"{split:12}{cells}  {sum(counts):>7,}")
    return "\n".join(lines)
