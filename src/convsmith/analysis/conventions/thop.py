"""ultralytics-thop 2.2.3: hooks on modules, and on matrix products called as functions.

Normalizations count 4 per element (2 without scale and shift), average pooling every element
of its windows and one division per output.
"""

from __future__ import annotations

import math

from convsmith.analysis.conventions.call import Call, Part, Rules, modules, per_element
from convsmith.analysis.conventions.products import CONVOLUTIONS, TRANSPOSED, exact
from convsmith.graph.operators import Pool, Softmax
from convsmith.graph.shape import resolve_padding

__all__ = ["RULES"]


def _windows(call: Call) -> tuple[Part, ...]:
    op = call.op
    if not isinstance(op, Pool):
        return ()
    inside = 1
    for size, count, kernel, stride, (low, high) in zip(
        call.inputs[0][2:],
        call.output[2:],
        op.kernel,
        op.stride,
        resolve_padding(op, call.inputs[0][2:]),
        strict=True,
    ):
        first, last = (-low, size + high) if op.count_padding else (0, size)
        starts = (index * stride - low for index in range(count))
        inside *= sum(max(min(at + kernel, last) - max(at, first), 0) for at in starts)
    amount = math.prod(call.output[:2]) * inside + call.outputs
    return (Part(reason="pool-windows", amount=amount),)


def _adaptive_windows(call: Call) -> tuple[Part, ...]:
    inside = math.prod(
        size + count - math.gcd(size, count)
        for size, count in zip(call.inputs[0][2:], call.output[2:], strict=True)
    )
    amount = math.prod(call.output[:2]) * inside + call.outputs
    return (Part(reason="pool-windows", amount=amount),)


def _softmax(call: Call) -> tuple[Part, ...]:
    if not isinstance(call.op, Softmax) or not call.outputs:
        return ()
    sets = call.outputs // call.output[call.op.axis]
    amount = 3 * call.outputs - sets + call.op.log * sets
    return (Part(reason="softmax-sets", amount=amount),)


def _upsampling(per: int) -> Rules:
    rule = modules(per_element("interpolation", per))
    names = {5: ("linear1d",), 11: ("bilinear2d",), 259: ("bicubic2d",), 31: ("trilinear3d",)}
    return {f"upsample_{name}": rule for name in names[per]}


_NORM = modules(per_element("norm", 4, plain=2))

RULES: Rules = {
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED), modules(exact)),
    **dict.fromkeys(("linear", "matmul", "bmm", "einsum"), exact),
    **dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "layer_norm"), _NORM),
    "prelu": modules(per_element("activation", 1)),
    "softmax": modules(_softmax),
    "log_softmax": modules(_softmax),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), modules(_windows)),
    **dict.fromkeys((f"adaptive_avg_pool{n}d" for n in (1, 2, 3)), modules(_adaptive_windows)),
    **{name: rule for per in (5, 11, 31, 259) for name, rule in _upsampling(per).items()},
}
