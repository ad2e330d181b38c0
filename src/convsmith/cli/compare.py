"""``convsmith compare``: a convolution against its cheaper arrangements; networks side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from convsmith.cli.completing import convolutions, sources
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

if TYPE_CHECKING:
    from convsmith.analysis.comparing import Width
    from convsmith.comparison import Runtime

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith compare "64@28 > conv 64 5 p2"

convsmith compare "192@28 > conv 32 5 p2" --width 16 --measure

convsmith compare zoo:resnet18 --layer conv1 --format html -o conv1.html

convsmith compare zoo:resnet18 zoo:mobilenet_v1
"""

_Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="A convolution in the notation, such as '64@28 > conv 64 5 p2', or a network; two"
        " or more networks are compared as wholes.",
        show_default=False,
        autocompletion=sources,
    ),
]
_Layer = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="Which convolution.",
        show_default=False,
        autocompletion=convolutions,
    ),
]
_Width = Annotated[
    str,
    typer.Option(
        "--width",
        metavar="RULE",
        help="Channels in the middle: keep (as the output; half of the narrower side in a"
        " bottleneck), equal-cost, or a number.",
    ),
]
_Activation = Annotated[
    str | None,
    typer.Option(
        "--activation",
        metavar="NAME",
        help="Between two convolutions: relu, silu, ..., or none; by default what follows the"
        " layer, else relu.",
        show_default=False,
    ),
]
_Measure = Annotated[bool, typer.Option("--measure", help="Measure milliseconds, in turns.")]
_Runtime = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="What is measured: convsmith's own kernels or onnxruntime; by default convsmith"
        " where all is float32.",
        show_default=False,
    ),
]
_Tune = Annotated[
    bool,
    typer.Option(
        "--tune/--no-tune",
        help="Measure first which of convsmith's algorithms is the fastest: seconds for every"
        " convolution that is new to this machine. Without it predictions choose.",
    ),
]


def compare(
    sources: _Sources,
    layer: _Layer = None,
    width: _Width = "keep",
    activation: _Activation = None,
    measure: _Measure = False,
    runtime: _Runtime = None,
    tune: _Tune = True,
    input: InputOption = None,  # noqa: A002 - the name of the option
    json: JsonOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare a convolution with every cheaper form that sees the same.

    Stacks of small kernels, 1xN and Nx1, 1x1 bottlenecks, depthwise,
    grouped, dilated, and combinations: MACs, parameters, memory, field,
    and with --measure milliseconds. Every row is notation to copy.

    Several sources are compared as whole networks, with the first of them.
    """
    where = target(json=json, form=form, file=output, quiet=quiet, force=force)

    from convsmith.comparison import RuntimeClock
    from convsmith.comparison import compare as compared
    from convsmith.errors import UnsupportedOperatorError

    clock = RuntimeClock(runtime=_known(runtime), tune=tune)
    if measure:
        where.note("measuring, in turns; what is new to this machine takes seconds a row")
    result = compared(
        sources[0],
        layer,
        against=sources[1:],
        width=_rule(width),
        activation=activation,
        measure=measure,
        clock=clock,
        input=input,
    )
    where.deliver(result)
    missing = [
        f"{row.form}: {', '.join(row.unsupported)}" for row in result.rows if row.unsupported
    ]
    if missing:
        raise UnsupportedOperatorError(
            f"not counted: {'; '.join(missing)}", remedy="the numbers leave out what is not known"
        )


def _known(runtime: str | None) -> Runtime | None:
    """Reads ``--runtime``.

    Raises:
        UsageError: If there is no such runtime.
    """
    from convsmith.errors import UsageError

    if runtime in (None, "convsmith", "onnxruntime"):
        return runtime  # type: ignore[return-value]  # one of the two words, or none
    raise UsageError(
        f"there is no runtime {runtime!r}",
        place="--runtime",
        remedy="give convsmith or onnxruntime",
    )


def _rule(width: str) -> Width:
    """Reads ``--width``.

    Raises:
        UsageError: If it is none of the rules.
    """
    from convsmith.errors import UsageError

    if width in ("keep", "equal-cost"):
        return width  # type: ignore[return-value]  # one of the two words
    if width.isascii() and width.isdigit() and len(width) < 13 and int(width) > 0:
        return int(width)
    raise UsageError(
        f"there is no width {width!r}", place="--width", remedy="give keep, equal-cost or a number"
    )
