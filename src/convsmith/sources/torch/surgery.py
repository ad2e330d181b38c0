"""Puts chains of plain layers where a module has one, ready to run and to train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from convsmith.errors import PlanError
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Linear, Padding
from convsmith.graph.shape import resolve_padding
from convsmith.sources.torch.twin import HOOK_TABLES, computes_a_weight, plain_attributes, unwrap

__all__ = ["replace_modules"]

_Plain = nn.Conv1d | nn.Conv2d | nn.Conv3d
_Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_Replaceable = _Plain | _Transposed | nn.Linear
_CLASSES: dict[int, type[_Plain]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[_Transposed]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
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
    """Returns a module in which chains of layers stand for single ones.

    The new layers have the type, device, mode and ``requires_grad`` of the one they replace,
    and its hooks see the input and the output of the chain. A layer that stands at two
    paths is replaced once, at both. Borders that it pads other than with zeros still are.

    Args:
        module: The module; left as it is, unless ``inplace``.
        replacements: The chain for each module path.
        inplace: Change ``module`` itself.

    Raises:
        PlanError: If a path does not lead to a convolution or a linear layer, or the chain does
            not fit it.

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
                f"it is the same layer as {first!r}, but has another replacement",
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


def _find(module: nn.Module, path: str) -> _Replaceable:
    try:
        found = module.get_submodule(path)
    except AttributeError:
        raise PlanError(
            f"{type(module).__name__} has no module of this path",
            place=path,
            remedy="apply the plan to the module that it was made for",
        ) from None
    if not isinstance(found, _Replaceable):
        raise PlanError(
            f"it is a {type(found).__name__}, not a convolution or a linear layer",
            place=path,
            remedy="apply the plan to the module that it was made for",
        )
    return found


def _check(layer: _Replaceable, path: str, steps: Sequence[ConvStep]) -> None:
    if not steps:
        raise PlanError("its replacement has no layer", place=path, remedy="give at least one")
    channels, outs_wanted, wanted_stride = _sizes(layer)
    rank = len(wanted_stride)
    for number, step in enumerate(steps, 1):
        op = step.op
        wanted = _stored_shape(op, rank, channels)
        if step.weight.shape != wanted:
            raise PlanError(
                f"step {number} has a weight of shape {step.weight.shape}, the layer needs"
                f" {wanted or f'{rank} spatial axes and groups that divide {channels} channels'}",
                place=path,
                remedy="make the plan again for this module",
            )
        outs = op.channels
        if op.bias != (step.bias is not None) or (
            step.bias is not None and step.bias.shape != (outs,)
        ):
            raise PlanError(
                f"step {number} has a bias that does not fit its {outs} channels",
                place=path,
                remedy="make the plan again for this module",
            )
        if isinstance(op, Conv) and not _torch_knows(op):
            raise PlanError(
                f"step {number} is a convolution that torch has no plain module for",
                place=path,
                remedy="use floor rounding and explicit padding",
            )
        channels = outs
    strides = [step.op.stride for step in steps if isinstance(step.op, Conv)]
    stride = tuple(int(along) for along in np.prod(strides, axis=0)) if strides else ()
    if channels != outs_wanted or stride != wanted_stride:
        raise PlanError(
            f"the replacement makes {channels} channels with stride {stride}, the layer"
            f" {outs_wanted} with stride {wanted_stride}",
            place=path,
            remedy="make the plan again for this module",
        )


