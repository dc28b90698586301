"""Cats vs dogs by a plain VQ-VAE at full size, all in one and step by step: time, peak memory, and a comparison.

    python benchmarks/workflow.py --data train/ --out /tmp/workflow

Runs `toolkit run`, then `train`, `encode` (npy and HDF5) and `probe` as processes of their own, and writes
workflow.md and workflow.json into --out: what the README and docs/workflows/cats-vs-dogs.md quote. About a quarter of
an hour on two cores; keep the machine free meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

from measure import machine, toolkit, watched  # benchmarks/measure.py

PLAIN = ("--overwrite", "--objective", "reconstruct")


def measured(*words: object, cache: Path) -> dict[str, Any]:
    """Run one `toolkit` command; wall seconds and the peak memory of its process tree in MB."""
    took = watched(toolkit(*words), env={"TOOLKIT_CACHE": str(cache)})
    return {"command": f"toolkit {words[0]}", "seconds": took.seconds, "peak_mb": took.peak}


def numbers(path: Path) -> dict[str, Any]:
    """The probe's part of a results file, without the seconds it took."""
    data = json.loads(path.read_text())
    data["probe"].pop("seconds")
    return {key: data[key] for key in ("probe", "baselines", "curve")}


def same_files(first: Path, second: Path) -> bool:
    """Whether two code folders hold the same bytes under the same names."""
    a, b = ({path.relative_to(folder): path for path in folder.rglob("*.npy")} for folder in (first, second))
    return bool(a) and a.keys() == b.keys() and all(a[name].read_bytes() == b[name].read_bytes() for name in a)


def table(results: dict[str, Any]) -> list[str]:
    """Accuracy at every size of the label curve, and the paired differences."""
    curve, probe = results["curve"], results["probe"]
    names = ["codes", *(name for name in results["baselines"] if name != "majority")]
    lines = ["| labels | draws | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for i, size in enumerate(curve["labels"]):
        cells = []
        for name in names:
            point = curve["accuracy"][name][i]
            low, high = (100 * bound for bound in point["ci95"])
            cells.append(f"{100 * point['mean']:.1f} ({low:.1f}–{high:.1f})")
        lines.append(f"| {size} | {curve['draws'][i]} | " + " | ".join(cells) + " |")
    lines += ["", f"Codes minus each baseline at {probe['n_labelled']} labels, points, 95 % interval, paired:", ""]
    for name, baseline in results["baselines"].items():
        low, high = (100 * bound for bound in baseline["difference"]["ci95"])
        lines.append(f"- {name}: {100 * baseline['difference']['mean']:+.1f} ({low:+.1f} to {high:+.1f})")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out, data = arguments.out, arguments.data
    whole, steps = out / "run", out / "steps"
    shutil.rmtree(out / "npy", ignore_errors=True)  # a finished store of the same codes would be left as it is
    (out / "codes.h5").unlink(missing_ok=True)
    rows = [
        measured("run", "cats-vs-dogs", "--data", data, "--out", whole, *PLAIN, cache=out / "cache"),
        measured("train", "cats-vs-dogs", "--data", data, "--out", steps, *PLAIN, cache=out / "cache"),
        measured("encode", steps, "--out", out / "npy", "--overwrite", cache=out / "cache"),
        measured("encode", steps, "--out", out / "codes.h5", "--overwrite", cache=out / "cache"),
        measured("probe", out / "npy", "--data", data, "--out", out / "npy-probe", cache=out / "cache"),
        measured("probe", out / "codes.h5", "--data", data, "--out", out / "h5-probe", cache=out / "cache"),
    ]
    results = json.loads((whole / "results.json").read_text())
    reference = numbers(whole / "results.json")
    weights = [(folder / "stage1" / "model.safetensors").read_bytes() for folder in (whole, steps)]
    equal = {
        "weights of two trainings with the same seed": weights[0] == weights[1],
        "25,000 code files of both": same_files(whole / "codes", out / "npy"),
        "all numbers of the probe, run against separate steps (npy)": numbers(out / "npy-probe" / "results.json")
        == reference,
        "all numbers of the probe, npy against HDF5": numbers(out / "h5-probe" / "results.json") == reference,
    }
    stage1 = results["stage1"]
    page = [
        f"Measured {date.today().isoformat()}: {machine()}; `python benchmarks/workflow.py`.",
        "",
        "| command | seconds | peak memory, MB |",
        "|---|---|---|",
        *(f"| `{row['command']}` | {row['seconds']:.0f} | {row['peak_mb']:.0f} |" for row in rows),
        "",
        "| split | pictures | PSNR, dB | SSIM | normalised MSE |",
        "|---|---|---|---|---|",
        *(
            f"| {split} | {s['n']:,} | {s['psnr']:.2f} | {s['ssim']:.3f} | {s['normalised_mse']:.4f} |"
            for split, s in stage1["splits"].items()
        ),
        "",
        f"{stage1['bits_per_pixel']:.4f} bits per pixel; "
        + "; ".join(
            f"level {name}: {100 * level['usage']:.0f} % of the codes in use, perplexity {level['perplexity']:.0f}"
            for name, level in stage1["levels"].items()
        )
        + f"; training {stage1['train_seconds']:.0f} s ("
        + ", ".join(f"{phase['name']} {phase['images_per_second']:.0f} images/s" for phase in stage1["phases"])
        + f"; {stage1['precision']}, {stage1['threads']} threads).",
        "",
        f"Accuracy in percent on {results['probe']['n_test']:,} test pictures, with 95 % intervals "
        f"({results['probe']['features']}, {results['probe']['classifier']}):",
        "",
        *table(results),
        "",
        "| the same to the last bit | |",
        "|---|---|",
        *(f"| {what} | {'yes' if yes else '**no**'} |" for what, yes in equal.items()),
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
    ]
    (out / "workflow.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    (out / "workflow.json").write_text(json.dumps({"rows": rows, "equal": equal, "results": results}, indent=2))
    print("\n".join(page))


if __name__ == "__main__":
    main()
