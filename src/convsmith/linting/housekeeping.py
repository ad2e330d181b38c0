"""Rules about suppressions themselves. The engine finds these; here are their pages."""

from __future__ import annotations

from convsmith.linting.rule import Sites, rule
from convsmith.linting.subject import Subject

__all__ = ["suppression_without_reason", "unused_suppression"]


@rule(
    "S901",
    "warning",
    what="A suppression of one rule at one layer that says no reason.",
    why="Nobody can tell later whether it still holds.",
    example="3@8 > conv 4 3 > bn",
    given="the option --ignore bias-before-batch-norm@conv1",
    fine="3@8 > conv 4 3 nobias > bn",
    remedy="Give it one: RULE@LAYER # REASON on the command line, reason = in convsmith-lint.toml.",
)
def suppression_without_reason(net: Subject) -> Sites:
    """A suppression without a reason."""
    yield from ()


@rule(
    "S902",
    "note",
    what="A suppression that suppressed nothing, of a rule that was checked.",
    why="The problem is gone or the layer has another name; left in place it hides the next one.",
    example="3@8 > conv 4 3 nobias > bn",
    given="the option --ignore 'bias-before-batch-norm@conv1 # trained that way'",
    fine="3@8 > conv 4 3 > bn",
    remedy="Remove it, or correct the name of the layer.",
)
def unused_suppression(net: Subject) -> Sites:
    """A suppression that is not needed."""
    yield from ()
