"""Counters of what torch dispatches: FlopCounterMode of torch 2.13.0, and torchvision's.

Both count convolutions and matrix products, and nothing else. ``FlopCounterMode`` gives two
operations per multiply-accumulate; torchvision's published figures (``_ops`` of its weights,
in billions) are multiply-accumulates. Products with a single vector have no rule.
"""

from __future__ import annotations

from collections.abc import Iterator

from convsmith.analysis.conventions.call import Call, Part, Rules
from convsmith.analysis.conventions.products import (
    CONVOLUTIONS,
    MATRICES,
    TRANSPOSED,
    exact,
    unseen,
)
from convsmith.graph.operators import MatMul

__all__ = ["FLOP_COUNTER", "TORCHVISION"]


def _matrices(call: Call) -> tuple[Part, ...]:
    if isinstance(call.op, MatMul) and min(map(len, call.inputs)) < 2:
        return tuple(unseen("vectors")(call))
    return exact(call)


def _twice(call: Call) -> Iterator[Part]:
    for part in _matrices(call):
        yield part
        yield Part(reason="two-operations", amount=part.amount, measure="add")


_SEEN = (*CONVOLUTIONS, *TRANSPOSED, *MATRICES)

FLOP_COUNTER: Rules = dict.fromkeys(_SEEN, _twice)
TORCHVISION: Rules = dict.fromkeys((n for n in _SEEN if n != "baddbmm"), _matrices)
