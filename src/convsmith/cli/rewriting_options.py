"""What the verbs that rewrite networks have in common: budgets, forms, images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from convsmith.errors import UsageError

if TYPE_CHECKING:
    from convsmith.cli.options import Target

__all__ = [
    "ExcludeOption",
    "FormsOption",
    "LatencyOption",
    "LimitOption",
    "MacsOption",
    "MaxLossOption",
    "MeanOption",
    "MeasureOption",
    "MergeOption",
    "ModelArgument",
    "NonlinearityOption",
    "OnlyOption",
    "ParamsOption",
    "StdOption",
    "StrategyOption",
    "SummaryOption",
    "SweepOption",
    "TuneOption",
    "names",
    "numbers",
    "said",
]

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A trained network: an .onnx file, or pkg.module:factory of a torch module.",
        show_default=False,
    ),
]
MacsOption = Annotated[
    float | None,
    typer.Option(
        "--macs",
        metavar="BUDGET",
        help="Multiply-accumulates to keep: a share, or, above 1, their number.",
        show_default=False,
    ),
]
ParamsOption = Annotated[
    float | None,
    typer.Option(
        "--params",
        metavar="BUDGET",
        help="Parameters to keep: a share, or, above 1, their number.",
        show_default=False,
    ),
]
LatencyOption = Annotated[
    float | None,
    typer.Option(
        "--latency",
        metavar="BUDGET",
        help="Time to keep, measured in convsmith's kernels: a share, or, above 1, milliseconds.",
        show_default=False,
    ),
]
MaxLossOption = Annotated[
    float | None,
    typer.Option(
        "--max-loss",
        metavar="LOSS",
        help="Instead of a budget: how far the outputs may move on the calibration images (nats"
        " for class scores, else squared error over variance); costs are then made least.",
        show_default=False,
    ),
]
StrategyOption = Annotated[
    str,
    typer.Option(
        "--strategy",
        metavar="NAME",
        help="fast: two forms, few widths; thorough: all that lose little, on a fine grid.",
    ),
]
FormsOption = Annotated[
    str | None,
    typer.Option(
        "--forms",
        metavar="NAMES",
        help="The forms to try, such as spatial,channel.",
        show_default=False,
    ),
]
OnlyOption = Annotated[
    str | None,
    typer.Option(
        "--only", metavar="LAYERS", help="The only layers to replace.", show_default=False
    ),
]
ExcludeOption = Annotated[
    str | None,
    typer.Option(
        "--exclude", metavar="LAYERS", help="Layers to leave as they are.", show_default=False
    ),
]
NonlinearityOption = Annotated[
    str | None,
    typer.Option(
        "--nonlinearity",
        metavar="NAME",
        help="relu: between the layers of stacks, lifted so that on the calibration images it"
        " changes nothing; something for training to use.",
        show_default=False,
    ),
]
MergeOption = Annotated[
    bool,
    typer.Option(
        "--merge",
        help="First merge what one layer replaces exactly, as convsmith merge does; the budget is"
        " still one of the whole network, and the plan says what was merged.",
    ),
]
SweepOption = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        metavar="RANGE",
        help="Try a range of budgets, such as 0.3:0.9 or 0.3:0.9:4 (so many), and show what"
        " each costs and loses.",
        show_default=False,
    ),
]
MeasureOption = Annotated[
    str | None,
    typer.Option(
        "--measure",
        metavar="RUNTIMES",
        help="Where both networks are timed, in turns: convsmith,onnxruntime,openvino.",
        show_default=False,
    ),
]
TuneOption = Annotated[
    bool,
    typer.Option(
        "--tune/--no-tune",
        help="Before times are taken, measure which of convsmith's algorithms is the fastest:"
        " seconds for every convolution that is new to this machine. Without it predictions"
        " choose.",
    ),
]
SummaryOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="How to print the summary: text, json, csv, markdown or html.",
        show_default=False,
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="NUMBERS",
        help="Subtracted from the images (0 to 1), one number per channel.",
        show_default=False,
    ),
]
StdOption = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="NUMBERS",
        help="What they are then divided by, one number per channel.",
        show_default=False,
    ),
]
LimitOption = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, help="The most calibration images.")
]


def numbers(text: str | None, option: str) -> tuple[float, ...]:
    """Reads numbers that are separated by commas; none of nothing.

    Raises:
        UsageError: If one is no number.
    """
    try:
        return tuple(float(number) for number in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(
            f"{text!r} is not a list of numbers",
            place=option,
            remedy="give one per channel, such as .485,.456,.406",
        ) from None


def names(text: str | None) -> tuple[str, ...] | None:
    """Reads names that are separated by commas; ``None`` where the option was not given."""
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


@contextmanager
def said(where: Target) -> Iterator[None]:
    """Turns what Python code is warned of into messages, once each."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for message in dict.fromkeys(str(one.message) for one in caught):
        where.warn(f"warning: {message}.")
