"""torchprofile 0.1.0: a table over the operators of a traced graph.

Normalizations with scale and shift count 1 per element, average pooling, means and products of
two values 1 per output. A transposed convolution is counted like an ordinary one.
"""

from __future__ import annotations

import math

from convsmith.analysis.conventions.call import Call, Part, Rules, per_element
from convsmith.analysis.conventions.products import CONVOLUTIONS, TRANSPOSED, exact, unpadded
from convsmith.graph.operators import Conv

__all__ = ["RULES"]


def _transposed(call: Call) -> tuple[Part, ...]:
    """It tells the two kinds apart by whether the output has as many channels as the weight."""
    if not isinstance(call.op, Conv):
        return ()
    channels = call.inputs[0][1]
    if call.op.channels == channels:
        channels = call.op.channels // call.op.groups
    amount = call.outputs * channels * math.prod(call.op.kernel)
    return (Part(reason="products", amount=amount, why="transposed"),)


_NORM = per_element("norm", 1, plain=0)

RULES: Rules = {
    **dict.fromkeys(CONVOLUTIONS, unpadded(exact)),
    **dict.fromkeys(TRANSPOSED, _transposed),
    **dict.fromkeys(("linear", "matmul", "addmm", "addmv", "bmm", "baddbmm", "einsum"), exact),
    **dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "layer_norm"), _NORM),
    "local_response_norm": per_element("norm", 3),
    "mul": per_element("elementwise", 1),
    **{f"{kind}pool{n}d": per_element("pool-outputs", 1) for kind in ("avg_", "adaptive_avg_")
       for n in (1, 2, 3)},
    "mean": per_element("reduction", 1),
    "leaky_relu": per_element("activation", 1),
    "upsample_bilinear2d": per_element("interpolation", 4),
    "grid_sampler": per_element("interpolation", 4),
}  # fmt: skip
