"""``convsmith optimize``: the main job, from a trained network to a cheaper one and a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    InputOption,
    JsonOption,
    QuietOption,
    target,
)
from convsmith.cli.progress import progress

__all__ = ["EXAMPLES", "optimize"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith optimize examples/restorer/restorer.onnx \\
  --data examples/restorer/photographs/calibration \\
  --test examples/restorer/photographs/test --macs 0.5 -o restored

convsmith optimize classifier.onnx --data photographs --macs 0.6 \\
  --mean .485,.456,.406 --std .229,.224,.225 -o smaller.onnx
"""


def _numbers(text: str | None, option: str) -> tuple[float, ...]:
    from convsmith.errors import UsageError

    try:
        return tuple(float(number) for number in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(
            f"{text!r} is not a list of numbers",
            place=option,
            remedy="give one per channel, such as .485,.456,.406",
        ) from None


def optimize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A trained network: an .onnx file, or pkg.module:factory of a torch module.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Calibration images: pictures, a folder per class, or input/ and target/.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="A folder for model, plan and report, or the name of an .onnx file to write"
            " them beside.",
            show_default=False,
        ),
    ],
    test: Annotated[
        str | None,
        typer.Option(
            "--test",
            metavar="DIR",
            help="Images to measure the loss on; by default the calibration images.",
            show_default=False,
        ),
    ] = None,
    macs: Annotated[
        float,
        typer.Option(
            "--macs",
            metavar="BUDGET",
            help="Multiply-accumulates to keep: a share, or, above 1, their number.",
        ),
    ] = 0.5,
    input: InputOption = None,  # noqa: A002 - the name of the option
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="NUMBERS",
            help="Subtracted from the images (0 to 1), one number per channel.",
            show_default=False,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            "--std",
            metavar="NUMBERS",
            help="What they are then divided by, one number per channel.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="The most calibration images.")
    ] = 500,
    json: JsonOption = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="How to print the summary: text, json, csv, markdown or html.",
            show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a trained network cheaper, and show what was lost.

    Expensive convolutions are replaced by cheaper ones that see the same field,
    fitted to what the calibration images make each layer compute.
    Costs, error, task metric and time are measured before and after.

    Writes the model, the plan and a report for the browser; prints a summary.
    Images of another size than the network takes are skipped and counted.
    """
    where = target(json=json, form=form, file=None, quiet=quiet, force=force)
    means, deviations = _numbers(mean, "--mean"), _numbers(std, "--std")

    from convsmith.optimization import optimize as optimized

    with progress(quiet=quiet) as shown:
        result = optimized(
            model,
            data=data,
            out=out,
            test=test,
            macs=macs,
            input=input,
            mean=means,
            std=deviations,
            limit=limit,
            overwrite=force,
            progress=shown,
        )
    result.to_html(result.files.report, overwrite=force)
    where.deliver(result)
    if where.form == "text":
        sys.stdout.write(f"report: {result.files.report}\n")
