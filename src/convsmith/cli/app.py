"""The program: its verbs and its own options."""

from __future__ import annotations

from typing import Annotated

import typer

from convsmith.cli import analyze as analyzing
from convsmith.cli import bench as benching
from convsmith.cli import calibrate as calibrating
from convsmith.cli import compare as comparing
from convsmith.cli import diff as differing
from convsmith.cli import explain as explaining
from convsmith.cli import merge as merging
from convsmith.cli import optimize as optimizing
from convsmith.cli import report as reporting
from convsmith.cli import rewrite as rewriting
from convsmith.cli import rule as ruling
from convsmith.cli import run as running
from convsmith.cli import spectrum as looking
from convsmith.cli.doctor import doctor
from convsmith.cli.lint import EXAMPLES as LINT_EXAMPLES
from convsmith.cli.lint import lint

__all__ = ["app"]

_EXAMPLES = """
[bold]Examples[/bold]

convsmith optimize network.onnx --data photographs -o smaller.onnx

convsmith analyze zoo:resnet50

convsmith analyze zoo:resnet50 --by module --depth 2

convsmith diff baseline.json network.onnx --max-macs +2%

convsmith analyze network.onnx --input 1,3,512,512 --format csv -o costs.csv

convsmith analyze "3@200 > conv 8 5/2 p1 > maxpool 3/1 > conv 8 3 p1" --json
"""

app = typer.Typer(
    name="convsmith",
    help="Makes convolutional networks cheaper without changing what they see.",
    epilog=_EXAMPLES,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=optimizing.EXAMPLES)(optimizing.optimize)
app.command(epilog=calibrating.EXAMPLES)(calibrating.calibrate)
app.command(epilog=rewriting.EXAMPLES)(rewriting.rewrite)
app.command(epilog=merging.EXAMPLES)(merging.merge)
app.command(epilog=analyzing.EXAMPLES)(analyzing.analyze)
app.command(epilog=explaining.EXAMPLES)(explaining.explain)
app.command(epilog=LINT_EXAMPLES)(lint)
app.command(epilog=ruling.EXAMPLES)(ruling.rule)
app.command(epilog=differing.EXAMPLES)(differing.diff)
app.command(epilog=comparing.EXAMPLES)(comparing.compare)
app.command(epilog=running.EXAMPLES)(running.run)
app.command(epilog=benching.EXAMPLES)(benching.bench)
app.command()(doctor)
app.command(epilog=looking.EXAMPLES)(looking.spectrum)
app.command(epilog=reporting.EXAMPLES)(reporting.report)


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
