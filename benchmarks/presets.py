"""Our default networks beside those of a published thesis, on people whom none of them saw: one table.

    python benchmarks/presets.py --data ds002748_2mm/ --labels participants.tsv --out /tmp/presets

Every row is a `toolkit train` and a `toolkit reconstruct` with the same people, slices, epochs and batches; what a row
costs in bits stands beside it, and PCA at the same bits after it. Where --out holds a row it is not trained anew. About
half an hour on two cores. The table goes to --out as presets.md: what docs/workflows/ixi.md quotes.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from measure import machine, run_toolkit, set_each  # benchmarks/measure.py

PEOPLE = ("split.unlabelled=0.75", "split.labelled=unlabelled")  # 39 people to learn from, 14 unseen
FEW_BITS = ("vqvae.stride=64", "vqvae.codebook_size=128", "vqvae.code_dim=16")  # 2x2 codes of 7 bits
PRESETS = {
    "VQ-VAE, our default": (),
    "VQ-VAE, our network at the thesis's bits": FEW_BITS,
    "VQ-VAE of the thesis": ("vqvae.network=thesis", *FEW_BITS),
    "VAE, our default": ("train.objective=vae",),
    "VAE of the thesis": ("train.objective=vae", "vae.network=thesis"),
}


def figures(name: str, place: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: what reconstruct says of the unseen people, and what training said of itself and of PCA."""
    run = arguments.out / f"{place}"
    sets = set_each((*PEOPLE, *PRESETS[name], *arguments.set))
    source = ("--data", arguments.data, "--labels", arguments.labels)
    run_toolkit("train", "ds002748", *source, "--out", run, "--resume", *sets)
    run_toolkit("reconstruct", run, "--no-images", "--overwrite")
    metrics = json.loads((run / "stage1" / "metrics.json").read_text(encoding="utf-8"))
    summary = json.loads((run / "reconstructions" / "test" / "summary.json").read_text(encoding="utf-8"))
    return {"metrics": metrics, "scores": summary["scores"], "subjects": summary["subjects"]}


def page(found: dict[str, dict[str, Any]]) -> str:
    """The table."""
    people = next(iter(found.values()))["subjects"]
    lines = [
        f"Measured {date.today()}: {machine()}; `python benchmarks/presets.py`. Means over {people} unseen people.",
        "",
        "| | bits per pixel | SSIM | SSIM inside the foreground | PSNR, dB | of PCA at these bits: SSIM, inside, dB "
        "| weights | training, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        metrics, scores = each["metrics"], each["scores"]
        pca = metrics["references"]["pca"]
        cells = [
            name,
            f"{metrics['bits_per_pixel']:.3g}",
            *(spread(scores[key], digits=3) for key in ("ssim", "ssim_foreground")),
            spread(scores["psnr"], digits=1),
            f"{pca['ssim']:.3f}, {pca['ssim_foreground']:.3f}, {pca['psnr']:.1f}",
            f"{metrics['parameters']:,}",
            f"{metrics['train_seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(score: dict[str, Any], *, digits: int) -> str:
    """Mean and 95 % interval over people."""
    low, high = score["ci95"]
    return f"{score['mean']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the volumes")
    parser.add_argument("--labels", type=Path, required=True, help="participants.tsv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="a card key for every row, such as train.epochs=2")
    arguments = parser.parse_args()
    found = {}
    for place, name in enumerate(PRESETS):
        found[name] = figures(name, place, arguments)
        (arguments.out / "presets.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