def _sizes(layer: _Replaceable) -> tuple[int, int, tuple[int, ...]]:
    """Input and output channels of a layer, and its stride per axis; no axes if it is linear."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features, ()
    return layer.in_channels, layer.out_channels, tuple(layer.stride)


def _stored_shape(op: Conv | Linear, rank: int, channels: int) -> tuple[int, ...] | None:
    """The shape of a layer's weight for so many input channels; ``None`` if it fits nothing."""
    if isinstance(op, Linear):
        return (op.features, channels) if rank == 0 else None
    if len(op.kernel) != rank or channels % op.groups or op.channels % op.groups:
        return None
    if op.transposed:
        return (channels, op.channels // op.groups, *op.kernel)
    return (op.channels, channels // op.groups, *op.kernel)


def _torch_knows(op: Conv) -> bool:
    """Whether torch has a module for it, with a module that pads in front."""
    if op.transposed:
        even = all(low == high for low, high in op.padding)
        return even and op.same is None and op.rounding == "floor"
    return op.rounding == "floor" and (op.same is None or set(op.stride) == {1})


def _equal(one: Sequence[ConvStep], other: Sequence[ConvStep]) -> bool:
    if one is other:
        return True
    return len(one) == len(other) and all(
        (a.op, a.rectified) == (b.op, b.rectified)
        and np.array_equal(a.weight, b.weight)
        and (a.bias is b.bias or np.array_equal(a.bias, b.bias))  # type: ignore[arg-type]
        for a, b in zip(one, other, strict=True)
    )


def _check_reachable(module: nn.Module, chains: Mapping[int, tuple[str, object]]) -> None:
    """Refuses a layer that the module also keeps where it would not be replaced."""
    for parent in module.modules():
        for name, value in plain_attributes(parent):
            if id(value) in chains:
                raise PlanError(
                    f"{type(parent).__name__} also keeps it in the plain attribute {name!r}",
                    place=chains[id(value)][0],
                    remedy="use nn.ModuleList or nn.ModuleDict there",
                )


def _chain(layer: _Replaceable, steps: Sequence[ConvStep]) -> nn.Sequential:
    layers: list[nn.Module] = []
    if isinstance(layer, _Plain) and layer.padding_mode != "zeros":
        pad = _PADS[layer.padding_mode][len(layer.kernel_size) - 1]
        layers.append(pad(tuple(layer._reversed_padding_repeated_twice)))
    for step in steps:
        layers += _layers(layer, step)
    chain = nn.Sequential(*layers)
    chain.train(layer.training)
    for table in HOOK_TABLES:
        hooks = layer.__dict__[table]
        chain.__dict__[table].update(
            (key, hook) for key, hook in hooks.items() if _follows(table, hook)
        )
    return chain


def _follows(table: str, hook: object) -> bool:
    """Whether a hook is about what the layer computes, not about how its weight is stored."""
    return "state_dict" not in table and not computes_a_weight(hook)


def _layers(old: _Replaceable, step: ConvStep) -> list[nn.Module]:
    """The modules of one step: the layer, and padding that it cannot do by itself."""
    op, layers = step.op, list[nn.Module]()
    made: nn.Module
    if isinstance(op, Linear):
        made = nn.Linear(step.weight.shape[1], op.features, bias=op.bias, device="meta")
    else:
        padding = _padding(op)
        lone = tuple(low for low, high in padding if low == high)
        if len(lone) < len(padding):
            sides = tuple(side for pair in reversed(padding) for side in pair)
            layers.append(_PADS["zeros"][len(op.kernel) - 1](sides))
            lone = (0,) * len(padding)
        options: dict[str, Any] = {
            "stride": op.stride,
            "padding": lone,
            "dilation": op.dilation,
            "groups": op.groups,
            "bias": op.bias,
            "device": "meta",  # spares the random weights, and the random state
        }
        rank = len(op.kernel)
        if op.transposed:
            options["output_padding"] = op.output_padding or (0,) * rank
            made = _TRANSPOSED[rank](len(step.weight), op.channels, op.kernel, **options)  # type: ignore[arg-type]
        else:
            ins = step.weight.shape[1] * op.groups
            made = _CLASSES[rank](ins, op.channels, op.kernel, **options)  # type: ignore[arg-type]
    made.weight = _parameter(step.weight, old.weight, old.weight.requires_grad)
    if step.bias is not None:
        trained = old.weight if old.bias is None else old.bias
        made.bias = _parameter(step.bias, old.weight, trained.requires_grad)
    return [*layers, made, nn.ReLU()] if step.rectified else [*layers, made]


def _padding(op: Conv) -> Padding:
    if op.same is None:
        return op.padding
    large = tuple(1 << 20 for _ in op.kernel)  # any size: the stride is 1
    return resolve_padding(op, large)


def _parameter(values: np.ndarray, like: torch.Tensor, requires_grad: bool) -> nn.Parameter:
    tensor = torch.from_numpy(np.array(values)).to(device=like.device, dtype=like.dtype)
    return nn.Parameter(tensor, requires_grad=requires_grad)
