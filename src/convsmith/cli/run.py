"""``convsmith run``: a network on data, in compiled kernels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    FormatOption,
    InputOption,
    JsonOption,
    QuietOption,
    target,
)
from convsmith.cli.rewriting_options import MeanOption, StdOption, numbers

if TYPE_CHECKING:
    from convsmith.runtime.running import Run

__all__ = ["EXAMPLES", "run"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith run network.onnx --data images.npy -o outputs.npz

convsmith run classifier.onnx --data photographs --mean .485,.456,.406 --std .229,.224,.225

convsmith run zoo:resnet50 --random --runs 20 --profile

convsmith run network.onnx --random --input 8,3,224,224 --threads 4 --json
"""


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An .onnx file, notation, zoo:NAME, or pkg.module:factory of a torch module.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="FILE.npy, FILE.npz (one array per input), a picture, or a folder of pictures.",
            show_default=False,
        ),
    ] = None,
    random: Annotated[
        bool,
        typer.Option(
            "--random", help="Run on random numbers; a network without weights gets random ones."
        ),
    ] = False,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", min=0, max=100000, help="Timed runs; 0 for none.")
    ] = 10,
    profile: Annotated[
        bool, typer.Option("--profile", help="Time every step of the network too.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            help="By default the cores that are granted.",
            show_default=False,
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune/--no-tune",
            help="Measure the candidates of every convolution first, once per machine.",
        ),
    ] = True,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            metavar="RATIO",
            min=1.0,
            help="The largest error of one convolution, over that of direct convolution.",
        ),
    ] = 20.0,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            metavar="N",
            min=1,
            help="Images of one run; by default what the network says.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="The most images.", show_default=False),
    ] = None,
    mean: MeanOption = None,
    std: StdOption = None,
    input: InputOption = None,  # noqa: A002 - the name of the option
    json: JsonOption = False,
    form: FormatOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the outputs (.npz), or the summary (any other name).",
            show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a network in compiled kernels.

    Says of every output its shape, least, greatest and mean element, and
    the largest five of a classification; and how long one run takes.
    """
    from convsmith.errors import UsageError

    arrays = output if output is not None and output.suffix.lower() == ".npz" else None
    if arrays is not None:
        from convsmith.files import check_target

        check_target(arrays, overwrite=force)
    where = target(json=json, form=form, file=None if arrays else output, quiet=quiet, force=force)
    if random == (data is not None):
        raise UsageError(
            "--data and --random contradict each other" if random else "there is no data",
            remedy="give --data FILE or FOLDER, or --random",
        )
    means, deviations = numbers(mean, "--mean"), numbers(std, "--std")

    from convsmith.cli.progress import progress
    from convsmith.runtime.running import run as ran

    with progress(quiet=quiet) as told:
        result = ran(
            model,
            data=data,
            input=input,
            mean=means,
            std=deviations,
            limit=limit,
            batch=batch,
            runs=runs,
            threads=threads,
            tune=tune,
            tolerance=tolerance,
            profile=profile,
            keep=arrays is not None,
            progress=told,
        )
    if arrays is not None:
        _write(result, arrays, overwrite=force)
        where.note(f"wrote {arrays}")
    where.deliver(result)


def _write(result: Run, path: Path, *, overwrite: bool) -> None:
    """Writes the outputs under their names."""
    import io

    import numpy as np

    from convsmith.files import write_atomically

    file = io.BytesIO()
    np.savez(file, **result.arrays)  # type: ignore[arg-type]  # names of outputs, all arrays
    write_atomically(path, file.getvalue(), overwrite=overwrite)
