"""``convsmith analyze``: what every layer costs and what it sees."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from convsmith.cli.options import (
    ConventionOption,
    DebugOption,
    ForceOption,
    FormatOption,
    InputOption,
    JsonOption,
    OutputOption,
    QuietOption,
    SourceArgument,
    StrictOption,
    target,
)
from convsmith.errors import UsageError

if TYPE_CHECKING:
    from convsmith.analysis import SymbolicAnalysis
    from convsmith.graph import Graph, Shape

__all__ = ["EXAMPLES", "analyze"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith analyze zoo:resnet50

convsmith analyze zoo:resnet50 --by module --depth 2

convsmith analyze network.onnx --strict -o costs.html

convsmith analyze "3@200 > conv 8 5/2 p1 > maxpool 3/1" --json

convsmith analyze zoo:vgg16 --symbolic
"""


class By(StrEnum):
    """What the lines of the table are."""

    layer = "layer"
    module = "module"
    operator = "operator"


def analyze(
    source: SourceArgument,
    input: InputOption = None,  # noqa: A002 - the name of the option
    by: Annotated[
        By | None,
        typer.Option("--by", help="What to sum up by; layer by default.", show_default=False),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth",
            metavar="N",
            min=1,
            help="How deep modules may lie; says --by module too.",
            show_default=False,
        ),
    ] = None,
    convention: ConventionOption = "exact",
    symbolic: Annotated[
        bool, typer.Option("--symbolic", help="Leave the size of the image open: polynomials.")
    ] = False,
    strict: StrictOption = False,
    json: JsonOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what every layer costs, exactly, and what it sees of the input.

    Parameters, multiply-accumulates, operations, bytes, receptive fields.
    It needs no weights: a line of notation is enough.

    An operator that is not known is named, on stderr too, and the totals leave it out;
    with --strict the exit code is then 1.
    """
    where = target(json=json, form=form, file=output, quiet=quiet, force=force)
    if depth is not None and by not in (None, By.module):
        raise UsageError(
            f"--depth has no meaning with --by {by.value}",
            remedy="leave one out, or give --by module",
        )
    if symbolic and (by is not None or depth is not None or convention != "exact"):
        raise UsageError(
            "--symbolic counts layer by layer, exactly",
            remedy="leave out --by, --depth and --convention",
        )

    from convsmith.analysis import analyze as analyzed
    from convsmith.sources import load

    if symbolic:
        found = _symbolic(source, input)
        where.deliver(found)
        uncounted = [(row.name, row.op) for row in found.rows if row.status == "unsupported"]
        where.report_uncounted(uncounted, strict=strict)
        return
    result = analyzed(load(source, input, weights=False), convention)
    if by is By.module or depth is not None:
        where.deliver(result.by_module(depth))
    elif by is By.operator:
        where.deliver(result.by_operator())
    else:
        where.deliver(result)
    where.report_uncounted([(item.name, item.op) for item in result.unsupported], strict=strict)


def _symbolic(source: str, given: str | None) -> SymbolicAnalysis:
    """Networks that are built anew for every size are; a file or a text is resized."""
    from convsmith.analysis import symbolic
    from convsmith.sources import load

    def again(shapes: Mapping[str, Shape]) -> Graph:
        sizes = list(shapes.values())
        return load(source, sizes[0] if len(sizes) == 1 else shapes)

    net = load(source, given, weights=False)
    text = source.strip()
    is_built = text.startswith("zoo:") or (":" in text and " " not in text)
    return symbolic(net, again if is_built else None)
