"""How small and faint a lesion is found: made-up ones of known size, put into unseen people's scans.

    python benchmarks/lesions.py choose  --data ds002748/ --labels participants.tsv    # settings, on the pool's people
    python benchmarks/lesions.py measure --data ds002748/ --labels participants.tsv    # tables, on the test people

Each trains a VQ-VAE first where --out holds none. Lesions are ellipsoids of known size and contrast (see
toolkit_datasets/lesions.py), one in each copy of a scan, written as NIfTI files and read as any new scan is. What
stands beside the model's scores is in anomaly_methods.py. Tables go to --out as Markdown: what docs/anomaly.md quotes.
`choose` looks at other people than `measure`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from anomaly_methods import Key, Reader, Readings, methods_of  # benchmarks/anomaly_methods.py
from measure import machine, run_toolkit, trained  # benchmarks/measure.py

from stage1_vqvae.anomaly import Recipe
from stage1_vqvae.checkpoint import load_model
from toolkit.detection import detection, subject_score
from toolkit.healthy import healthy_rows
from toolkit.layouts import Layouts
from toolkit.masks import Masks
from toolkit.pipeline import open_data, run_data
from toolkit.runs import read_run
from toolkit_datasets.intensity import window_of
from toolkit_datasets.lesions import draw_lesion, put
from toolkit_datasets.nifti import read_volume
from toolkit_datasets.prepare import Prepared
from toolkit_datasets.progress import Terminal

RADII = (6.0, 10.0, 15.0)  # mm
CONTRASTS = (-0.3, 0.3, 0.6)  # of black to white
CHOOSE = ((8.0, 0.6), (12.0, 0.3), (12.0, -0.3))  # radius and contrast
RECIPES = [Recipe(blur=blur, top=top) for blur in (0, 1 / 128, 1 / 64, 1 / 32) for top in (0.005, 0.02, 0.05, 0.2)]
HALF = "half-of-pool"
TRAIN = (  # few codes: a model that can copy whatever it sees finds nothing
    "image.size=64",
    "slices.spacing=3.4722222",
    "train.objective=reconstruct",
    "vqvae.stride=8",
)
SHOW = Terminal()


def with_lesions(prepared: Prepared, split: str, folder: Path, radius: float, contrast: float) -> tuple[Path, Path]:
    """Copies of the scans of a split with one lesion each, and the masks; places differ between people and sizes."""
    place = folder / f"{split}-r{radius:g}-c{contrast:+g}"
    scans, masks = place / "scans", place / "masks"
    if (place / "done").exists():
        return scans, masks
    scans.mkdir(parents=True, exist_ok=True)
    masks.mkdir(exist_ok=True)
    samples = prepared.samples.iloc[prepared.rows(split)]
    for number, (path, part) in enumerate(samples.groupby("path", sort=True)):
        file = Path(prepared.origin) / str(path)
        volume = read_volume(file)
        window = window_of(volume.data, prepared.card.slices.clip)
        inside = volume.data > window.threshold
        heights = (np.arange(inside.shape[2]) + 0.5) * volume.header.spacing[2]
        positions = part["position"].astype(float)
        inside[:, :, (heights < positions.min()) | (heights > positions.max())] = False
        rng = np.random.default_rng([number, int(10 * radius)])
        lesion = draw_lesion(rng, inside, volume.header.spacing, radius=radius, contrast=contrast)
        black_to_white = window.high - window.low
        data, mask = put(volume.data, volume.header.spacing, lesion, black_to_white=black_to_white)
        like = nib.load(file)
        back = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], nib.io_orientation(like.affine))
        for folder_, array in ((scans, data.round().astype(np.int16)), (masks, mask.astype(np.uint8))):
            stored = nib.apply_orientation(array, back)
            nib.save(nib.Nifti1Image(stored, like.affine), folder_ / Path(str(path)).name)
    (place / "done").touch()
    return scans, masks


def opened(run: Path, folder: Path) -> Prepared:
    """New scans with the preprocessing of the run."""
    card, where, _ = run_data(run, folder, None)
    return open_data(card, where, split=False, progress=SHOW)


@dataclass(frozen=True)
class Bench:
    run: Path
    own: Prepared
    reader: Reader
    healthy: dict[Key, np.ndarray]  # scores of held-out healthy slices

    def originals(self, split: str) -> Readings:
        """The scans of a split as they are."""
        chosen = self.own.samples["split"].where(self.own.samples["split"] != split, "new")
        chosen = chosen.where(chosen == "new", "")
        return self.reader.read(replace(self.own, samples=self.own.samples.assign(split=chosen)))

    def combined(self, found: Readings, recipe: Recipe) -> np.ndarray:
        """As `toolkit anomaly` does."""
        keys = [("error", recipe, True), ("surprise", recipe, False)]
        parts = [(found.scores[key] - self.healthy[key].mean()) / self.healthy[key].std() for key in keys]
        return np.asarray(np.mean(parts, axis=0))


def bench(arguments: argparse.Namespace, recipes: list[Recipe], *, judged: str) -> Bench:
    """A trained run, and methods that know what is usual from people who are not judged."""
    run = trained(arguments.out / "ds002748", "ds002748", arguments.data, arguments.labels, TRAIN)
    own = open_data(*read_run(run), progress=SHOW)
    if judged == HALF:  # every second person of the pool; the others tell what is usual
        pool = own.samples["group"][own.samples["split"] == "labelled"].unique()[::2]
        own = replace(
            own, samples=own.samples.assign(split=own.samples["split"].mask(own.samples["group"].isin(pool), HALF))
        )
    learned, held_out = healthy_rows(own, judged=judged, label="")
    reader = Reader(methods_of(load_model(run / "stage1", "cpu"), own, learned), own, held_out, recipes)
    part = replace(
        own,
        samples=own.samples.assign(split=["new" if row in set(held_out) else "" for row in range(len(own.samples))]),
    )
    return Bench(run, own, reader, reader.read(part).scores)


def choose(arguments: argparse.Namespace) -> str:
    """Mean AUROC of slices over four kinds of lesions in half of the pool's people, by setting."""
    made = bench(arguments, RECIPES, judged=HALF)
    originals = made.originals(HALF)
    areas: dict[str, dict[Recipe, list[float]]] = {}
    for radius, contrast in CHOOSE:
        scans, masks = with_lesions(made.own, HALF, arguments.out / "volumes", radius, contrast)
        prepared = opened(made.run, scans)
        found = made.reader.read(prepared, Masks(masks, prepared, prepared.rows("new"), Layouts(prepared)))
        for recipe in RECIPES:
            keys = {
                "error, less what is usual": ("error", recipe, True),
                "error": ("error", recipe, False),
                "surprise": ("surprise", recipe, False),
                "surprise, less what is usual": ("surprise", recipe, True),
                "PCA": ("PCA", recipe, True),
            }
            pairs = {name: (found.scores[key], originals.scores[key]) for name, key in keys.items()}
            pairs["combined"] = made.combined(found, recipe), made.combined(originals, recipe)
            for name, pair in pairs.items():
                areas.setdefault(name, {}).setdefault(recipe, []).append(against(*pair, found)["auroc"]["value"])
    lines = ["| blur, share of the side | top pixels | " + " | ".join(areas) + " |", "|---|---|" + "---|" * len(areas)]
    for recipe in RECIPES:
        cells = " | ".join(f"{np.mean(areas[name][recipe]):.3f}" for name in areas)
        lines.append(f"| {recipe.blur:.4g} | {100 * recipe.top:.3g} % | {cells} |")
    return "\n".join(lines)


