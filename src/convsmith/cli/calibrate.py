"""``convsmith calibrate``: what images make every layer of a network see, kept in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from convsmith.cli.options import DebugOption, ForceOption, InputOption, QuietOption, target
from convsmith.cli.progress import progress
from convsmith.cli.rewriting_options import (
    LimitOption,
    MeanOption,
    ModelArgument,
    StdOption,
    numbers,
)

__all__ = ["EXAMPLES", "calibrate"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith calibrate network.onnx --data photographs -o network.calibration

convsmith calibrate classifier.onnx --data photographs --limit 300 \\
  --mean .485,.456,.406 --std .229,.224,.225 -o classifier.calibration

convsmith rewrite network.onnx --calibration network.calibration --macs 0.5 -o smaller.onnx
"""

SHOWN_REASONS = 5
"""How many of the images that cannot be used are named."""


def calibrate(
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Images such as the network will see: a folder of pictures, a .npy or .npz file.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="The file to write."),
    ],
    limit: LimitOption = 500,
    positions: Annotated[
        int | None,
        typer.Option(
            "--positions",
            metavar="N",
            min=1,
            help="Output positions per image and layer that are looked at; by default more of them"
            " where there are few images.",
            show_default=False,
        ),
    ] = None,
    sample_bytes: Annotated[
        int,
        typer.Option(
            "--sample-bytes",
            metavar="BYTES",
            min=0,
            help="How much of the images is kept for the rebuild; one image at least.",
        ),
    ] = 256 << 20,
    mean: MeanOption = None,
    std: StdOption = None,
    input: InputOption = None,  # noqa: A002 - the name of the option
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Collect what a rewrite has to know of a network's inputs.

    One pass over the images: sums over the windows that every layer sees, and
    some of the images themselves. Any number of rewrites can use the file, and
    files of several passes can be merged in Python. Images of another size
    than the network takes are skipped and counted.
    """
    where = target(json=False, form="text", file=output, quiet=quiet, force=force)
    means, deviations = numbers(mean, "--mean"), numbers(std, "--std")

    from convsmith.evidence import calibrate as calibrated
    from convsmith.evidence import open_with_images
    from convsmith.report.wording import binary, plain

    with progress(quiet=quiet) as shown:
        net, images, _ = open_with_images(
            model, data, input, mean=means, std=deviations, limit=limit
        )
        found = calibrated(
            net, images, positions=positions, sample_bytes=sample_bytes, progress=shown
        )
    found.save(output, overwrite=force)
    for reason in images.skipped[:SHOWN_REASONS]:
        where.note(f"skipped {plain(reason)}")
    if len(images.skipped) > SHOWN_REASONS:
        where.note(f"skipped {len(images.skipped) - SHOWN_REASONS} more")
    for note in found.notes:
        where.warn(f"note: {note}.")
    layers = f"{len(found.moments)} layer{'s' if len(found.moments) != 1 else ''}"
    count = f"{found.images} image{'s' if found.images != 1 else ''}"
    sys.stdout.write(
        f"calibration: {layers}, {count}, {binary(output.stat().st_size)}\n"
        f"written: {plain(str(output))}\n"
    )
