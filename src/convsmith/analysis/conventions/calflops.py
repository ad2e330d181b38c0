"""calflops 0.3.2: functions of torch that it replaces while the network runs.

It gives multiply-accumulates and floating-point operations; the latter are two per
multiply-accumulate, the additions of biases, and one per element of activations, softmax and
the inputs of pooling, two of batch normalization, five of other normalizations. Products of the
operator ``@`` are not seen, nor are Python's ``*`` and ``+``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from convsmith.analysis.conventions.call import INTERPOLATIONS, Call, Measure, Part, Rule, Rules
from convsmith.analysis.conventions.products import (
    CONVOLUTIONS,
    TRANSPOSED,
    response_norm,
    unseen,
)
from convsmith.graph.operators import Conv

__all__ = ["RULES", "RULES_MACS"]


def _twice(macs: int, why: str = "sizes") -> Iterator[Part]:
    yield Part(reason="products", amount=macs, why=why)
    yield Part(reason="two-operations", amount=macs, measure="add")


def _bias(amount: int) -> Iterator[Part]:
    if amount:
        yield Part(reason="bias-add", amount=amount, measure="add")


def _conv(call: Call) -> Iterator[Part]:
    """``padding="same"`` pads half of the total on both sides, rounded down."""
    op = call.op
    if not isinstance(op, Conv):
        return
    count = call.output[0]
    for size, at, kernel, stride, dilation in zip(
        call.inputs[0][2:], call.output[2:], op.kernel, op.stride, op.dilation, strict=True
    ):
        total = dilation * (kernel - 1)
        count *= at if op.same is None else (size + 2 * (total // 2) - total - 1) // stride + 1
    macs = count * op.channels * (call.inputs[0][1] // op.groups) * math.prod(op.kernel)
    yield from _twice(macs, "half-padding")
    yield from _bias(count * op.channels * op.bias)


def _transposed(call: Call) -> Iterator[Part]:
    """Divides by the groups twice; biases are counted for the outputs of an ordinary one."""
    op = call.op
    if not isinstance(op, Conv):
        return
    x = call.inputs[0]
    each = op.channels // op.groups
    macs = math.prod(x) * (each // op.groups) * math.prod(op.kernel)
    yield from _twice(macs, "groups")
    positions = math.prod(
        (size + 2 * low - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, dilation, (low, _) in zip(
            x[2:], op.kernel, op.stride, op.dilation, op.padding, strict=True
        )
    )
    yield from _bias(each * x[0] * positions * op.bias)


def _linear(call: Call) -> Iterator[Part]:
    yield from _twice(call.exact)


def _each(reason: str, per: int, *, plain: int | None = None) -> Rule:
    def rule(call: Call) -> tuple[Part, ...]:
        each = per if plain is None or call.affine else plain
        measure: Measure = "other"
        return (Part(reason=reason, amount=each * call.elements, per=each, measure=measure),)

    return rule


def _response_norm(call: Call) -> tuple[Part, ...]:
    """A square, an average over padded channels, a scale and a sum: functions that it replaces."""
    return (Part(reason="norm-functions", amount=response_norm(call), measure="other"),)


def _without_flops(rule: Rule) -> Rule:
    return lambda call: [part for part in rule(call) if part.reason == "products"]


_PRODUCTS: Rules = {
    **dict.fromkeys(CONVOLUTIONS, _conv),
    **dict.fromkeys(TRANSPOSED, _transposed),
    "linear": _linear,
    "addmm": _linear,
    "matmul": unseen("operator"),
}

RULES: Rules = {
    **_PRODUCTS,
    **dict.fromkeys(("relu", "prelu", "elu", "leaky_relu", "silu", "gelu"), _each("activation", 1)),
    "softmax": _each("softmax", 1),
    "local_response_norm": _response_norm,
    "batch_norm": _each("norm", 2, plain=1),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), _each("norm", 5, plain=4)),
    **{
        f"{kind}_pool{rank}d": _each("pool-inputs", 1)
        for kind in ("max", "avg", "adaptive_max", "adaptive_avg")
        for rank in (1, 2, 3)
    },
    **dict.fromkeys(INTERPOLATIONS, _each("interpolation", 1)),
}

RULES_MACS: Rules = {name: _without_flops(rule) for name, rule in _PRODUCTS.items()}
