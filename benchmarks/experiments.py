"""The experiment log: train configurations of stage 1, score them on halves of the pool, fill docs/experiments.md.

    python benchmarks/experiments.py --list
    python benchmarks/experiments.py --data train/ --out runs/experiments plain short
    python benchmarks/experiments.py --data train/ --out runs/experiments --final agree    # 3 seeds, on the test set
    python benchmarks/experiments.py --data train/ --out runs/experiments --final agree --seeds 1    # one of them

A configuration is a card and overrides. Half of the labelled pool teaches and the other half judges
(`probe.judge = "pool"`), so that no choice is ever made on the test images; only `--final` looks at them, with three
seeds of stage 1 on a split of its own. A run that was stopped goes on where it was. Figures go to
docs/experiments.json, and from there into the page's tables.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from measure import machine, put_between, run_toolkit, set_each  # benchmarks/measure.py

DOCS = Path(__file__).resolve().parents[1] / "docs"
RECORDS, PAGE = DOCS / "experiments.json", DOCS / "experiments.md"
BEGIN, END = "<!-- tables made by benchmarks/experiments.py -->", "<!-- end of the tables -->"
FINAL_SPLIT, FINAL_SEEDS = 2027, (0, 1, 2)  # a split that no choice was ever made on
LABELS = (100, 1000)
CURVE = (10, 20, 50, *LABELS, 200, 500, 2000, 5000)  # of the final rows
PLAIN, AGREE = ("train.objective=reconstruct",), ("train.objective=agree",)
EQUAL = ("vqvae.codebook_size=2896", "train.epochs=145")  # the bits and seconds of `agree`
SHORT = (*AGREE, "agree.most_images=240000", "split.test=500")  # some minutes, to compare settings with each other
TWICE, FEW = "train.epochs=2", "train.epochs=10"  # of the fine codes: as many steps with 1,000 images as with 5,000


@dataclass(frozen=True)
class Experiment:
    """One row of the log."""

    name: str
    card: str
    sets: tuple[str, ...]


EXPERIMENTS = (
    Experiment("plain", "cats-vs-dogs", PLAIN),
    Experiment("plain-equal", "cats-vs-dogs", (*PLAIN, *EQUAL)),
    Experiment("agree", "cats-vs-dogs", AGREE),
    Experiment("agree-long", "cats-vs-dogs", (*AGREE, "agree.epochs=800", "agree.most_images=4000000")),
    Experiment("short", "cats-vs-dogs", (*SHORT, TWICE)),
    Experiment("short-32-px", "cats-vs-dogs", (*SHORT, TWICE, "image.size=32", "coarse.stride=8")),
    Experiment("short-128-px", "cats-vs-dogs", (*SHORT, TWICE, "image.size=128")),
    Experiment("short-1,000-images", "cats-vs-dogs", (*SHORT, FEW, "split.unlabelled=1000")),
    Experiment("short-15,000-images", "cats-vs-dogs", (*SHORT, TWICE, "split.unlabelled=15000")),
    Experiment("tumour-plain", "brain-tumour", PLAIN),
    Experiment("tumour-agree", "brain-tumour", AGREE),
)


def run_one(experiment: Experiment, data: Path, out: Path, extra: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Train, encode and probe one configuration, or what is left of that; its figures."""
    sets = [*experiment.sets, *extra, "encode.format=h5"]
    seeded = ("--resume", "--seed", seed)
    run_toolkit("run", experiment.card, "--data", data, "--out", out, *seeded, *set_each(sets))
    return figures(json.loads((out / "results.json").read_text()))


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """What the log keeps of a run's results."""
    stage1, curve = results["stage1"], results["curve"]
    judges = "labelled" if results["probe"]["judge"] == "pool" else "test"
    found = {
        "psnr": stage1["splits"][judges]["psnr"],
        "bits_per_pixel": stage1["bits_per_pixel"],
        "usage": stage1["codebook_usage"],
        "train_seconds": stage1["train_seconds"],
        "accuracy": {
            name: dict(zip(map(str, curve["labels"]), of, strict=True)) for name, of in curve["accuracy"].items()
        },
        "difference": {name: baseline["difference"] for name, baseline in results["baselines"].items()},
        "device": stage1["device"],
    }
    return found


