"""What tells two groups of images apart without any model: brightness, contrast and sharpness.

Ill and healthy images that come from different scanners differ in all of these, and a detector then finds the scanner.
So every AUROC stands beside theirs, and one of theirs that is far from 0.5 is said aloud.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

NAMES = ("brightness", "contrast", "sharpness")
SUSPICIOUS = 0.15  # distance of an AUROC from 0.5, either way


def trivial(images: np.ndarray, inside: np.ndarray) -> dict[str, np.ndarray]:
    """Three numbers of each image (n, H, W, C) uint8, over the pixels `inside` (n, H, W) bool.

    Returns:
        brightness: mean grey, 0 to 1; contrast: its standard deviation; sharpness: mean absolute difference of
        neighbouring pixels over the contrast. (n,) float64 each; 0 where nothing is inside.
    """
    grey = images.mean(axis=-1, dtype=np.float32) / 255
    count = np.maximum(inside.sum(axis=(1, 2)), 1)
    mean = (grey * inside).sum(axis=(1, 2), dtype=float) / count
    contrast = np.sqrt((((grey - mean[:, None, None]) ** 2) * inside).sum(axis=(1, 2), dtype=float) / count)
    steps, pairs = np.zeros(len(grey)), np.zeros(len(grey))
    for axis in (1, 2):
        both = np.delete(inside, 0, axis) & np.delete(inside, -1, axis)
        steps += (np.abs(np.diff(grey, axis=axis)) * both).sum(axis=(1, 2), dtype=float)
        pairs += both.sum(axis=(1, 2))
    sharpness = steps / np.maximum(pairs, 1) / np.maximum(contrast, 1e-6)
    return {"brightness": mean, "contrast": contrast, "sharpness": sharpness}


def suspicion(confounds: Mapping[str, Mapping[str, Any]]) -> str:
    """A warning where one of the three separates the groups by itself, else "".

    Args:
        confounds: name -> what `detection` gave for it.
    """
    found = {name: each["auroc"]["value"] for name, each in confounds.items() if each.get("auroc")}
    name = max(found, key=lambda name: abs(found[name] - 0.5), default=None)
    if name is None or abs(found[name] - 0.5) < SUSPICIOUS:
        return ""
    value = found[name]
    which = ("more", value) if value > 0.5 else ("less", 1 - value)
    return (
        f"{name} alone, without any model, tells ill from healthy with an AUROC of {which[1]:.2f} "
        f"({which[0]} of it in the ill ones): the two may differ in their source, and not in lesions only"
    )
