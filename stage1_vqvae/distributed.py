"""Several processes train one model, started by torchrun: what they share, through torch.distributed.

`train.batch_size` stays that of the whole training: each process takes its share of every batch. Random numbers are
drawn for the whole batch, the same in all, and each takes those of its images; sums over a batch are sums over all. So
a training takes the same steps with any number of processes, but for the rounding of sums in another order.
A world of one process calls nothing and changes no bit.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.processes import Process, this_process

from .device import choose_device

if TYPE_CHECKING:
    from .phase import Outcome, Phase

PATIENCE = timedelta(days=1)  # while the first process decodes or assesses; torchrun itself notices one that died
AT_ONCE = 2**26  # bytes of an array that are summed together

Rows = TypeVar("Rows", Tensor, np.ndarray)


@dataclass(frozen=True)
class Share:
    """Which images of a batch are this process's: from `start` to before `stop` of `total`."""

    start: int
    stop: int
    total: int
    weight: float = 1.0  # of a mean over the share, so that the mean over all processes is that over the batch

    def __len__(self) -> int:
        return self.stop - self.start


def share_of(drawn: Rows, share: Share | None) -> Rows:
    """The part of something with a row for each image of the batch; all of it without a share."""
    return drawn if share is None else drawn[share.start : share.stop]


class World:
    """The processes of a training; `World()` is one alone."""

    def __init__(self, process: Process | None = None, device: torch.device | None = None) -> None:
        process = process or Process()
        self.rank, self.size, self.device = process.rank, process.count, device or torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, total: int) -> Share:
        """This process's share of a batch of `total` images.

        Raises:
            ToolkitError: there is not an image for each process.
        """
        if total < self.size:
            raise ToolkitError(
                f"a batch of {total} images cannot be shared by {self.size} processes: start fewer, or raise "
                "train.batch_size (it counts the images of all processes together)"
            )
        start, stop = (total * place // self.size for place in (self.rank, self.rank + 1))
        return Share(start, stop, total, weight=self.size * (stop - start) / total)

    def parallel(self, phase: Phase, learners: list[nn.Parameter]) -> Callable[..., Outcome]:
        """`phase.loss`, such that gradients of `learners` are means over all processes."""
        if self.size == 1:
            return phase.loss
        return nn.parallel.DistributedDataParallel(_Step(phase, learners))

    def sum(self, *tensors: Tensor) -> list[Tensor]:
        """Each of `tensors`, of one type, summed over all processes; one all-reduce for all of them."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([each.reshape(-1) for each in tensors])
        dist.all_reduce(flat)
        parts = torch.split(flat, [each.numel() for each in tensors])  # type: ignore[no-untyped-call]
        return [part.view(each.shape) for part, each in zip(parts, tensors, strict=True)]

    def means(self, values: Mapping[str, Tensor], share: Share) -> dict[str, float]:
        """Means over the batch of scalars that are means over the share."""
        if self.size == 1:
            return {name: float(value.detach()) for name, value in values.items()}
        stacked = torch.stack([value.detach().double() for value in values.values()]) * (share.weight / self.size)
        dist.all_reduce(stacked)
        return dict(zip(values, stacked.tolist(), strict=True))

    def gather(self, mine: Tensor, share: Share) -> Tensor:
        """The rows of the whole batch, through which gradients go back; `mine` are those of the share.

        Every process must then compute the same of them: each gets the gradient of its own rows only.
        """
        if self.size == 1:
            return mine
        whole: Tensor = _Gathered.apply(mine.float(), share)
        return whole

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return here
        flag = torch.tensor(int(here), device=self.device)
        dist.all_reduce(flag)
        return bool(flag)

    def check_same(self, value: object, *, what: str) -> None:
        """Refuse to go on where `value` is not the same in all processes.

        Raises:
            ToolkitError: in all of them, with `what` differs.
        """
        if self.size == 1:
            return
        number = int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:7])
        most = torch.tensor([number, -number], device=self.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        if int(most[0]) != -int(most[1]):
            raise ToolkitError(
                f"{what} differs between the processes: every machine must see the same images, and the same run "
                "folder at the same path (a shared disk)"
            )

    def broadcast(self, module: nn.Module) -> None:
        """Give all processes the weights and buffers of the first one."""
        if self.size == 1:
            return
        for value in module.state_dict().values():
            plain = value.detach().contiguous()
            dist.broadcast(plain, 0)
            value.copy_(plain)

    def complete(self, array: np.ndarray) -> None:
        """Fill in what other processes computed: each has zeros in its copy of `array` wherever another has values."""
        if self.size == 1:
            return
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, len(flat), AT_ONCE):
            part = torch.from_numpy(flat[start : start + AT_ONCE]).to(self.device)
            dist.all_reduce(part)
            flat[start : start + AT_ONCE] = part.cpu().numpy()

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let the first process through the block before the others, who find done what it did."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()


ALONE = World()


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The world that torchrun started this process in, on `device`, or the first free kind where it is `auto`.

    NCCL joins CUDA devices, one for each process of a machine; gloo joins CPUs.
    """
    process = this_process()
    if process.count == 1:
        yield ALONE
        return
    place = choose_device(local_device(device, process))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # DistributedDataParallel imports this, whose default arguments are the group that exists then. That group, with its
    # threads, would outlive `destroy_process_group`, and a thread that outlives Python may abort the process.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(process, place)
    finally:
        gc.collect()  # DistributedDataParallel lies in cycles, and has the group too
        dist.destroy_process_group()


def local_device(device: str, process: Process) -> str:
    """The name of the device of one process: its own GPU where several share a machine.

    >>> local_device("cuda", Process(rank=5, count=8, local_rank=1)), local_device("cuda", Process())
    ('cuda:1', 'cuda')
    """
    if process.count == 1 or device not in ("auto", "cuda"):
        return device
    if device == "cuda" or torch.cuda.is_available():
        return f"cuda:{process.local_rank}"
    return "cpu"


class _Step(nn.Module):
    """What DistributedDataParallel wraps: it looks after the parameters that learn, and calls the phase."""

    def __init__(self, phase: Phase, learners: list[nn.Parameter]) -> None:
        super().__init__()
        self.learners = nn.ParameterList(learners)
        self.loss = phase.loss  # a bound method, so the phase does not become a part of this module

    def forward(self, *arguments: Any, **options: Any) -> Outcome:
        return self.loss(*arguments, **options)


class _Gathered(torch.autograd.Function):
    """Rows of all processes. Backward: the gradient of the own rows, for DDP's mean over processes to divide again."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, share: Share) -> Tensor:
        ctx.share = share
        whole = mine.new_zeros(share.total, *mine.shape[1:])
        whole[share.start : share.stop] = mine
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # The loss is multiplied by the share's weight, size x len / total; what DDP needs here is size times the row's.
        return share_of(gradient, ctx.share) * (ctx.share.total / len(ctx.share)), None
