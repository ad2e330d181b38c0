"""``convsmith diff``: what changed from one network to another, and budgets for it."""

from __future__ import annotations

from pathlib import Path
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
    StrictOption,
    target,
)
from convsmith.errors import UsageError

if TYPE_CHECKING:
    from convsmith.analysis import Analysis
    from convsmith.analysis.baseline import Baseline

__all__ = ["EXAMPLES", "diff"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith diff zoo:vgg16 smaller.onnx

convsmith analyze network.onnx -o baseline.json

convsmith diff baseline.json network.onnx --max-macs +2% --max-peak-memory 64MiB --same-field

convsmith diff smaller.plan.json edited.plan.json
"""

_SOURCE = "SOURCE as of analyze, or an analysis saved as .json."


def _budget(option: str, of: str) -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(
        option,
        metavar="BUDGET",
        help=f"The most {of}: +2%, -10%, +1M, or in all, 4.1G.",
        show_default=False,
    )
    return info


def diff(
    old: Annotated[
        str, typer.Argument(metavar="OLD", help=f"Before: {_SOURCE}", show_default=False)
    ],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help=f"After: {_SOURCE}", show_default=False)
    ],
    max_macs: Annotated[str | None, _budget("--max-macs", "multiply-accumulates")] = None,
    max_params: Annotated[str | None, _budget("--max-params", "parameters")] = None,
    max_flops: Annotated[str | None, _budget("--max-flops", "operations")] = None,
    max_weight_bytes: Annotated[
        str | None, _budget("--max-weight-bytes", "bytes of weights")
    ] = None,
    max_peak_memory: Annotated[
        str | None, _budget("--max-peak-memory", "bytes of activations at one time")
    ] = None,
    same_field: Annotated[
        bool, typer.Option("--same-field", help="Every output has to see the same as before.")
    ] = False,
    input: InputOption = None,  # noqa: A002 - the name of the option
    convention: ConventionOption = "exact",
    strict: StrictOption = False,
    json: JsonOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what changed from one network to another, layer by layer.

    With budgets it is a check: if one is exceeded, the exit code is 1, and stderr
    has a line for each. A saved analysis can stand for either network.
    Two plans of a rewrite are compared layer by layer, too.
    """
    where = target(json=json, form=form, file=output, quiet=quiet, force=force)

    from convsmith.analysis.budgets import read_budget
    from convsmith.analysis.difference import diff as compared

    budgets = {
        "macs": max_macs,
        "params": max_params,
        "flops": max_flops,
        "weight_bytes": max_weight_bytes,
        "peak_memory": max_peak_memory,
    }
    if _is_plan(old) and _is_plan(new):
        if same_field or any(limit is not None for limit in budgets.values()):
            raise UsageError(
                "plans have no budgets to keep to",
                remedy="compare networks, or leave the options out",
            )
        from convsmith.rewrite import Plan
        from convsmith.rewrite.plan_difference import compare_plans

        where.deliver(compare_plans(Plan.load(old), Plan.load(new)))
        return
    for measure, limit in budgets.items():  # before the networks are read
        if limit is not None:
            read_budget(measure, limit)
    result = compared(
        _read(old, input, convention),
        _read(new, input, convention),
        same_field=same_field,
        **budgets,
    )
    where.deliver(result)
    for violation in result.violations:
        where.warn(f"{violation}.")
    for side, network in (("old", result.old), ("new", result.new)):
        kinds = {layer.name: layer.op for layer in network.layers}
        uncounted = [(name, f"{kinds[name]}, {side} network") for name in network.unsupported]
        where.report_uncounted(uncounted, strict=strict)
    if result.violations:
        raise typer.Exit(1)


def _is_plan(source: str) -> bool:
    """Whether a file says at its beginning that it is a plan."""
    try:
        with Path(source).open("rb") as file:
            return b'"convsmith.plan/' in file.read(200)
    except (OSError, ValueError):
        return False


def _read(source: str, sizes: str | None, convention: str) -> Analysis | Baseline:
    """An analysis of a network, or one that was saved."""
    if source.lower().endswith(".json"):
        from convsmith.analysis.baseline import read_baseline

        return read_baseline(Path(source))

    from convsmith.analysis import analyze
    from convsmith.sources import load

    return analyze(load(source, sizes, weights=False), convention)
