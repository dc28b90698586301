"""Finished runs of `toolkit run` on a few hundred real digits, one for each objective, and their settings."""

from __future__ import annotations

from pathlib import Path

from commands import toolkit

COMMON = [
    "split.unlabelled=120",
    "split.labelled=200",
    "split.test=150",
    "probe.labels=40",
    "probe.draws=3",
]
SETS = {
    "reconstruct": [*COMMON, "train.epochs=2", "probe.curve=[20]"],
    "vae": [*COMMON, "train.epochs=8", "vae.stride=4", "vae.width=16", "vae.latent_dim=12", "probe.curve=[20]"],
    "agree": [
        *COMMON,
        "train.epochs=2",
        "agree.epochs=4",
        "coarse.width=32",
        "coarse.grid=2",
        "coarse.depth=8",
        "coarse.patterns=8",
        "probe.curve=[20, 40]",
    ],
}


def finished(out: Path, objective: str) -> Path:
    """`toolkit run digits --objective …` into `out`."""
    toolkit("run", "digits", "--out", out, "--objective", objective, sets=SETS[objective])
    return out
