"""torchscan 0.2.0: hooks on modules, biases left out.

Batch normalization counts 2 per element (1 without scale and shift). Pooling counts by its
window, and takes the window 3 of a ``MaxPool2d(3)`` for 3 elements instead of 9; windows of
adaptive pooling are guessed from the sizes.
"""

from __future__ import annotations

import math

from convsmith.analysis.conventions.call import Call, Part, Rules, modules, per_element
from convsmith.analysis.conventions.products import CONVOLUTIONS, TRANSPOSED, exact
from convsmith.graph.operators import Conv, Pool

__all__ = ["RULES"]


def _transposed(call: Call) -> tuple[Part, ...]:
    if not isinstance(call.op, Conv):
        return ()
    each = call.inputs[0][1] // call.op.groups * math.prod(call.op.kernel)
    return (
        Part(reason="products", amount=call.outputs * each, why="transposed"),
        Part(reason="setup", amount=4 * len(call.op.kernel)),
    )


def _pool(call: Call) -> tuple[Part, ...]:
    if not isinstance(call.op, Pool):
        return ()
    kernel = call.op.kernel
    single = len(set(kernel)) == 1 and not (call.op.kind == "average" and len(kernel) == 1)
    window = kernel[0] if single else math.prod(kernel)
    divisions = len(kernel) if call.op.kind == "average" else 0
    return (Part(reason="pool-kernel", amount=call.outputs * (window - 1 + divisions)),)


def _adaptive(call: Call) -> tuple[Part, ...]:
    window = 1
    sizes = list(zip(call.inputs[0][2:], call.output[2:], strict=True))
    for size, count in sizes:
        if count:
            window *= size // count if size % count == 0 else size % count + 1
    divisions = len(sizes) if "avg" in call.function else 0
    return (Part(reason="pool-kernel", amount=call.outputs * (window - 1 + divisions)),)


RULES: Rules = {
    **dict.fromkeys((*CONVOLUTIONS, "linear"), modules(exact)),
    **dict.fromkeys(TRANSPOSED, modules(_transposed)),
    "batch_norm": modules(per_element("norm", 2, plain=1)),
    **{f"{kind}_pool{n}d": modules(_pool) for kind in ("max", "avg") for n in (1, 2, 3)},
    **{
        f"adaptive_{kind}_pool{n}d": modules(_adaptive)
        for kind in ("max", "avg")
        for n in (1, 2, 3)
    },
}
