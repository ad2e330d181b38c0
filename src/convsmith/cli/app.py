"""The program: its verbs and its own options."""

from __future__ import annotations

from typing import Annotated

import typer

from convsmith.cli import optimize as optimizing
from convsmith.cli.analyze import analyze

__all__ = ["app"]

_EXAMPLES = """
[bold]Examples[/bold]

convsmith optimize network.onnx --data photographs -o smaller.onnx

convsmith analyze zoo:resnet50

convsmith analyze network.onnx --input 1,3,512,512 --format csv -o costs.csv

convsmith analyze "3@200 > conv 8 5/2 p1 > maxpool 3/1 > conv 8 3 p1" --json
"""

app = typer.Typer(
    name="convsmith",
    help="Makes convolutional networks cheaper without changing what they see.",
    epilog=_EXAMPLES,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=optimizing.EXAMPLES)(optimizing.optimize)
app.command()(analyze)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"convsmith {version('convsmith')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
