"""``convsmith rule``: the pages of the rules that ``convsmith lint`` checks."""

from __future__ import annotations

from typing import Annotated

import typer

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    FormatOption,
    JsonOption,
    OutputOption,
    QuietOption,
    target,
)

__all__ = ["EXAMPLES", "rule"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith rule

convsmith rule stride-skips-pixels

convsmith rule S101 --format markdown
"""


def rule(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[RULE]",
            help="The name or the code of a rule; without one, all are listed.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    form: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Explain a rule of lint, or list all of them."""
    where = target(json=json, form=form, file=output, quiet=quiet, force=force)

    from convsmith.linting import Rules, find_rule

    where.deliver(Rules() if name is None else find_rule(name))
