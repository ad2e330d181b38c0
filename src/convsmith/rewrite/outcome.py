"""What a rewrite comes to: the network, the plan, the costs and the proof."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from convsmith.analysis import Total
from convsmith.graph import Graph
from convsmith.results import Result
from convsmith.rewrite.measuring import Timings, speedups
from convsmith.rewrite.plan import Plan
from convsmith.rewrite.verification import Verification

__all__ = ["Rewriting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting(Result):
    """A rewritten network, and what became of it.

    Attributes:
        original: The network before.
        net: The rewritten network.
        plan: What stands for which layer.
        before: Costs of the original.
        after: Costs of the rewritten network.
        verification: What was lost on the calibration samples; ``None`` without any.
        timings: Per runtime, how long both networks took, in turns: ``before`` and ``after``.
        notes: What the reader should know of how it was made.
    """

    original: Graph
    net: Graph
    plan: Plan
    before: Total
    after: Total
    verification: Verification | None
    timings: Timings = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def speedups(self) -> dict[str, float]:
        """How many times faster it is, per runtime: the median over interleaved pairs."""
        return speedups(self.timings)

    def to_dict(self) -> dict[str, Any]:
        """Returns the rewriting as JSON-ready data, schema ``convsmith.rewrite/1``."""
        metric = self.verification.metric if self.verification else None
        timed = next(iter(self.timings.values()), None)

        def side(total: Total, value: float | None, name: str) -> dict[str, Any]:
            return {
                "params": total.params,
                "macs": total.macs,
                "milliseconds": None if timed is None else timed[name].median,
                "metric": value,
            }

        return {
            "schema": "convsmith.rewrite/1",
            "plan": self.plan.to_dict(),
            "before": side(self.before, None if metric is None else metric.before, "before"),
            "after": side(self.after, None if metric is None else metric.after, "after"),
            "layers": [
                {
                    "name": choice.layer,
                    "form": choice.form,
                    "text": choice.text,
                    "macs_before": choice.macs_before,
                    "macs_after": choice.macs_after,
                    "error": choice.error,
                }
                for choice in self.plan.choices
            ],
            "milliseconds": {
                runtime: {name: timing.median for name, timing in both.items()}
                for runtime, both in self.timings.items()
            },
            "verification": self.verification and self.verification.to_dict(),
            "notes": list(self.notes),
        }
