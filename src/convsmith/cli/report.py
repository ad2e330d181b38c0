"""``convsmith report``: one page about a network, for the browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    InputOption,
    QuietOption,
    SourceArgument,
    target,
)

if TYPE_CHECKING:
    from convsmith.graph import Graph
    from convsmith.portrait import EffectiveMap

__all__ = ["EXAMPLES", "report"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith report zoo:resnet50

convsmith report network.onnx --image photograph.jpg -o network.html

convsmith report network.onnx --bench times.json --plan plan.json --redact
"""


def report(
    source: SourceArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="A picture to see receptive fields on; a drawing without it.",
            show_default=False,
        ),
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option(
            "--bench",
            metavar="FILE",
            help="Times of its convolutions: what convsmith bench NETWORK -o FILE.json wrote.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="A plan to rewrite it, such as convsmith optimize writes.",
            show_default=False,
        ),
    ] = None,
    effective: Annotated[
        list[str] | None,
        typer.Option(
            "--effective",
            metavar="LAYER",
            help="Measure the effective field of the middle unit of a layer (a submodule's path);"
            " may be given several times; pkg.module:factory only.",
            show_default=False,
        ),
    ] = None,
    redact: Annotated[
        bool,
        typer.Option("--redact", help="Leave out all names and paths, and the picture's name."),
    ] = False,
    input: InputOption = None,  # noqa: A002 - the name of the option
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Write one page about a network: what it costs, what it sees, and why.

    One file that works offline: totals and where the cost is, memory over time, the network
    drawn with its modules, what every unit of every layer sees of the input, and the formulas
    behind the numbers. With --bench also the times of its kernels, with --plan what a rewrite
    changes.
    """
    where = target(json=False, form="html", file=output, quiet=quiet, force=force)

    from dataclasses import replace

    from convsmith.portrait import file_digest, portrait, read_picture, redacted
    from convsmith.portrait.bench_file import read_bench
    from convsmith.sources import load

    net = load(source, input, weights=False)
    times = None if bench is None else read_bench(bench)
    decided = None
    if plan is not None:
        from convsmith.rewrite import Plan

        decided = Plan.load(plan)
    sizes = next((value.shape[2:] for value in net.inputs if len(value.shape) > 2), ())
    picture = None if image is None else read_picture(image, sizes)
    maps = _measured(source, net, effective or [])
    if redact:
        hidden = redacted(net)
        net = hidden.graph
        times = times and hidden.bench(times)
        decided = decided and hidden.plan(decided)
        maps = [replace(each, layer=hidden.layer(each.layer)) for each in maps]
        picture = picture and replace(picture, name="picture")
    found = portrait(
        net,
        picture=picture,
        bench=times,
        plan=decided,
        effective=maps,
        digest=file_digest(source),
        command=_command(redact, source, output, image, bench, plan, effective or [], input),
    )
    where.deliver(found)


def _command(
    redact: bool,
    source: str,
    output: Path,
    image: Path | None,
    bench: Path | None,
    plan: Path | None,
    effective: list[str],
    sizes: str | None,
) -> list[str]:
    """What to type to make the page again; with ``--redact`` without names and paths."""
    options: list[tuple[str, object]] = [("--input", sizes)]
    options += [("--image", image), ("--bench", bench), ("--plan", plan)]
    options += [("--effective", layer) for layer in effective]
    words = ["convsmith", "report", "SOURCE" if redact else source]
    for name, value in options:
        if value is not None:
            words += [name, name[2:].upper() if redact else str(value)]
    return [*words, "-o", output.name if redact else str(output), *(["--redact"] * redact)]


def _measured(source: str, net: Graph, layers: list[str]) -> list[EffectiveMap]:
    """Effective fields of the middle units of some layers, on noise as Luo et al. take it.

    Raises:
        UsageError: If the source is no torch module, or a layer has no image axes.
    """
    if not layers:
        return []
    from convsmith.portrait.effective import measured_maps

    return measured_maps(source, net, layers)
