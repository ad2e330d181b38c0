"""Puts chains of plain convolutions where a module has one, ready to run and to train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from convsmith.errors import PlanError
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Padding
from convsmith.graph.shape import resolve_padding
from convsmith.sources.torch.twin import HOOK_TABLES, computes_a_weight, plain_attributes, unwrap

__all__ = ["replace_modules"]

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_CLASSES: dict[int, type[_Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_PADS: dict[str, tuple[Callable[[Any], nn.Module], ...]] = {
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
    "zeros": (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
}


def replace_modules(
    module: nn.Module,
    replacements: Mapping[str, Sequence[ConvStep]],
    *,
    inplace: bool = False,
) -> nn.Module:
    """Returns a module in which chains of convolutions stand for single ones.

    The new layers have the type, device, mode and ``requires_grad`` of the one they replace,
    and its hooks see the input and the output of the chain. A convolution that stands at two
    paths is replaced once, at both. Borders that it pads other than with zeros still are.

    Args:
        module: The module; left as it is, unless ``inplace``.
        replacements: The chain for each module path.
        inplace: Change ``module`` itself.

    Raises:
        PlanError: If a path does not lead to a plain convolution, or the chain does not fit it.

    >>> step = dict(kernel=(1,), stride=(1,), padding=((0, 0),), dilation=(1,), bias=False)
    >>> narrow = ConvStep(op=Conv(channels=1, **step), weight=np.ones((1, 2, 1)))
    >>> widen = ConvStep(op=Conv(channels=4, **step), weight=np.ones((4, 1, 1)))
    >>> replace_modules(nn.Sequential(nn.Conv1d(2, 4, 1)), {"0": [narrow, widen]})
    Sequential(
      (0): Sequential(
        (0): Conv1d(2, 1, kernel_size=(1,), stride=(1,), bias=False)
        (1): Conv1d(1, 4, kernel_size=(1,), stride=(1,), bias=False)
      )
    )
    """
    chains: dict[int, tuple[str, Sequence[ConvStep]]] = {}
    for path, steps in replacements.items():
        conv = _find(unwrap(module), path)
        _check(conv, path, steps)
        first, known = chains.setdefault(id(conv), (path, steps))
        if not _equal(known, steps):
            raise PlanError(
                f"it is the same convolution as {first!r}, but has another replacement",
                place=path,
                remedy="give one of them",
            )
    _check_reachable(unwrap(module), chains)
    result = module if inplace else copy.deepcopy(module)
    inner = unwrap(result)
    made: dict[int, nn.Module] = {}
    for path, steps in chains.values():
        conv = _find(inner, path)
        made[id(conv)] = _chain(conv, steps)
    if id(inner) in made:
        return made[id(inner)]
    for parent in list(inner.modules()):
        for name, child in parent._modules.items():
            if id(child) in made:
                parent._modules[name] = made[id(child)]
    return result


def _find(module: nn.Module, path: str) -> _Convolution:
    try:
        found = module.get_submodule(path)
    except AttributeError:
        raise PlanError(
            f"{type(module).__name__} has no module of this path",
            place=path,
            remedy="apply the plan to the module that it was made for",
        ) from None
    if not isinstance(found, _Convolution):
        raise PlanError(
            f"it is a {type(found).__name__}, not a Conv1d, Conv2d or Conv3d",
            place=path,
            remedy="apply the plan to the module that it was made for",
        )
    return found


def _check(conv: _Convolution, path: str, steps: Sequence[ConvStep]) -> None:
    if not steps:
        raise PlanError(
            "its replacement has no convolution", place=path, remedy="give at least one"
        )
    rank, channels = len(conv.kernel_size), conv.in_channels
    for number, step in enumerate(steps, 1):
        op = step.op
        fits = len(op.kernel) == rank and channels % op.groups == 0
        wanted = (op.channels, channels // op.groups, *op.kernel) if fits else None
        if step.weight.shape != wanted:
            raise PlanError(
                f"step {number} has a weight of shape {step.weight.shape}, the layer needs"
                f" {wanted or f'{rank} spatial axes and groups that divide {channels} channels'}",
                place=path,
                remedy="make the plan again for this module",
            )
        if op.bias != (step.bias is not None) or (
            step.bias is not None and step.bias.shape != (op.channels,)
        ):
            raise PlanError(
                f"step {number} has a bias that does not fit its {op.channels} channels",
                place=path,
                remedy="make the plan again for this module",
            )
        if op.transposed or op.rounding == "ceil" or (op.same and set(op.stride) != {1}):
            raise PlanError(
                f"step {number} is a convolution that torch has no plain module for",
                place=path,
                remedy="use floor rounding and explicit padding",
            )
        channels = op.channels
    stride = tuple(np.prod([step.op.stride for step in steps], axis=0).tolist())
    if channels != conv.out_channels or stride != tuple(conv.stride):
        raise PlanError(
            f"the replacement makes {channels} channels with stride {stride}, the layer"
            f" {conv.out_channels} with stride {tuple(conv.stride)}",
            place=path,
            remedy="make the plan again for this module",
        )


def _equal(one: Sequence[ConvStep], other: Sequence[ConvStep]) -> bool:
    if one is other:
        return True
    return len(one) == len(other) and all(
        a.op == b.op
        and np.array_equal(a.weight, b.weight)
        and (a.bias is b.bias or np.array_equal(a.bias, b.bias))  # type: ignore[arg-type]
        for a, b in zip(one, other, strict=True)
    )


def _check_reachable(module: nn.Module, chains: Mapping[int, tuple[str, object]]) -> None:
    """Refuses a convolution that the module also keeps where it would not be replaced."""
    for parent in module.modules():
        for name, value in plain_attributes(parent):
            if id(value) in chains:
                raise PlanError(
                    f"{type(parent).__name__} also keeps it in the plain attribute {name!r}",
                    place=chains[id(value)][0],
                    remedy="use nn.ModuleList or nn.ModuleDict there",
                )


def _chain(conv: _Convolution, steps: Sequence[ConvStep]) -> nn.Sequential:
    layers: list[nn.Module] = []
    if conv.padding_mode != "zeros":
        pad = _PADS[conv.padding_mode][len(conv.kernel_size) - 1]
        layers.append(pad(tuple(conv._reversed_padding_repeated_twice)))
    for step in steps:
        layers += _layers(conv, step)
    chain = nn.Sequential(*layers)
    chain.train(conv.training)
    for table in HOOK_TABLES:
        hooks = conv.__dict__[table]
        chain.__dict__[table].update(
            (key, hook) for key, hook in hooks.items() if _follows(table, hook)
        )
    return chain


def _follows(table: str, hook: object) -> bool:
    """Whether a hook is about what the layer computes, not about how its weight is stored."""
    return "state_dict" not in table and not computes_a_weight(hook)


def _layers(conv: _Convolution, step: ConvStep) -> list[nn.Module]:
    """The modules of one step: the convolution, and padding that it cannot do by itself."""
    op, layers = step.op, list[nn.Module]()
    padding = _padding(op)
    lone = tuple(low for low, high in padding if low == high)
    if len(lone) < len(padding):
        sides = tuple(side for pair in reversed(padding) for side in pair)
        layers.append(_PADS["zeros"][len(op.kernel) - 1](sides))
        lone = (0,) * len(padding)
    layer = _CLASSES[len(op.kernel)](
        step.weight.shape[1] * op.groups,
        op.channels,
        op.kernel,  # type: ignore[arg-type]
        stride=op.stride,  # type: ignore[arg-type]
        padding=lone,  # type: ignore[arg-type]
        dilation=op.dilation,  # type: ignore[arg-type]
        groups=op.groups,
        bias=op.bias,
        device="meta",  # spares the random weights, and the random state
    )
    layer.weight = _parameter(step.weight, conv.weight, conv.weight.requires_grad)
    if step.bias is not None:
        trained = conv.weight if conv.bias is None else conv.bias
        layer.bias = _parameter(step.bias, conv.weight, trained.requires_grad)
    return [*layers, layer]


def _padding(op: Conv) -> Padding:
    if op.same is None:
        return op.padding
    large = tuple(1 << 20 for _ in op.kernel)  # any size: the stride is 1
    return resolve_padding(op, large)


def _parameter(values: np.ndarray, like: torch.Tensor, requires_grad: bool) -> nn.Parameter:
    tensor = torch.from_numpy(np.array(values)).to(device=like.device, dtype=like.dtype)
    return nn.Parameter(tensor, requires_grad=requires_grad)
