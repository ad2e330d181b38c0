"""What frequent operators return, without asking torch.

Torch finds the shape of a result on the meta device in Python, in up to half a millisecond per
call: most of the time that reading a network would take. For the operators below, the shape is
the one that the graph has anyway, and all else about the result is certain when every operand
is an ordinary tensor. Everything else, and whatever does not fit, is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["is_certain"]

Arguments = Mapping[str, Any]


def is_certain(
    name: str, overload: str, arguments: Arguments, tensors: Sequence[torch.Tensor]
) -> bool:
    """Whether a call returns one new, contiguous tensor of the type of its operands.

    Args:
        name: The operator's name, without overload and in-place mark.
        overload: The name of its overload.
        arguments: By their names in its schema.
        tensors: All tensors among them.
    """
    rule = _RULES.get(name)
    if rule is None or overload not in _OVERLOADS:
        return False
    dtype = tensors[0].dtype
    if not dtype.is_floating_point or arguments.get("dtype") is not None:
        return False
    for tensor in tensors:
        if tensor.dtype is not dtype or tensor.layout is not torch.strided:
            return False
        if not tensor.is_contiguous() or 0 in tensor.shape:
            return False
    return rule(arguments)


_OVERLOADS = frozenset(["", "default", "Tensor", "Scalar", "dim"])


def _always(arguments: Arguments) -> bool:
    return True


def _all(given: Any, least: int) -> bool:
    return min((given,) if isinstance(given, int) else given, default=least) >= least


def _convolution(arguments: Arguments) -> bool:
    x, weight, padding = arguments["input"], arguments["weight"], arguments["padding"]
    return (
        x.dim() == weight.dim()
        and not arguments.get("transposed", False)
        and not isinstance(padding, str)
        and _all(padding, 0)
        and _all(arguments["stride"], 1)
        and _all(arguments["dilation"], 1)
        and arguments["groups"] > 0
        and weight.shape[0] % arguments["groups"] == 0
    )


def _pooling(rank: int) -> Callable[[Arguments], bool]:
    def rule(arguments: Arguments) -> bool:
        kernel, padding = arguments["kernel_size"], arguments["padding"]
        return (
            arguments["self"].dim() == rank + 2
            and _all(kernel, 1)
            and _all(arguments["stride"], 1)
            and _all(padding, 0)
            and 2 * max((padding,) if isinstance(padding, int) else padding)
            <= min((kernel,) if isinstance(kernel, int) else kernel)
            and _all(arguments.get("dilation", 1), 1)
        )

    return rule


def _adaptive(rank: int) -> Callable[[Arguments], bool]:
    def rule(arguments: Arguments) -> bool:
        size = arguments["output_size"]
        return (
            arguments["self"].dim() == rank + 2
            and _all(size, 1)
            and (isinstance(size, int) or len(size) in (1, rank))
        )

    return rule


def _stored_statistics(arguments: Arguments) -> bool:
    return not arguments["training"] and arguments["running_mean"] is not None


def _linear(arguments: Arguments) -> bool:
    return bool(arguments["weight"].dim() == 2 and arguments["input"].dim() > 1)


def _pairs(arguments: Arguments) -> bool:
    one, other = arguments["self"], arguments["other"]
    if not isinstance(one, torch.Tensor) or arguments.get("alpha", 1) != 1:
        return False
    if not isinstance(other, torch.Tensor):
        return not isinstance(other, complex)
    return 0 < one.dim() == other.dim()


def _joined(arguments: Arguments) -> bool:
    parts = arguments["tensors"]
    return len(parts) > 1 and min(part.dim() for part in parts) > 1


_RULES: Mapping[str, Callable[[Arguments], bool]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **{f"max_pool{rank}d": _pooling(rank) for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d": _pooling(rank) for rank in (1, 2, 3)},
    **{f"adaptive_avg_pool{rank}d": _adaptive(rank) for rank in (1, 2, 3)},
    "batch_norm": _stored_statistics,
    "linear": _linear,
    "add": _pairs,
    "mul": _pairs,
    "cat": _joined,
    **dict.fromkeys(
        (
            "relu",
            "relu6",
            "hardtanh",
            "leaky_relu",
            "sigmoid",
            "hardsigmoid",
            "silu",
            "hardswish",
            "gelu",
            "tanh",
        ),
        _always,
    ),
}
