"""Where the model runs, and in which precision it may train there."""

from __future__ import annotations

from typing import Literal

import torch

from toolkit_datasets.errors import ToolkitError


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`: `auto` (CUDA, else MPS, else CPU), `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        ToolkitError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ToolkitError(f"unknown device {name!r}: choose auto, cpu, cuda, cuda:<number> or mps") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise ToolkitError(f"this machine has no usable device {name!r}: choose auto or cpu")
    return device


def training_dtype(device: torch.device, precision: Literal["auto", "float32", "bfloat16"] = "auto") -> torch.dtype:
    """What convolutions compute in while training: bfloat16 only where the device has instructions for it.

    A CPU without them would emulate bfloat16 and be several times slower than in float32, which `auto` avoids.
    """
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float32


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False
