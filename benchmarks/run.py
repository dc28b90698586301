"""Speed and memory as ratios against a peer or a limit, taken in one run: `make bench`.

    python benchmarks/run.py [--data FOLDER_OF_JPEGS] [--only quantiser]

Each row calls both sides by turns and reports the median of the ratios. Rows go to docs/benchmarks.json, each with its
machine and date, and from there to the tables of docs/benchmarks.md and README.md; `--only` measures those of one file
of this folder anew and leaves the others. Without --data the pictures are crops of the two photographs that come with
scikit-learn.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import REPEATS, put_between

DOCS = Path(__file__).parent.parent / "docs"
PAGE, RECORDS, README = DOCS / "benchmarks.md", DOCS / "benchmarks.json", DOCS.parent / "README.md"
BEGIN, END = "<!-- rows of docs/benchmarks.md -->", "<!-- end of the rows -->"
FILES = (  # of this folder, each with rows(folder of JPEGs)
    "quantiser",
    "training",
    "encoding",
    "pictures",
    "volumes",
    "probing",
    "startup",
    "growth",
)
HEADLINES = {  # what the README says of a row: ours, and the other
    "training-usual": ("a step of training the plain VQ-VAE", "the same network written the usual way, in float32"),
    "training-monai": ("the same", "MONAI's VQVAE of the same widths"),
    "nearest-1024": ("the nearest of 1,024 codes", "vector-quantize-pytorch"),
    "quantiser-memory": ("memory of a quantiser's step, 16,384 codes", "vector-quantize-pytorch"),
    "encode-plain": ("20,000 JPEG files to `.npy` codes", "ImageFolder, DataLoader and np.save"),
    "encode-warm-h5": ("the same to HDF5, decoded before", "the bare forward pass: 1 is the limit"),
    "probe-vectors": ("20 draws of labels, 15,000 test codes of 4,096 numbers", "the same with scikit-learn"),
}


def bundled_pictures(folder: Path) -> Path:
    """2,000 crops of 80x80 from scikit-learn's two photographs, as JPEG files."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = load_sample_images().images
    for i in range(2000):
        picture = photographs[i % 2]
        top, left = rng.integers(0, picture.shape[0] - 80), rng.integers(0, picture.shape[1] - 80)
        Image.fromarray(picture[top : top + 80, left : left + 80]).save(folder / f"{i}.jpg", quality=87)
    return folder


def page(records: dict[str, dict[str, Any]]) -> str:
    """docs/benchmarks.md of the rows by file and name."""
    lines = [
        "# Benchmarks\n",
        f"Written by `make bench`. A ratio is other / ours, the median of up to {REPEATS} alternating repeats with the "
        "range: above 1 is faster, or less. Figures of one row come from one run; all of them are in "
        "[benchmarks.json](benchmarks.json). What was tried for speed, with profiles, is in "
        "[decision 11](decisions/0011-speed.md). `python benchmarks/run.py --data FOLDER_OF_JPEGS --only FILE` repeats "
        "the rows of a file.\n",
        "All of it is of CPUs, for no GPU was at hand. So there are no GPU rows, NCCL is untried, and how many codes a "
        "GPU, which decides in float32 alone, finds otherwise than a CPU was not counted.\n",
        "| file | what | ours | other | ratio | target |",
        "|---|---|---|---|---|---|",
    ]
    found = [(file, row) for file, rows in records.items() for row in rows.values()]
    for file, row in found:
        spread = f" ({min(row['ratios']):.2f}–{max(row['ratios']):.2f})" if len(row["ratios"]) > 1 else ""
        target = (f"{row['target']:g}" + (", missed" if missing(row) else "")) if row["target"] else ""
        ratio = f"**{row['ratio']:.2f}**{spread}"
        lines.append(f"| {file} | {row['what']} | {row['ours']} | {row['other']} | {ratio} | {target} |")
    lines += ["", *(f"- {row['what']}: {said}" for _, row in found if (said := remarks(row)))]
    made = sorted({f"{row['made']['machine']}, {row['made']['date']}" for _, row in found})
    return "\n".join([*lines, "", f"Measured on {'; '.join(made)}."]) + "\n"


def headlines(records: dict[str, dict[str, Any]]) -> str:
    """The README's table of speed: the rows of `HEADLINES` that have been measured."""
    found = {name: row for rows in records.values() for name, row in rows.items()}
    lines = ["| | ours | against | theirs | ratio |", "|---|---|---|---|---|"]
    for name, (what, other) in HEADLINES.items():
        if name in found:
            row = found[name]
            lines.append(f"| {what} | {row['ours']} | {other} | {row['other']} | **{row['ratio']:.1f}** |")
    return "\n".join(lines)


def write(records: dict[str, dict[str, Any]]) -> None:
    """Records, page and the README's table."""
    RECORDS.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(records), encoding="utf-8")
    put_between(README, BEGIN, END, headlines(records))


def remarks(row: dict[str, Any]) -> str:
    """What stands below the table: by how much a target was missed, and the row's note."""
    missed = f"Misses its target by {100 * (1 - row['ratio'] / row['target']):.0f} %. " if missing(row) else ""
    return f"{missed}{row['note']}".strip()


def missing(row: dict[str, Any]) -> bool:
    """Whether a row has a target that its median does not reach."""
    return row["target"] is not None and row["ratio"] < row["target"]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of JPEG files")
    parser.add_argument("--only", choices=FILES, action="append", help="measure the rows of this file alone")
    arguments = parser.parse_args()
    records = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        pictures = arguments.data or bundled_pictures(Path(folder))
        for name in arguments.only or FILES:
            rows = importlib.import_module(name).rows(pictures)
            command = f"python benchmarks/run.py --only {name}" + (" --data FOLDER_OF_JPEGS" if arguments.data else "")
            records[name] = {row.name: {**row.record(), "command": command} for row in rows}
            for row in rows:
                print(f"{row.what}: {row.ours}, other {row.other}, ratio {row.ratio:.2f}", flush=True)
            records = {file: records[file] for file in FILES if file in records}  # in this order
            write(records)


if __name__ == "__main__":
    main()
