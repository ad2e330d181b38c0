"""What planned modules have in common: weights that were packed for inputs of some sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor, nn

from convsmith.conv.spec import Activation

__all__ = ["Planned", "activated"]

_ACTIVATE = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hardswish": F.hardswish}
_KEPT = 8  # input sizes whose packed weights are kept


def activated(activation: Activation, y: Tensor) -> Tensor:
    """Returns an activation by torch's own operator."""
    return y if activation == "none" else _ACTIVATE[activation](y)


class Planned(nn.Module):
    """A layer whose weights are packed for the sizes of inputs that come.

    Args:
        weight: As torch stores it.
        bias: One number per filter, or nothing.
        in_channels: Of its inputs.
        activation: What is applied last.
        algorithm: ``auto``, ``exact`` or a name.
        tolerance: As in :func:`convsmith.conv2d`.
        tune: Whether to measure the candidates for a size that this machine has not measured.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        in_channels: int,
        activation: Activation,
        algorithm: str,
        tolerance: float,
        tune: bool,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.in_channels = in_channels
        self.kernel_size = tuple(weight.shape[2:])
        self.activation: Activation = activation
        self.algorithm, self.tolerance, self.tune = algorithm, tolerance, tune
        self.cold = False  # whether other layers take its weights' place in the caches
        self._prepared: dict[object, Any] = {}
        self._seen: tuple[object, ...] = ()

    def _plain(self, x: Tensor) -> bool:
        """Whether the input can be read as it lies, and nothing is recorded about it."""
        if x.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return False
        if x.device.type != "cpu" or type(x) is not Tensor or x.dim() != self.weight.dim():
            return False
        if x.shape[1] != self.in_channels or _watched():
            return False  # the operator says what is wrong, or is seen
        if torch.is_grad_enabled() and (
            x.requires_grad
            or self.weight.requires_grad
            or (self.bias is not None and self.bias.requires_grad)
        ):
            return False
        return x.is_contiguous() or x.permute(0, *range(2, x.dim()), 1).is_contiguous()

    def _packed(self, key: object, pack: Callable[[Any, Any], Any]) -> Any:
        """Returns what was packed for a size, packed again if the weights have changed.

        Args:
            key: The size, and what else decides.
            pack: Takes weights and bias as arrays.
        """
        weight, bias = self.weight, self.bias
        now = (weight, *_state_of(weight), bias, *_state_of(bias))
        if len(now) != len(self._seen) or any(
            a is not b and (isinstance(a, Tensor) or a != b)
            for a, b in zip(now, self._seen, strict=True)
        ):
            self._prepared, self._seen = {}, now
        found = self._prepared.get(key)
        if found is None:
            biases = None if bias is None else bias.detach().numpy()
            found = pack(weight.detach().contiguous().numpy(), biases)
            if len(self._prepared) >= _KEPT:
                self._prepared.pop(next(iter(self._prepared)), None)
            self._prepared[key] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what belongs to this process."""
        return {**self.__dict__, "_prepared": {}, "_seen": ()}


def _watched() -> bool:
    """Whether somebody looks at the operators: a trace, a dispatch mode, forward derivatives."""
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.autograd.forward_ad._current_level >= 0
    )


def _state_of(tensor: Tensor | None) -> tuple[int, int]:
    """Where a tensor lies and how often it was changed."""
    return (0, 0) if tensor is None else (tensor.data_ptr(), _version(tensor))


def _version(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.is_inference() else tensor._version
