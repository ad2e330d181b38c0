"""Chains of plain convolutions that stand for single ones: what every method comes down to.

Whatever format a method keeps its factors in, they are compared as the ``nn.Conv2d`` layers
that compute the same, so no method pays for how its library happens to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

__all__ = [
    "Chain",
    "Layer",
    "Step",
    "Unreachable",
    "channel_costs",
    "largest",
    "layers",
    "replaced",
    "spatial_costs",
    "tucker_cost",
    "uniform_ranks",
]

Array = npt.NDArray[Any]
Pair = tuple[int, int]


class Unreachable(Exception):  # noqa: N818 - a fact of a method, not a mistake
    """No setting of the method is as cheap as was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One convolution: weight ``(C_out, C_in, k_h, k_w)``, bias ``(C_out,)`` or none."""

    weight: Array
    bias: Array | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)

    def module(self) -> nn.Conv2d:
        """The same as a module, in float32."""
        outside, inside, *kernel = self.weight.shape
        made = nn.Conv2d(
            inside,
            outside,
            (kernel[0], kernel[1]),
            self.stride,
            self.padding,
            bias=self.bias is not None,
        )
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(self.weight))
            if self.bias is not None and made.bias is not None:
                made.bias.copy_(torch.from_numpy(self.bias))
        return made


Chain = tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A convolution of the network, with the height and width of what it is given and makes."""

    name: str
    weight: Array
    bias: Array | None
    stride: Pair
    padding: Pair
    given: Pair
    size: Pair

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.weight.size * self.size[0] * self.size[1]


def layers(module: nn.Module, shape: Sequence[int]) -> tuple[Layer, ...]:
    """The convolutions that have more than one tap, in execution order.

    Raises:
        ValueError: If one is grouped or dilated, which the methods beside convsmith do not take.
    """
    found: list[Layer] = []
    hooks = []
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d) and max(child.kernel_size) > 1:
            if child.groups != 1 or child.dilation != (1, 1):
                raise ValueError(f"{name}: grouped and dilated convolutions are not compared")

            def note(
                conv: nn.Module, x: tuple[torch.Tensor, ...], y: torch.Tensor, name: str = name
            ) -> None:
                assert isinstance(conv, nn.Conv2d)
                assert not isinstance(conv.padding, str)
                found.append(
                    Layer(
                        name=name,
                        weight=conv.weight.detach().double().numpy(),
                        bias=None if conv.bias is None else conv.bias.detach().double().numpy(),
                        stride=(conv.stride[0], conv.stride[1]),
                        padding=(conv.padding[0], conv.padding[1]),
                        given=(x[0].shape[2], x[0].shape[3]),
                        size=(y.shape[2], y.shape[3]),
                    )
                )

            hooks.append(child.register_forward_hook(note))
    with torch.no_grad():
        module(torch.zeros(*shape))
    for hook in hooks:
        hook.remove()
    return tuple(found)


def replaced(module: nn.Module, chains: Mapping[str, Chain]) -> nn.Module:
    """A copy of the network in which each chain stands for the layer of its name."""
    made = deepcopy(module)
    for name, chain in chains.items():
        parent, _, own = name.rpartition(".")
        sequence = nn.Sequential(*(step.module() for step in chain))
        setattr(made.get_submodule(parent), own, sequence)
    return made.eval()


def spatial_costs(layer: Layer) -> int:
    """Multiply-accumulates of ``k_h x 1`` then ``1 x k_w`` for every unit of rank."""
    outside, inside, height, width = layer.weight.shape
    between = layer.size[0] * layer.given[1]  # padding across comes with the second
    cost: int = between * inside * height + layer.size[0] * layer.size[1] * outside * width
    return cost


def channel_costs(layer: Layer) -> int:
    """Multiply-accumulates of ``k_h x k_w`` then ``1 x 1`` for every unit of rank."""
    outside, inside, height, width = layer.weight.shape
    cost: int = layer.size[0] * layer.size[1] * (inside * height * width + outside)
    return cost


def tucker_cost(layer: Layer, outer: int, inner: int) -> int:
    """Multiply-accumulates of ``1 x 1`` to ``inner``, ``k x k`` to ``outer``, ``1 x 1``."""
    outside, inside, height, width = layer.weight.shape
    positions = layer.size[0] * layer.size[1]
    first = layer.given[0] * layer.given[1] * inside * inner
    cost: int = first + positions * (inner * height * width * outer + outer * outside)
    return cost


def largest(cost: Callable[[float], float], budget: float, top: float = 1.0) -> float:
    """The largest setting in (0, top] whose cost, which grows with it, fits the budget.

    Raises:
        Unreachable: If none does.
    """
    if cost(top) <= budget:
        return top
    low, high = 0.0, top
    for _ in range(50):
        middle = (low + high) / 2
        if cost(middle) <= budget:
            low = middle
        else:
            high = middle
    if low == 0 or cost(low) > budget:
        raise Unreachable(f"even its cheapest setting costs more than {budget:.3g}")
    return low


def uniform_ranks(
    found: Sequence[Layer], per_rank: Callable[[Layer], int], share: float
) -> dict[str, int]:
    """The rank of each layer at one share of its multiplications; none where that saves nothing."""
    ranks = {}
    for layer in found:
        one = per_rank(layer)
        rank = max(1, round(share * layer.macs / one))
        if rank * one < layer.macs:
            ranks[layer.name] = rank
    return ranks
