"""fvcore 0.1.5.post20221221: a table over the operators of a traced graph.

It counts multiply-accumulates and calls them flops. Normalizations count 2 per element when
their statistics are stored and 5 (4 without scale and shift) when they are computed; adaptive
average pooling counts its input, nearest and bilinear upsampling their output.
"""

from __future__ import annotations

from convsmith.analysis.conventions.call import Rules, per_element
from convsmith.analysis.conventions.products import CONVOLUTIONS, TRANSPOSED, exact, unpadded

__all__ = ["RULES"]

_STATISTICS = per_element("norm", 5, plain=4)

RULES: Rules = {
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED), unpadded(exact)),
    **dict.fromkeys(("linear", "matmul", "addmm", "bmm", "mm", "einsum"), exact),
    "batch_norm": per_element("norm", 2, plain=1),
    "instance_norm": _STATISTICS,
    "group_norm": _STATISTICS,
    "layer_norm": _STATISTICS,
    "adaptive_avg_pool2d": per_element("pool-inputs", 1, of="elements"),
    "upsample_nearest2d": per_element("interpolation", 1),
    "upsample_bilinear2d": per_element("interpolation", 4),
    "grid_sampler": per_element("interpolation", 4),
}
