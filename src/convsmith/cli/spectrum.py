"""``convsmith spectrum``: kernels as the filters that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    FormatOption,
    InputOption,
    JsonOption,
    OutputOption,
    QuietOption,
    target,
)

__all__ = ["EXAMPLES", "spectrum"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith spectrum network.onnx

convsmith spectrum network.onnx --layer conv1 -o filters.html

convsmith spectrum kernels.npy --json
"""

_SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A trained network: an .onnx file or pkg.module:factory of a torch module; or"
        " kernels in an .npy file, (h, w), (n, h, w) or (K, C, h, w).",
        show_default=False,
    ),
]
_LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer", metavar="NAME", help="Show its kernels one by one.", show_default=False
    ),
]
_SizeOption = Annotated[
    int, typer.Option("--size", metavar="N", help="Frequencies per axis of the kernels shown.")
]


def spectrum(
    source: _SourceArgument,
    layer: _LayerOption = None,
    size: _SizeOption = 32,
    input: InputOption = None,  # noqa: A002 - the name of the option
    json: JsonOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Show which frequencies the kernels of a network pass, stop and turn.

    Low-pass, high-pass, band-pass, with direction; how separable a kernel is; how much of
    its energy a stride folds (aliasing).
    """
    where = target(json=json, form=form, file=output, quiet=quiet, force=force)

    from convsmith.errors import DynamicSizeError
    from convsmith.signal import spectrum as looked
    from convsmith.sources import load
    from convsmith.sources.arrays import plain_array

    if source.lower().endswith(".npy"):
        where.deliver(looked(plain_array(Path(source)), layer, size=size))
        return
    try:
        net = load(source, input)
    except DynamicSizeError as error:
        # Kernels do not depend on the size: any that fits will do.
        sizes = {
            name: tuple(1 if i == 0 else n or 224 for i, n in enumerate(shape))
            for name, shape in error.shapes.items()
        }
        net = load(source, sizes)
    where.deliver(looked(net, layer, size=size))
