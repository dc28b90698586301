"""Skull stripping by a tool that the user has installed: everything but the brain becomes background."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from .errors import ToolkitError
from .images import Unreadable

TOOLS = {
    "mri_synthstrip": "comes with FreeSurfer (https://surfer.nmr.mgh.harvard.edu), or alone as `synthstrip-docker`",
    "hd-bet": "`pip install hd-bet` (https://github.com/MIC-DKFZ/HD-BET)",
}
TIMEOUT = 3600.0  # seconds for one volume; without a GPU these networks take minutes


def find_tool(wanted: str) -> str:
    """The path of the tool that `slices.strip` names; `auto` takes the first that is installed.

    Raises:
        ToolkitError: it is not on the PATH; says what to install.
    """
    names = list(TOOLS) if wanted == "auto" else [wanted]
    for name in names:
        if found := shutil.which(name):
            return found
    raise ToolkitError(
        f"slices.strip = {wanted!r} needs {' or '.join(names)} on the PATH, which is not there. Install "
        + "; or ".join(f"{name}: {TOOLS[name]}" for name in names)
        + ". Volumes that are stripped already, or that may keep their skull, take slices.strip=none."
    )


def stripped(tool: str, volume: Path, folder: Path) -> Path:
    """Strip `volume` with the tool at the path `tool`; returns the new file in `folder`.

    Raises:
        Unreadable: the tool failed, took too long or wrote nothing.
    """
    out = folder / "stripped.nii.gz"
    name = Path(tool).name
    try:
        done = subprocess.run(
            [tool, "-i", str(volume), "-o", str(out)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreadable(f"{name} did not end within {TIMEOUT / 60:.0f} minutes") from None
    except OSError as error:
        raise Unreadable(f"{name} cannot be run: {error.strerror or error}") from None
    if done.returncode or not out.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        why = said[-1] if said else "it said nothing"
        raise Unreadable(f"{name} failed with exit code {done.returncode}: {why}")
    return out


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for what a tool writes, deleted with all in it at the end of a `with` block."""
    return tempfile.TemporaryDirectory(prefix="vqvae-toolkit-strip-")