def measure(arguments: argparse.Namespace) -> str:
    """AUROC of slices and people, and average precision of pixels, by size and contrast, on the test people."""
    recipe = Recipe()
    made = bench(arguments, [recipe], judged="test")
    originals = made.originals("test")
    tables: dict[str, list[str]] = {"slices": [], "people": [], "pixels": []}
    record: list[dict[str, Any]] = []
    for radius in RADII:
        for contrast in CONTRASTS:
            scans, masks = with_lesions(made.own, "test", arguments.out / "volumes", radius, contrast)
            prepared = opened(made.run, scans)
            found = made.reader.read(
                prepared, Masks(masks, prepared, prepared.rows("new"), Layouts(prepared)), (recipe,)
            )
            grey = "bright" if contrast > 0 else "dark"
            columns: dict[str, Key | None] = {
                "model: error": ("error", recipe, True),
                "surprise": ("surprise", recipe, False),
                "combined": None,
                "plain error": ("error", recipe, False),
                "PCA": ("PCA", recipe, True),
                "mean image": ("mean image", recipe, True),
                "blur": ("blur", recipe, True),
                "grey value": (grey, recipe, False),
            }
            of: dict[str, dict[str, Any]] = {"slices": {}, "people": {}, "pixels": {}}
            for name, key in columns.items():
                score, plain = (each.scores[key] if key else made.combined(each, recipe) for each in (found, originals))
                of["slices"][name] = against(score, plain, found)
                ill, well = (by_person(each, part.subjects) for each, part in ((score, found), (plain, originals)))
                truth, people = np.repeat([True, False], [len(ill), len(well)]), [*ill, *well]
                values = np.array([*ill.values(), *well.values()])
                of["people"][name] = detection(values, truth, np.array(people), seed=0)
                if key:
                    of["pixels"][name] = found.pixels[key].measures(seed=0)
            record.append({"radius": radius, "contrast": contrast, **of})
            for level, measure in (("slices", "auroc"), ("people", "auroc"), ("pixels", "average_precision")):
                first, *others = of[level].values()
                low, high = first[measure]["ci95"]
                share = (
                    f"{first['positive']:,} of {first['n']:,}"
                    if level != "pixels"
                    else f"{100 * first['positive'] / first['n']:.2f} %"
                )
                cells = [f"{radius:g} mm", f"{contrast:+.2f}".replace("-", "−"), share,
                         f"{first[measure]['value']:.2f} ({low:.2f}–{high:.2f})",
                         *(f"{each[measure]['value']:.2f}" for each in others)]  # fmt: skip
                if not tables[level]:
                    head = ["radius", "contrast", "lesion", *of[level]]
                    tables[level] = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
                tables[level].append(f"| {' | '.join(cells)} |")
    (arguments.out / "lesions.json").write_text(json.dumps(record, indent=1))
    scans, masks = with_lesions(made.own, "test", arguments.out / "volumes", 10.0, 0.6)
    run_toolkit("anomaly", made.run, "--data", scans, "--masks", masks, "--out", arguments.out / "shown", "--overwrite")
    titles = {"slices": "AUROC of slices", "people": "AUROC of people", "pixels": "Average precision of pixels"}
    return "\n\n".join(f"{titles[level]}:\n\n" + "\n".join(lines) for level, lines in tables.items())


def against(ill: np.ndarray, well: np.ndarray, found: Readings) -> dict[str, Any]:
    """How well slices with lesion are told from the same slices of the same people without it.

    Other slices of the lesion's own volume would not do: errors depend on the height, and so do places of lesions.
    """
    score, truth = np.concatenate([ill[found.truth], well[found.truth]]), np.repeat([True, False], found.truth.sum())
    return detection(score, truth, np.tile(found.subjects[found.truth], 2), seed=0)


def by_person(score: np.ndarray, subjects: np.ndarray) -> dict[str, float]:
    return {str(name): subject_score(score[subjects == name]) for name in np.unique(subjects)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"choose": choose, "measure": measure}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--data", type=Path, required=True, help="folder of the scans")
    parser.add_argument("--labels", type=Path, required=True, help="table of people; without labels there is no pool")
    parser.add_argument("--out", type=Path, default=Path("runs/lesions"), help="where the run, volumes and tables go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    text = parts[arguments.part](arguments)
    text += f"\n\nMeasured on {machine()}, {date.today()}, in {time.perf_counter() - start:.0f} s.\n"
    (arguments.out / f"{arguments.part}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
