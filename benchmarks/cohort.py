"""A cohort of 600 IXI-sized scans through `prepare` and one epoch: is memory flat, and what does a scan cost?

    python benchmarks/cohort.py --scan IXI012.nii.gz --out /tmp/cohort [--most 600]

Writes volumes of 256x256x150 at 0.9375 x 0.9375 x 1.2 mm, laid out and named as IXI is: one real scan, brought to that
grid, with a shift, a brightness and noise of its own for each person (7 GB in all; removed at the end). Then `toolkit
prepare ixi` and `toolkit train ixi --set train.epochs=1` as processes of their own, once with a tenth of the people and
once with all; peaks of memory are those of the process tree. Reading is compared with nibabel alone, file by file, by
turns. About 35 minutes on two cores. The table goes to --out as cohort.md: what docs/workflows/ixi.md quotes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from measure import Watched, alternate, machine, toolkit, watched  # benchmarks/measure.py
from nibabel.affines import apply_affine
from nibabel.processing import resample_from_to

SHAPE, SPACING = (256, 256, 150), (0.9375, 0.9375, 1.2)  # of IXI, stored sagittally: P, S, R
COMPARED = 24  # files that nibabel reads too


def write_cohort(scan: Path, folder: Path, people: int) -> None:
    """The scans; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    source = nib.load(scan)
    centre = apply_affine(source.affine, (np.array(source.shape[:3]) - 1) / 2)
    axes = np.zeros((3, 3))
    for column, (row, sign) in enumerate(((1, -1), (2, 1), (0, 1))):  # to the back, upwards, to the right
        axes[row, column] = sign * SPACING[column]
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = centre - axes @ (np.array(SHAPE) - 1) / 2
    base = np.asarray(resample_from_to(source, (SHAPE, affine), order=1).dataobj, np.float32)
    base *= 1000 / np.percentile(base, 99.5)
    noise = np.random.default_rng(0).normal(0, 8, SHAPE).astype(np.float32)
    for number in range(people):
        path = folder / f"IXI{number:03d}-Guys-{number:04d}-T1.nii.gz"
        if path.exists():
            continue
        rng = np.random.default_rng([1, number])
        shift = tuple(rng.integers(-6, 7, 3).tolist())
        data = np.roll(base, shift, (0, 1, 2)) * rng.uniform(0.8, 1.25) + np.roll(noise, int(rng.integers(256)), 0)
        image = nib.Nifti1Image(np.clip(data, 0, None).astype(np.int16), affine)
        temporary = path.with_name(f".{path.name}")
        nib.save(image, temporary)
        temporary.rename(path)


def part(folder: Path, people: int, out: Path) -> Path:
    """A folder of links to the first `people` scans."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in sorted(folder.glob("IXI*.nii.gz"))[:people]:
        (out / path.name).hardlink_to(path)
    return out


def reading(folder: Path) -> str:
    """Our reading of a file, hash and foreground window and slices included, against nibabel's own."""
    from toolkit_datasets.card import load_card
    from toolkit_datasets.volumes import cut

    card = load_card("ixi")
    slices = [f"{place}" for place in range(card.slices.count)]
    files = sorted(folder.glob("IXI*.nii.gz"))[:COMPARED]

    def ours() -> None:
        for path in files:
            cut(path, card, slices)

    def theirs() -> None:
        for path in files:
            np.asarray(nib.load(path).dataobj)

    timed = alternate(ours, theirs, repeats=3)
    shares = [1 / each for each in timed.ratios]
    return (
        f"One thread, {len(files)} files: {timed.ours / len(files):.2f} s a volume into 128 slices, hash and window "
        f"included, against {timed.other / len(files):.2f} s that nibabel takes to read the array: "
        f"{statistics.median(shares):.2f} times ({min(shares):.2f} to {max(shares):.2f}; 3 repeats by turns)."
    )


def memory(took: Watched) -> str:
    """A cell: the peak, and in brackets the peak without pages of files."""
    return f"{took.peak:,.0f} ({took.own:,.0f})"


def main() -> None:
    """Write, measure, and remove again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, required=True, help="a real scan of a head, NIfTI")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=600, help="people")
    parser.add_argument("--keep", action="store_true", help="leave the scans where they are")
    arguments = parser.parse_args()
    out, most = arguments.out, arguments.most
    write_cohort(arguments.scan, out / "scans", most)
    lines = [
        f"Measured {date.today()}: {machine()}; `python benchmarks/cohort.py`.",
        "",
        "| people | slices | prepare, s | s a volume | peak, MB | slices of stage 1 | epoch, s | peak, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for people in (most // 10, most):
        folder, cache = part(out / "scans", people, out / "part"), out / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        environment, run = {"TOOLKIT_CACHE": str(cache)}, out / f"run-{people}"
        prepared = watched(toolkit("prepare", "ixi", "--data", folder), env=environment)
        command = toolkit("train", "ixi", "--data", folder, "--out", run, "--overwrite", "--set", "train.epochs=1")
        trained = watched(command, env=environment)
        splits = pd.read_csv(run / "samples.csv", usecols=["split"])["split"]
        lines.append(
            f"| {people} | {len(splits):,} | {prepared.seconds:.0f} | {prepared.seconds / people:.2f} "
            f"| {memory(prepared)} | {(splits == 'unlabelled').sum():,} | {trained.seconds:.0f} | {memory(trained)} |"
        )
        (out / "cohort.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines += ["", reading(out / "scans")]
    (out / "cohort.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    if not arguments.keep:
        for name in ("scans", "part", "cache"):
            shutil.rmtree(out / name, ignore_errors=True)


if __name__ == "__main__":
    main()
