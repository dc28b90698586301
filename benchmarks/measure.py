"""How the benchmarks measure: both sides by turns, as a ratio; peaks of memory in processes of their own."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import psutil

REPEATS = 5
FINISHED = (0, 3)  # exit codes; 3: some files skipped


@dataclass(frozen=True)
class Row:
    """One line of the table: ours beside a peer or a limit."""

    name: str  # a word or two that never change: the key of the row, such as "nearest-1024"
    what: str  # what both sides do, in a sentence
    ours: str  # with its unit
    other: str
    ratios: tuple[float, ...]  # of each repeat; above 1: ours is faster, or takes less
    target: float | None = None  # of their median
    note: str = ""  # why a target is missed, or what the peer leaves out
    made: dict[str, str] = field(default_factory=lambda: {"machine": machine(), "date": date.today().isoformat()})

    @property
    def ratio(self) -> float:
        """The median over the repeats."""
        return statistics.median(self.ratios)

    def record(self) -> dict[str, Any]:
        """What docs/benchmarks.json keeps."""
        return {**asdict(self), "ratio": self.ratio}


@dataclass(frozen=True)
class Timed:
    """Both sides of a comparison."""

    ours: float  # median seconds
    other: float
    ratios: tuple[float, ...]  # other / ours, of each repeat


class Watched(NamedTuple):
    """What a command took."""

    seconds: float  # wall
    peak: float  # MB in memory at once
    own: float  # the same without pages of mapped files, which the system takes back when it wants


def seconds(function: Callable[[], object], *, least: float = 0.0) -> float:
    """Wall seconds of one call: of several that take `least` seconds together, the mean."""
    gc.collect()
    start, calls = time.perf_counter(), 0
    while True:
        function()
        calls, took = calls + 1, time.perf_counter() - start
        if took >= least:
            return took / calls


def alternate(
    ours: Callable[[], object],
    other: Callable[[], object],
    *,
    repeats: int = REPEATS,
    warm: bool = True,
    least: float = 0.0,
) -> Timed:
    """Call both sides by turns, so that a slow moment of the machine hits both; once each before it counts (`warm`).

    A turn takes `least` seconds, in as many calls as that needs: what takes milliseconds would else be measured with
    threads that have to wake up and caches that the other side has filled.
    """
    if warm:
        ours(), other()
    pairs = [(seconds(ours, least=least), seconds(other, least=least)) for _ in range(repeats)]
    return Timed(
        ours=statistics.median(a for a, _ in pairs),
        other=statistics.median(b for _, b in pairs),
        ratios=tuple(b / a for a, b in pairs),
    )


def watched(command: Sequence[object], *, env: dict[str, str] | None = None) -> Watched:
    """Run a command to its end, and look at the memory of it and its children ten times a second."""
    start, peak, own = time.perf_counter(), 0, 0
    process = subprocess.Popen(list(map(str, command)), env={**os.environ, **(env or {})})
    while process.poll() is None:
        resident, shared = tree_bytes(process.pid)
        peak, own = max(peak, resident), max(own, resident - shared)
        time.sleep(0.1)
    if process.returncode not in FINISHED:
        sys.exit(f"{' '.join(map(str, command))} ended with exit code {process.returncode}")
    return Watched(time.perf_counter() - start, peak / 1e6, own / 1e6)


def quietly(command: Sequence[str]) -> None:
    """Run a command that must succeed, without its output."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def toolkit(*words: object) -> list[str]:
    """The command line of `toolkit` with these words, in this Python."""
    return [sys.executable, "-m", "toolkit.cli", *map(str, words)]


def run_toolkit(*words: object) -> None:
    """Run a `toolkit` command to its end, its lines where ours are; the benchmark ends where it fails."""
    print("toolkit", *words, flush=True)
    ended = subprocess.run(toolkit(*words), check=False)
    if ended.returncode not in FINISHED:
        sys.exit(f"toolkit {words[0]} ended with exit code {ended.returncode}")


def trained(run: Path, card: str, data: Path, labels: Path | None, sets: Sequence[str]) -> Path:
    """The run, trained first where it is not, with these overrides of its card."""
    if not (run / "stage1" / "model.json").is_file():
        table = ["--labels", labels] if labels else []
        run_toolkit("train", card, "--data", data, *table, "--out", run, "--overwrite", *set_each(sets))
    return run


def set_each(sets: Sequence[str]) -> list[str]:
    """`--set` before each."""
    return [word for each in sets for word in ("--set", each)]


def tree_bytes(pid: int) -> tuple[int, int]:
    """Bytes of a process and its children: all that are resident, and those of them that are pages of files."""
    try:
        process = psutil.Process(pid)
        each = [p.memory_info() for p in [process, *process.children(recursive=True)]]
        return sum(memory.rss for memory in each), sum(memory.shared for memory in each)
    except psutil.Error:
        return 0, 0


def forget_peak() -> None:
    """Start the peak of `own_peak` anew; on Linux."""
    Path("/proc/self/clear_refs").write_text("5")


def own_peak() -> float:
    """Peak resident memory of this process in MB, mapped file pages included; on Linux.

    Not ru_maxrss, which a child inherits from its parent.
    """
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def child_peak(script: str, *words: object) -> float:
    """MB that `script`, run with these words and a folder, writes to the file `peak` in that folder."""
    with tempfile.TemporaryDirectory() as folder:
        watched([sys.executable, script, *words, folder])
        return float((Path(folder) / "peak").read_text())


def put_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two markers of a page, whose other words are written by hand."""
    whole = page.read_text(encoding="utf-8")
    before, after = whole.split(begin)[0], whole.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def versions(*packages: str) -> str:
    """Packages with their versions, for a line below a table."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def machine() -> str:
    """Processor, cores and Python."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"
