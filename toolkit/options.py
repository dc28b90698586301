"""What all commands share: flags, and how errors, interruptions and skipped files become exit codes."""

from __future__ import annotations

import errno
import functools
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.processes import this_process
from toolkit_datasets.progress import Progress, Silent, Terminal

if TYPE_CHECKING:
    from toolkit_datasets.card import Card
    from toolkit_datasets.prepare import Prepared

    from .runs import Data

SKIPPED = 3  # exit code: finished, some files were skipped
INTERRUPTED = 130  # as shells count it: 128 + SIGINT
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}

TOGETHER = ("train", "encode")  # commands that several processes may run together

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """A group in which every error that a user can mend is one clear line and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used, not by letter."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; with --debug errors keep their traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if this_process().rank == 0:
                click.echo(f"\ninterrupted; what is done is kept: {self._again(ctx)} goes on", err=True)
            ctx.exit(INTERRUPTED)
        except (ToolkitError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(explained(error, again=self._again(ctx))) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; among several processes only one that is made for it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name not in TOGETHER and this_process().count > 1:
            raise ToolkitError(
                f"toolkit {name} works in one process: start it without torchrun, which is for {' and '.join(TOGETHER)}"
            )
        return name, command, rest

    def _again(self, ctx: click.Context) -> str:
        """How to go on after a stop, for the command that was running."""
        command = self.commands.get(ctx.invoked_subcommand or "")
        names = {option for parameter in command.params for option in parameter.opts} if command else set()
        return "the same command with --resume" if "--resume" in names else "the same command again"


def explained(error: ToolkitError | OSError, *, again: str) -> str:
    """The error in a user's words; `again` says how to go on."""
    if isinstance(error, ToolkitError):
        return str(error)
    if error.errno in NO_ROOM:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"no room left on the disk{where} ({error.strerror}). Nothing finished is lost: free some space or choose "
            f"another --out (decoded images go to the folder that TOOLKIT_CACHE names); then {again} goes on."
        )
    if error.errno in NO_ACCESS:
        return f"no permission for {error.filename}: {error.strerror}. Change it, or choose another folder with --out."
    return f"{error.filename or 'the system'}: {error.strerror or error}. Check the path."


class Console:
    """Where a command talks: progress and remarks on stderr, data on stdout."""

    def __init__(self, *, verbosity: int, as_json: bool) -> None:
        self.as_json = as_json
        silent = verbosity < 0 or this_process().rank > 0  # one of several processes shows how far they are
        self.progress: Progress = Silent() if silent else Terminal(bars=True if verbosity > 0 else None)
        self.quiet = verbosity < 0

    def show(self, text: str) -> None:
        """Show the result for people, unless JSON was asked for."""
        if not self.as_json and not self.quiet:
            click.echo(text)

    def data(self, data: Any) -> None:
        """Print the data, if JSON was asked for."""
        if self.as_json:
            click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def common(function: F) -> F:
    """Flags of every command: --json, -v, -q; the command gets a `console`."""

    @click.option("--json", "as_json", is_flag=True, help="Print data as JSON on stdout; all else goes to stderr.")
    @click.option("-v", "--verbose", is_flag=True, help="Show progress bars even where nobody seems to watch.")
    @click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")
    @functools.wraps(function)
    def wrapper(*, as_json: bool, verbose: bool, quiet: bool, **arguments: Any) -> Any:
        return function(console=Console(verbosity=verbose - 2 * quiet, as_json=as_json), **arguments)

    return wrapper  # type: ignore[return-value]


def stacked(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator out of several, the first one outermost."""
    return lambda function: functools.reduce(lambda inner, decorate: decorate(inner), reversed(decorators), function)


path_option = functools.partial(click.option, type=click.Path(path_type=Path))

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a card key, e.g. train.epochs=5. Repeatable.",
)
seed_option = click.option("--seed", type=click.IntRange(min=0), help="Seed of splits, training and draws. [card: 0]")
objective_option = click.option(
    "--objective",
    type=click.Choice(["reconstruct", "agree", "vae"]),
    help="Plain VQ-VAE; codes on which two views of an image agree beside it; or a VAE. [card]",
)
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]|mps", help="Where to compute."
)
workers_option = click.option("--workers", type=click.IntRange(min=1), help="Decoding threads. [default: one per core]")
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Use N images or volumes only; split counts shrink too."
)
fail_fast_option = click.option("--fail-fast", is_flag=True, help="Stop at the first unreadable file, not skip it.")
data_option = path_option("--data", metavar="DIR", help="Folder of the images.")
labels_option = path_option("--labels", metavar="TABLE", help="CSV, TSV, XLS or XLSX: a row for each file or subject.")
leakage_option = click.option(
    "--allow-leakage", is_flag=True, help="Permit split.by=sample: one subject on both sides. Every result will say so."
)
out_option = path_option("--out", metavar="PATH", help="Where to write.")
resume_option = click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote there.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")


asks_about = stacked(
    click.option("--split", type=click.Choice(["test", "labelled", "unlabelled"]), help="Of the run. [default: test]"),
    path_option("--data", metavar="DIR", help="Take the images or volumes of this folder instead."),
)


@dataclass(frozen=True)
class Input:
    """Which images a command takes, and how it opens them."""

    data: Path | None
    labels: Path | None
    limit: int | None
    workers: int | None
    fail_fast: bool

    def open(self, card: Card, console: Console, *, split: bool = True) -> Prepared:
        """Scan, decode and split."""
        from .pipeline import open_data

        return open_data(
            card, self.where, split=split, fail_fast=self.fail_fast, workers=self.workers, progress=console.progress
        )

    @property
    def where(self) -> Data:
        """Where the images are, for the record of the run."""
        from .runs import Data

        return Data(self.data, self.labels, self.limit)


def takes_images(function: F) -> F:
    """Flags of every command that opens the images of a card: the command gets the `card` and an `images` input."""

    @stacked(
        data_option,
        labels_option,
        limit_option,
        workers_option,
        fail_fast_option,
        leakage_option,
        set_option,
        seed_option,
    )
    @functools.wraps(function)
    def wrapper(
        *,
        card: str | None,
        data: Path | None,
        labels: Path | None,
        limit: int | None,
        workers: int | None,
        fail_fast: bool,
        allow_leakage: bool,
        overrides: tuple[str, ...],
        seed: int | None,
        objective: str | None = None,
        **arguments: Any,
    ) -> Any:
        from toolkit_datasets.card import load_card

        if objective:
            overrides = (*overrides, f"train.objective={objective}")
        if allow_leakage:
            overrides = (*overrides, "split.allow_leakage=true")
        loaded = load_card(card, overrides, seed=seed) if card else None
        return function(card=loaded, images=Input(data, labels, limit, workers, fail_fast), **arguments)

    return wrapper  # type: ignore[return-value]


def typed_command() -> str:
    """The command as the user typed it, for the record; `python -m toolkit.cli` counts as `toolkit`."""
    return shlex.join(["toolkit", *sys.argv[1:]])


def finish(skipped: int) -> None:
    """Exit code 3 where files were skipped; not among several processes, where torchrun would stop the others."""
    if skipped and this_process().count == 1:
        click.get_current_context().exit(SKIPPED)
