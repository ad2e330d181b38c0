"""``convsmith bench``: convolutions by every algorithm and by the peers, in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from convsmith.conv.spec import Layout

__all__ = ["EXAMPLES", "bench"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith bench "64@56 > conv 64 3 p1 > relu"

convsmith bench "256@14 > conv 256 3 p1" --layout last --peers none --cold

convsmith bench zoo:resnet18 --threads 4 -o resnet18.html

convsmith bench network.onnx --algorithms direct,winograd --peers torch,onnxruntime --json
"""

_Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A convolution in the notation, such as '64@56 > conv 64 3 p1 > relu', or a network.",
        show_default=False,
    ),
]
_Algorithms = Annotated[
    str | None,
    typer.Option(
        "--algorithms",
        metavar="NAMES",
        help="Those to time, separated by commas; all by default.",
        show_default=False,
    ),
]
_Peers = Annotated[
    str,
    typer.Option(
        "--peers",
        metavar="NAMES",
        help="Libraries to time beside ours, separated by commas; none; all that are installed.",
    ),
]
_Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="Threads of everybody; by default the cores that are granted.",
        show_default=False,
    ),
]
_LayoutOption = Annotated[
    str,
    typer.Option("--layout", metavar="LAYOUT", help="How images of ours lie: first or last."),
]
_Rounds = Annotated[
    int, typer.Option("--rounds", metavar="N", min=1, max=1000, help="Turns of everybody.")
]
_Cold = Annotated[
    bool, typer.Option("--cold", help="Measure with evicted caches as well, before every run.")
]
_ProcessorTime = Annotated[
    bool,
    typer.Option(
        "--processor-time",
        help="Measure how long this process computes, not how long it waits: for one thread on a"
        " busy machine.",
    ),
]
_AllLayers = Annotated[
    bool, typer.Option("--all-layers", help="Time layers one by one that are the same convolution.")
]
_Tolerance = Annotated[
    float,
    typer.Option(
        "--tolerance",
        metavar="RATIO",
        min=1.0,
        help="The largest error that the choice accepts, over that of direct convolution.",
    ),
]


def bench(
    source: _Source,
    algorithms: _Algorithms = None,
    peers: _Peers = "all",
    threads: _Threads = None,
    layout: _LayoutOption = "first",
    rounds: _Rounds = 9,
    cold: _Cold = False,
    processor_time: _ProcessorTime = False,
    all_layers: _AllLayers = False,
    tolerance: _Tolerance = 20.0,
    input: InputOption = None,  # noqa: A002 - the name of the option
    json: JsonOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Time convolutions by every algorithm, and by other libraries.

    Per convolution: milliseconds (medians, in turns), effective GFLOP/s,
    share of the machine's measured peak, error against float64, the
    choice, and PyTorch, ONNX Runtime, OpenVINO, ncnn and MNN beside it,
    as far as they are installed.
    """
    where = target(json=json, form=form, file=output, quiet=quiet, force=force)
    lies = _layout(layout)

    from convsmith.cli.progress import progress
    from convsmith.runtime.benching import bench as benched

    with progress(quiet=quiet) as told:
        result = benched(
            source,
            algorithms=None if algorithms is None else _names(algorithms),
            peers=peers if peers in ("all", "none") else _names(peers),
            threads=threads,
            layout=lies,
            rounds=rounds,
            cold=cold,
            clock="processor" if processor_time else "wall",
            all_layers=all_layers,
            tolerance=tolerance,
            input=input,
            progress=told,
        )
    where.deliver(result)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _layout(text: str) -> Layout:
    """Reads ``--layout``.

    Raises:
        UsageError: If it is neither.
    """
    from convsmith.errors import UsageError

    match text:
        case "first" | "channels_first":
            return "channels_first"
        case "last" | "channels_last":
            return "channels_last"
    raise UsageError(f"there is no layout {text!r}", place="--layout", remedy="give first or last")
