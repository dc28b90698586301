"""Tumour slices against those without, which come from another source: what an AUROC may measure.

    python benchmarks/tumours.py --data brain_tumour_slices/

Trains a VQ-VAE on slices without tumour where --out holds none, scores the publisher's test part by `toolkit anomaly`,
and names what separates the two with no model at all. The table goes to --out as Markdown: what docs/anomaly.md quotes.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

from measure import machine, run_toolkit, trained  # benchmarks/measure.py

HEALTHY_ONLY = (
    "train.objective=reconstruct",
    "train.epochs=12",
    "vqvae.codebook_size=512",
    "vqvae.code_dim=64",
    "source.only_matching=true",
    "source.patterns=['(?:.*/)?Training/(?P<label>notumor)/[^/]*?(?P<number>\\d*)\\.\\w+', "
    "'(?:.*/)?(?P<part>Testing)/(?P<label>[^/]+)/[^/]*?(?P<number>\\d*)\\.\\w+']",
    "split.unlabelled=rest",
)


def table(data: Path, out: Path) -> str:
    """Train what is missing, score, and put what was found into a table."""
    run = trained(out / "no-tumour", "brain-tumour", data, None, HEALTHY_ONLY)
    scored = out / "tumours"
    run_toolkit("anomaly", run, "--healthy", "notumor", "--out", scored, "--most", 16, "--overwrite")
    found = json.loads((scored / "summary.json").read_text())["detection"]
    lines = ["| score | AUROC | average precision |", "|---|---|---|"]
    for part in ("images", "confounds"):
        for name, each in found[part].items():
            cells = [
                f"{each[m]['value']:.3f} ({each[m]['ci95'][0]:.3f}–{each[m]['ci95'][1]:.3f})"
                for m in ("auroc", "average_precision")
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the brain-tumour slices")
    parser.add_argument("--out", type=Path, default=Path("runs/tumours"), help="where the run and the table go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = f"{table(arguments.data, arguments.out)}\n\nMeasured on {machine()}, {date.today()}.\n"
    (arguments.out / "tumours.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
