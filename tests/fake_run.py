"""A run folder with made-up numbers in every file that the report reads, for the tests of the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tiny_store import sample_table

from toolkit_datasets.codes import CodeWriter, Level, StoreInfo, manifest_of

SIZE, GRID, K, D = 16, 4, 32, 6


@dataclass(frozen=True)
class FakePrepared:
    """What `write_report` uses of a prepared dataset."""

    samples: pd.DataFrame
    images: np.ndarray


def interval(mean: float, half: float = 0.012) -> dict[str, Any]:
    return {"mean": mean, "sd": half, "ci95": [mean - half, mean + half]}


def baseline(title: str, mean: float, codes: float) -> dict[str, Any]:
    difference = codes - mean
    return {
        "title": title,
        "accuracy": interval(mean),
        "difference": {"mean": difference, "ci95": [difference - 0.01, difference + 0.01]},
    }


def fake_results(labels: list[str], n_test: int, *, codes: float = 0.531) -> dict[str, Any]:
    k = len(labels)
    sizes = [10, 20, 50, 100, 200]
    matrix = np.full((k, k), n_test * (1 - codes) / max(1, k * (k - 1)))
    np.fill_diagonal(matrix, n_test * codes / k)
    curves = {"codes": codes, "pixels": 0.543, "hog": 0.633, "random": 0.53}
    return {
        "probe": {
            "features": "pyramid",
            "grid": 2,
            "classifier": "logistic",
            "n_labelled": 100,
            "n_pool": 5000,
            "n_test": n_test,
            "draws": 20,
            "classes": labels,
            "accuracy": interval(codes),
            "balanced_accuracy": {"mean": codes, "sd": 0.01},
            "auroc": {"mean": codes + 0.01, "sd": 0.01},
            "f1": {"mean": codes - 0.005, "sd": 0.01},
            "confusion": matrix.tolist(),
            "per_draw": [{"draw": 0, "accuracy": codes, "chosen": {"C": 0.1}}],
            "grouped": False,
            "saved_classifier": {"draw": 0, "accuracy": codes - 0.002},
            "unsupervised_transform": False,
            "seconds": 31.0,
        },
        "baselines": {
            "majority": baseline("majority class", 1 / k, codes),
            "pixels": baseline("raw pixels + PCA", 0.543, codes),
            "hog": baseline("HOG", 0.633, codes),
            "random": baseline("random encoder", 0.53, codes),
        },
        "curve": {
            "labels": sizes,
            "draws": [20, 20, 20, 20, 5],
            "accuracy": {
                name: [interval(0.5 + (end - 0.5) * np.log10(n) / 2, 0.02 / np.log10(n)) for n in sizes]
                for name, end in curves.items()
            },
        },
    }


def make_run(folder: Path, *, labels: list[str], images: np.ndarray, skipped: bool = True, probed: bool = True) -> Any:
    """A run folder with every file that the report reads. `images` is (N, H, W, C) uint8; classes take turns."""
    random = np.random.default_rng(0)
    n = len(images)
    turns = [labels[i % len(labels)] for i in range(n)]
    samples = sample_table(
        [f"train/{label[:30]}.{i}" for i, label in enumerate(turns)],
        label=turns,
        group=[f"g{i}" for i in range(n)],
        split=[("unlabelled", "labelled", "test", "test")[(i // len(labels)) % 4] for i in range(n)],
        number="",  # so that the files are named after the ids
    )
    if skipped:
        samples.loc[n - 1, ["status", "split"]] = ["cannot be decoded: image file is truncated (3 bytes not read)", ""]
    stage1 = folder / "stage1"
    (folder / "probe").mkdir(parents=True)
    stage1.mkdir()
    samples.to_csv(folder / "samples.csv", index=False)
    (folder / "card.toml").write_text('title = "Fake"\nseed = 3\n')
    epochs = np.arange(1, 21)
    pd.DataFrame(
        {
            "epoch": epochs,
            "loss": 0.02 + 0.2 * np.exp(-epochs / 4),
            "reconstruction": 0.015 + 0.18 * np.exp(-epochs / 4),
            "psnr": 21.5 - 6 * np.exp(-epochs / 4),
            "validation_psnr": 21.2 - 6 * np.exp(-epochs / 4),
        }
    ).to_csv(stage1 / "history.csv", index=False)
    metrics: dict[str, Any] = {
        "splits": {
            "labelled": {"n": 5000, "psnr": 21.25, "ssim": 0.641, "normalised_mse": 0.121},
            "test": {"n": 15000, "psnr": 21.21, "ssim": 0.639, "normalised_mse": 0.1218},
        },
        "figures_on": "test",
        "psnr": 21.21,
        "ssim": 0.639,
        "normalised_mse": 0.1218,
        "bits_per_pixel": 0.1406,
        "codebook_usage": 0.969,
        "perplexity": 20.4,
        "train_seconds": 312.4,
        "images_per_second": 371.2,
        "epochs": 20,
        "steps": 1480,
        "parameters": 1234567,
        "device": "cpu",
        "precision": "bfloat16",
        "threads": 2,
    }
    counts = np.r_[np.sort(random.geometric(0.01, K - 1)), 0].tolist()
    (stage1 / "metrics.json").write_text(json.dumps(metrics | {"code_counts": {"codes": [counts]}}))
    blurred = (images[:8].astype(int) // 48 * 48 + 20).clip(0, 255).astype(np.uint8)
    np.savez(
        stage1 / "examples.npz",
        originals=images[:8],
        reconstructions=blurred,
        id=np.array(samples["id"][:8].tolist()),
        split=np.array(["test"] * 8),
        psnr=random.normal(21, 1, 8),
        ssim=random.normal(0.64, 0.03, 8),
    )
    rows = np.flatnonzero(samples["status"] == "ok")
    info = StoreInfo(
        content="vectors",
        levels=(Level("codes", 1, K, D, GRID, GRID),),
        model_hash="0" * 64,
        card={},
        bits_per_pixel=0.14,
    )
    codebook = random.normal(size=(1, K, D)).astype(np.float32)
    manifest = manifest_of(samples, rows)
    indices = random.integers(0, K, (len(rows), 1, GRID, GRID))
    for i, label in enumerate(manifest["label"]):
        indices[i, :, : 1 + labels.index(label) % GRID] = labels.index(label) % K
    with CodeWriter(folder / "codes", format="npy", info=info, manifest=manifest, codebooks={"codes": codebook}) as out:
        out.write({"codes": indices})
    results: dict[str, Any] = {
        "card": "fake",
        "title": "A fake set",
        "seed": 3,
        "versions": {"python": "3.11.4", "torch": "2.9.0"},
        "command": "toolkit run fake --data DIR",
        "created": "2025-01-01T12:00:00Z",
        "samples": {
            "total": n,
            "ok": len(rows),
            "skipped": n - len(rows),
            "splits": {
                split: dict.fromkeys(labels, 5) for split in ("unlabelled", "labelled", "test")
            },
        },
        "stage1": metrics,
    }  # fmt: skip
    if probed:
        test = manifest[manifest["split"] == "test"]
        share = random.dirichlet(np.ones(len(labels)), len(test))
        predicted = [labels[i] for i in share.argmax(1)]
        predictions = test[["file", "id", "label"]].assign(predicted=predicted)
        for i, label in enumerate(labels):
            predictions[f"p_{label}"] = share[:, i]
        predictions.to_csv(folder / "probe" / "predictions.csv", index=False)
        results |= fake_results(labels, len(test))
    else:
        results["probe_skipped"] = "no image has a label"
    (folder / "results.json").write_text(json.dumps(results))
    return FakePrepared(samples, images)


def noise(n: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, SIZE, SIZE, channels), dtype=np.uint8)
