"""A plan put into effect once more: with the weights that it was saved with."""

from __future__ import annotations

from collections.abc import Iterable

from convsmith.analysis import analyze
from convsmith.graph import Graph
from convsmith.rewrite.applying import apply
from convsmith.rewrite.forms import KEEP
from convsmith.rewrite.plan import Plan
from convsmith.rewrite.rewriting import Rewriting, timed

__all__ = ["has_weights", "reapply"]


def has_weights(plan: Plan) -> bool:
    """Whether a plan holds the weights of everything that it replaces."""
    return all(choice.chain or choice.form == KEEP for choice in plan.choices)


def reapply(plan: Plan, net: Graph, measure: Iterable[str] = ()) -> Rewriting:
    """Applies a plan with its own weights; nothing is fitted.

    Raises:
        PlanError: If it has no weights for a layer, or belongs to another network.

    >>> from convsmith.graph import parse
    >>> net = parse("3@8 > conv 4 3 p1")
    >>> reapply(Plan(source="", budget={"macs": 0.5}, choices=()), net).after.macs
    6912
    """
    made = apply(plan, net)
    result = Rewriting(
        original=net,
        net=made,
        plan=plan,
        before=analyze(net).total,
        after=analyze(made).total,
        verification=None,
    )
    return timed(result, measure)