def tables(records: dict[str, Any]) -> str:
    """What stands between the markers of docs/experiments.md."""
    head = "PSNR | bits per pixel | codes in use | seconds | 100 labels | 1,000 labels |"
    logged = [each for each in EXPERIMENTS if "figures" in records.get(each.name, {})]
    lines = [f"| name | what is set | {head}", "|---|---|---|---|---|---|---|---|"] if logged else []
    for experiment in logged:
        sets = " ".join(f"`{each}`" for each in experiment.sets)
        lines.append(f"| {experiment.name} | {sets} | {row(records[experiment.name]['figures'])} |")
    for name, record in records.items():
        if "final" in record:
            lines += ["", f"Final rows of `{name}`, judged by the test images of split {FINAL_SPLIT}:", ""]
            lines += [f"| seed of stage 1 | {head}", "|---|---|---|---|---|---|---|"]
            lines += [f"| {seed} | {row(found)} |" for seed, found in record["final"].items()]
            lines += ["", *label_curve(record["final"])]
    machines = sorted({f"{record['machine']}, {record['date']}" for record in records.values()})
    return "\n".join([*lines, "", "Measured on: " + "; ".join(machines) + "."])


def label_curve(final: dict[str, Any]) -> list[str]:
    """Accuracy in % by number of labels, mean over the seeds of stage 1: a table."""
    sizes = sorted({int(size) for found in final.values() for of in found["accuracy"].values() for size in of})
    lines = [f"| labels | {' | '.join(f'{size:,}' for size in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    for name in next(iter(final.values()))["accuracy"]:
        scores = [[found["accuracy"][name][str(size)] for found in final.values()] for size in sizes]
        means = [100 * sum(each["mean"] for each in of) / len(of) if all(of) else None for of in scores]
        lines.append(f"| {name} | {' | '.join('–' if mean is None else f'{mean:.1f}' for mean in means)} |")
    return lines


def row(found: dict[str, Any]) -> str:
    """The cells of one run."""
    cells = [
        f"{found['psnr']:.2f}",
        f"{found['bits_per_pixel']:.3f}",
        f"{100 * found['usage']:.0f} %",
        f"{found['train_seconds']:,.0f}",
    ]
    for size in LABELS:
        score = found["accuracy"]["codes"].get(str(size))
        spread = f" ({100 * score['sd']:.1f})" if score and score["sd"] is not None else ""
        cells.append(f"{100 * score['mean']:.1f}{spread}" if score else "not run")
    return " | ".join(cells)


def main() -> None:
    """Run the named experiments and write the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments to run; without any the tables are only written anew")
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="where the runs go")
    parser.add_argument("--final", action="store_true", help="judged by the test images")
    parser.add_argument("--seeds", type=int, nargs="+", default=FINAL_SEEDS, help="of stage 1, with --final")
    parser.add_argument("--list", action="store_true", help="name the experiments and stop")
    arguments = parser.parse_args()
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    if arguments.list:
        print("\n".join(f"{e.name:20} {e.card:14} {' '.join(e.sets)}" for e in EXPERIMENTS))
        return
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"no experiment {unknown[0]!r}: choose from {', '.join(known)}")
    if len({known[name].card for name in arguments.names}) > 1:
        parser.error("the experiments are of several cards, but --data is one folder: run them one card at a time")
    if arguments.names and arguments.data is None:
        parser.error("--data is needed: the folder of the images")
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for name in arguments.names:
        record = records.setdefault(name, {})
        for seed in arguments.seeds if arguments.final else (0,):
            out = arguments.out / (f"{name}-final-{seed}" if arguments.final else name)
            judge = f"split.seed={FINAL_SPLIT}" if arguments.final else "probe.judge=pool"
            extra = (judge, f"probe.curve={sorted(CURVE if arguments.final else LABELS)}")
            found = run_one(known[name], arguments.data, out, extra, seed)
            if arguments.final:
                record.setdefault("final", {})[str(seed)] = found
            else:
                record["figures"] = found
            record |= {"machine": machine(), "date": str(date.today())}
            RECORDS.write_text(json.dumps(records, indent=1) + "\n")
    put_between(PAGE, BEGIN, END, tables(records))


if __name__ == "__main__":
    main()
