"""What tests/test_distributed.py starts with torchrun: trainings of one world, into the folder named."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch
from tiny_training import Acting, digits

from stage1_vqvae.distributed import joined
from stage1_vqvae.train import train
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.prepare import Prepared

COARSE = {"stride": 4, "width": 8, "patterns": 3, "grid": 2, "codebook_size": 8, "depth": 3}
AGREE = {"epochs": 2, "batch_size": 30, "hidden": 16, "projection": 8}
EXACT = {"precision": "float32", "epochs": 2}
NOISY = {"noise": 0.1, "mask": 0.2}
RESIDUAL = {"restart": 0.5, "depth": 2}
TRAININGS = {  # name -> tables of the card
    "reconstruct": {"vqvae": RESIDUAL | {"gradient": "straight-through"}, "tables": {"corrupt": NOISY}},
    "rotated": {"vqvae": RESIDUAL, "tables": {"corrupt": NOISY}},
    "agree": {"objective": "agree", "tables": {"coarse": COARSE, "agree": AGREE}},
    "vae": {"objective": "vae", "tables": {"vae": {"stride": 4, "width": 8, "blocks": 1, "latent_dim": 4}}},
}
CUT = 7  # batches after which a training is interrupted, within its second epoch


def prepared(name: str) -> Prepared:
    """The tiny digits under the card of a training."""
    return digits(**EXACT, **TRAININGS[name])


def main(folder: Path) -> None:
    with joined("cpu") as world:
        torch.set_num_threads(1)
        for name in TRAININGS:
            train(prepared(name), folder / name, world=world)
        train(prepared("reconstruct"), folder / "one, then two", resume=True, world=world)
        other = Acting(CUT, lambda: signal.raise_signal(signal.SIGTERM)) if not world.first else None
        try:
            train(prepared("reconstruct"), folder / "two, then one", world=world, progress=other)
        except KeyboardInterrupt:
            (folder / f"stopped {world.rank}").touch()
        try:
            train(digits(seed=world.rank), folder / "apart", world=world)
        except ToolkitError as error:
            (folder / f"refused {world.rank}").write_text(str(error))
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").glob("*")]
    (folder / f"threads {world.rank}").write_text("".join(names))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
