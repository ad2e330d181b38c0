"""``convsmith doctor``: what is wrong on this machine, and what it is."""

from __future__ import annotations

from typing import Annotated

import typer

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    FormatOption,
    JsonOption,
    OutputOption,
    QuietOption,
    target,
)

__all__ = ["doctor"]


def doctor(
    clear: Annotated[
        bool,
        typer.Option("--clear", help="First remove compiled code and measured choices from disk."),
    ] = False,
    json: JsonOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Check this machine: processor, threads, caches, packages.

    Problems come first, each with its remedy; the exit code is 1 if there
    is one. Dispatch costs and the peak are measured.
    """
    where = target(json=json, form=form, file=output, quiet=quiet, force=force)

    from convsmith import diagnosis

    if clear:
        for name, count in diagnosis.clear().items():
            where.note(f"removed {count} of the store of {name}")
    found = diagnosis.diagnose()
    where.deliver(found)
    if not found.healthy:
        raise typer.Exit(1)
