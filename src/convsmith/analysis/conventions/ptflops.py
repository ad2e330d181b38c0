"""ptflops 0.7.5, both backends; a bias counts as a multiply-accumulate.

``pytorch``, the default, looks at modules and at a list of functions, and meets many modules
twice: as a module, and as the function inside it. It sees neither ``F.linear`` and functional
convolutions nor Python's operators (``@``, ``*``, ``+``). What modules count is divided by the
batch. ``aten`` counts convolutions and matrix products wherever they happen.
"""

from __future__ import annotations

import math

from convsmith.analysis.conventions.call import (
    INTERPOLATIONS,
    Call,
    Part,
    Rule,
    Rules,
    modules,
    per_element,
)
from convsmith.analysis.conventions.products import (
    CONVOLUTIONS,
    TRANSPOSED,
    biases,
    exact,
    response_norm,
    unseen,
)

__all__ = ["ATEN", "PYTORCH"]


def _seen(reason: str, module: int, function: int, *, of: str = "outputs") -> Rule:
    """So much per element as a module, and so much as a function, which the batch stays in."""

    def rule(call: Call) -> tuple[Part, ...]:
        count = getattr(call, of)
        images = _images(call)
        if not call.module:
            return (Part(reason=reason, amount=function * count, per=function),) if function else ()
        own = module * count
        parts = [Part(reason=reason, amount=own, per=module + function)] if own else []
        if function:
            parts.append(Part(reason=reason, amount=function * count, per=module + function))
        return (*parts, *_one_image(own, images))

    return rule


def _images(call: Call) -> int:
    first = call.graph.inputs[0].shape if call.graph.inputs else ()
    return max(first[0], 1) if first else 1


def _one_image(amount: int, images: int) -> tuple[Part, ...]:
    less = amount // images - amount
    return (Part(reason="per-image", amount=less),) if less else ()


def _of_one_image(rule: Rule) -> Rule:
    def divided(call: Call) -> tuple[Part, ...]:
        parts = tuple(rule(call))
        return (*parts, *_one_image(sum(part.amount for part in parts), _images(call)))

    return modules(divided)


def _upsampling(call: Call) -> tuple[Part, ...]:
    """The module counts the first image of the batch only, and divides by the batch again."""
    twice = Part(reason="interpolation", amount=call.outputs, per=2)
    if not call.module:
        return (Part(reason="interpolation", amount=call.outputs, per=1),)
    images = _images(call)
    counted = math.prod(call.output[1:]) // images
    less = counted - call.outputs
    return (twice, twice, *((Part(reason="per-image", amount=less),) if less else ()))


def _response_norm(call: Call) -> tuple[Part, ...]:
    return (Part(reason="norm-functions", amount=response_norm(call)),)


_TWICE = _seen("activation", 1, 1)
_POOL = _seen("pool-inputs", 1, 1, of="elements")
_ONCE = _of_one_image(per_element("norm", 1))

PYTORCH: Rules = {
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED, "linear"), _of_one_image(biases)),
    **dict.fromkeys(("bmm", "mm", "addmm", "baddbmm"), exact),
    "matmul": unseen("operator"),
    "batch_norm": _of_one_image(per_element("norm", 2, plain=1)),
    "instance_norm": _of_one_image(per_element("norm", 2, plain=1)),
    "group_norm": _of_one_image(per_element("norm", 2, plain=1)),
    "layer_norm": _ONCE,
    "local_response_norm": _response_norm,
    "relu": _TWICE,
    "prelu": _TWICE,
    "elu": _TWICE,
    "gelu": _TWICE,
    "hardtanh": _seen("activation", 1, 0),
    "leaky_relu": _seen("activation", 1, 0),
    "silu": _seen("activation", 0, 1),
    "softmax": _seen("softmax", 0, 1),
    **{
        f"{kind}_pool{rank}d": _POOL
        for kind in ("max", "avg", "adaptive_max", "adaptive_avg")
        for rank in (1, 2, 3)
    },
    **dict.fromkeys(INTERPOLATIONS, _upsampling),
}

ATEN: Rules = {
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED, "linear"), biases),
    **dict.fromkeys(("matmul", "mm", "bmm", "addmm"), exact),
}
