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
from convsmith.cli.rewriting_options import (
    ExcludeOption,
    FormsOption,
    LatencyOption,
    LimitOption,
    MacsOption,
    MaxLossOption,
    MeanOption,
    MeasureOption,
    MergeOption,
    ModelArgument,
    NonlinearityOption,
    OnlyOption,
    ParamsOption,
    StdOption,
    StrategyOption,
    SummaryOption,
    SweepOption,
    TuneOption,
    names,
    numbers,
    said,
)

__all__ = ["EXAMPLES", "optimize"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith optimize examples/restorer/restorer.onnx \\
  --data examples/restorer/photographs/calibration \\
  --test examples/restorer/photographs/test --macs 0.5 -o restored

convsmith optimize network.onnx --data photographs --macs 0.5 --merge -o merged_and_smaller

convsmith optimize classifier.onnx --data photographs --latency 0.6 --sweep 0.3:0.9 \\
  --mean .485,.456,.406 --std .229,.224,.225 -o smaller.onnx
"""


def optimize(
    model: ModelArgument,
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
    macs: MacsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    max_loss: MaxLossOption = None,
    strategy: StrategyOption = "thorough",
    forms: FormsOption = None,
    only: OnlyOption = None,
    exclude: ExcludeOption = None,
    nonlinearity: NonlinearityOption = None,
    merge: MergeOption = False,
    sweep: SweepOption = None,
    measure: MeasureOption = "convsmith,onnxruntime",
    tune: TuneOption = False,
    input: InputOption = None,  # noqa: A002 - the name of the option
    mean: MeanOption = None,
    std: StdOption = None,
    limit: LimitOption = 500,
    json: JsonOption = False,
    form: SummaryOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a trained network cheaper, and show what was lost.

    Expensive convolutions are replaced by cheaper ones that see the same field,
    fitted to what the calibration images make each layer compute.
    Costs, error, task metric and time are measured before and after.
    The budget is one of --macs, --params, --latency and --max-loss; half of the
    multiply-accumulates, if none is given.

    Writes the model, the plan and a report for the browser; prints a summary.
    Images of another size than the network takes are skipped and counted.
    """
    where = target(json=json, form=form, file=None, quiet=quiet, force=force)
    means, deviations = numbers(mean, "--mean"), numbers(std, "--std")

    from convsmith.optimization import optimize as optimized

    with progress(quiet=quiet) as shown, said(where):
        result = optimized(
            model,
            data=data,
            out=out,
            test=test,
            macs=macs,
            params=params,
            latency=latency,
            max_loss=max_loss,
            strategy=strategy,  # type: ignore[arg-type]  # checked there
            forms=names(forms),
            only=names(only),
            exclude=names(exclude) or (),
            nonlinearity=nonlinearity,  # type: ignore[arg-type]  # checked there
            merge=merge,
            sweep=sweep,
            measure=names(measure) or (),
            tune=tune,
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
