"""Two plans of one network side by side: where they choose otherwise, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from convsmith.errors import PlanError
from convsmith.results import Result
from convsmith.rewrite.merging import Merge
from convsmith.rewrite.plan import Choice, Plan

__all__ = ["PlanChange", "PlanDifference", "compare_plans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """One layer that the plans treat differently; ``None``: a plan does not mention it."""

    layer: str
    old: Choice | None
    new: Choice | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the change as JSON-ready data."""
        return {"layer": self.layer, "old": _data(self.old), "new": _data(self.new)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDifference(Result):
    """What changed from one plan to another.

    Attributes:
        old: One plan.
        new: The other one.
        changes: The layers with another form, variant, widths or text, in the new plan's order;
            those that only the old plan mentions come last.
        refitted: Layers with the same choice, but fitted to another error.
        same: How many layers are the same.
        merges: What only one of them merges first: the old plan, the new plan.
    """

    old: Plan
    new: Plan
    changes: tuple[PlanChange, ...]
    refitted: tuple[PlanChange, ...]
    same: int
    merges: tuple[tuple[Merge, ...], tuple[Merge, ...]] = ((), ())

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates of what stands for the layers, in both plans."""
        old, new = (sum(c.macs_after for c in plan.choices) for plan in (self.old, self.new))
        return old, new

    def to_dict(self) -> dict[str, Any]:
        """Returns the difference as JSON-ready data, schema ``convsmith.plan-diff/1``."""
        old, new = self.macs
        return {
            "schema": "convsmith.plan-diff/1",
            "old": {"source": self.old.source, "budget": dict(self.old.budget), "macs": old},
            "new": {"source": self.new.source, "budget": dict(self.new.budget), "macs": new},
            "changes": [change.to_dict() for change in self.changes],
            "refitted": [change.to_dict() for change in self.refitted],
            "same": self.same,
            "merges": {
                side: [
                    {"kind": step.kind, "layers": list(step.layers), "into": step.into}
                    for step in merges
                ]
                for side, merges in zip(("old", "new"), self.merges, strict=True)
            },
        }


def _data(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {
        "form": choice.form,
        "variant": choice.variant,
        "widths": list(choice.widths),
        "text": choice.text,
        "macs_after": choice.macs_after,
        "error": choice.error,
    }


def compare_plans(old: Plan, new: Plan) -> PlanDifference:
    """Finds the layers that two plans treat differently.

    Where they do not merge the same first, a layer of one name may have other weights in them.

    Raises:
        PlanError: If they share no layer, or one of other weights: they are of two networks.

    >>> plan = Plan(source="", budget={"macs": 0.5}, choices=())
    >>> compare_plans(plan, plan).same
    0
    """
    before = {choice.layer: choice for choice in old.choices}
    after = {choice.layer: choice for choice in new.choices}
    if before and after and not before.keys() & after.keys():
        raise PlanError(
            "these plans have no layer in common", remedy="compare two plans of one network"
        )
    merges = _only(old.merges, new.merges), _only(new.merges, old.merges)
    for name in before.keys() & after.keys():
        if before[name].shape != after[name].shape and merges == ((), ()):
            raise PlanError(
                f"its weights have shape {before[name].shape} in one plan and"
                f" {after[name].shape} in the other",
                place=name,
                remedy="compare two plans of one network",
            )
    names = [*after, *(name for name in before if name not in after)]
    pairs = [PlanChange(layer=n, old=before.get(n), new=after.get(n)) for n in names]
    kinds = [_kind(pair) for pair in pairs]
    return PlanDifference(
        old=old,
        new=new,
        changes=tuple(p for p, kind in zip(pairs, kinds, strict=True) if kind == "changed"),
        refitted=tuple(p for p, kind in zip(pairs, kinds, strict=True) if kind == "refitted"),
        same=kinds.count("same"),
        merges=merges,
    )


def _only(some: Iterable[Merge], others: Iterable[Merge]) -> tuple[Merge, ...]:
    """The merges that are not among the others."""
    known = {(step.kind, step.layers, step.into) for step in others}
    return tuple(step for step in some if (step.kind, step.layers, step.into) not in known)


def _kind(pair: PlanChange) -> str:
    one, two = pair.old, pair.new
    if one is None or two is None:
        return "changed"
    ways = [(c.shape, c.form, c.variant, c.widths, c.text) for c in (one, two)]
    if ways[0] != ways[1]:
        return "changed"
    return "same" if one.error == two.error else "refitted"
