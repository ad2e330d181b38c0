"""``convsmith merge``: layers that one layer replaces exactly, as one, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convsmith.cli.opening import opened
from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    InputOption,
    JsonOption,
    QuietOption,
    SourceArgument,
    target,
)
from convsmith.cli.progress import progress
from convsmith.cli.rewriting_options import SummaryOption, names
from convsmith.errors import UsageError

__all__ = ["EXAMPLES", "merge"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith merge network.onnx -o merged.onnx

convsmith merge network.onnx --rules norm,identity --json
"""


def merge(
    source: SourceArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="The .onnx file to write; without it nothing is written.",
            show_default=False,
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules",
            metavar="NAMES",
            help="The rules to merge by: norm, parallel, serial, identity, zero, concat; by"
            " default all but concat, which saves no arithmetic.",
            show_default=False,
        ),
    ] = None,
    input: InputOption = None,  # noqa: A002 - the name of the option
    json: JsonOption = False,
    form: SummaryOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Merge layers that one layer replaces exactly.

    Batch normalizations and constants per channel go into the layer beside them,
    summed branches and linear layers in a row become one, what does nothing goes.
    The outputs stay the same up to rounding, borders included; no images are needed.

    Prints every step, and why what looks similar was not merged.
    """
    where = target(json=json, form=form, file=None, quiet=quiet, force=force)
    if where.form == "html":
        raise UsageError(
            "there is no HTML form of a merging",
            place="--format",
            remedy="compare both files: convsmith diff OLD NEW --format html",
        )

    from convsmith.files import check_source, check_target
    from convsmith.rewrite.merging import merge as merged
    from convsmith.rewrite.merging import rules_of
    from convsmith.sources import save

    chosen = rules_of(names(rules))
    if out is not None:
        check_target(out, overwrite=force)
    with progress(quiet=quiet) as shown:
        net = opened(source, input)
        if out is not None:
            check_source(out, net.source)
        result = merged(net, rules=chosen, progress=shown)
        if out is not None:
            save(result.net, out, overwrite=force)
            where.note(f"wrote {out}")
    where.deliver(result)
