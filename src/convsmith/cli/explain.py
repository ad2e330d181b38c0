"""``convsmith explain``: how every number comes about."""

from __future__ import annotations

from typing import Annotated

import typer

from convsmith.cli.completing import layers
from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    InputOption,
    JsonOption,
    OutputOption,
    QuietOption,
    SourceArgument,
    target,
)

__all__ = ["EXAMPLES", "explain"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith explain zoo:resnet50 conv1

convsmith explain zoo:resnet50 --convention fvcore

convsmith explain "3@200 > conv 8 5/2 p1 > maxpool 3/1" --lang zh --format latex
"""


def explain(
    source: SourceArgument,
    layer: Annotated[
        str | None,
        typer.Argument(
            metavar="LAYER",
            help="The layer; without it, all of them.",
            show_default=False,
            autocompletion=layers,
        ),
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(
            "--convention",
            metavar="NAME",
            help="Account for what a tool or a paper counts otherwise: torchinfo, fvcore, thop,"
            " ptflops, torchprofile, torchvision, textbook, madd, ...",
            show_default=False,
        ),
    ] = None,
    lang: Annotated[
        str, typer.Option("--lang", metavar="en|zh", help="The language of the words.")
    ] = "en",
    input: InputOption = None,  # noqa: A002 - the name of the option
    json: JsonOption = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="text, json, csv, markdown, html or latex; by default what the name after -o ends"
            " in (.tex: latex), else text.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the formulas behind every number, with its symbols and with its numbers.

    Sizes, parameters, operations, receptive field. --format latex makes a document.

    With --convention, says how the number of a tool comes about from the exact one, term by term.
    """
    if form is None and output is not None and output.suffix.lower() == ".tex":
        form = "latex"
    where = target(json=json, form=form, file=output, quiet=quiet, force=force, further=("latex",))

    from convsmith.analysis.explaining import explain as explained
    from convsmith.sources import load

    where.deliver(
        explained(load(source, input, weights=False), layer, convention=convention, lang=lang)
    )
