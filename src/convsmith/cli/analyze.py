"""``convsmith analyze``: what every layer costs and what it sees."""

from __future__ import annotations

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    FormatOption,
    InputOption,
    JsonOption,
    OutputOption,
    QuietOption,
    SourceArgument,
    target,
)

__all__ = ["analyze"]


def analyze(
    source: SourceArgument,
    input: InputOption = None,  # noqa: A002 - the name of the option
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

    An operator that is not known is named and left out of the totals;
    the exit code is then 2.
    """
    where = target(json=json, form=form, file=output, quiet=quiet, force=force)

    from convsmith.analysis import analyze as analyzed
    from convsmith.errors import UnsupportedOperatorError
    from convsmith.sources import load

    result = analyzed(load(source, input))
    where.deliver(result)
    if result.unsupported:
        named = ", ".join(f"{item.name} ({item.op})" for item in result.unsupported)
        raise UnsupportedOperatorError(
            f"not counted: {named}",
            remedy="the totals leave out what is not known",
        )
