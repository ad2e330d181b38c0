"""The arguments of aten operators: nested lists and tuples with tensors in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch

__all__ = ["bind", "on_device", "replace_tensors", "tensors_in", "written_tensors"]


@cache
def _signature(func: torch._ops.OpOverload) -> tuple[tuple[str, Any, bool], ...]:
    """Per argument: its name, its default, and whether the call writes into it."""
    return tuple(
        (
            argument.name,
            argument.default_value,
            argument.alias_info is not None and argument.alias_info.is_write,
        )
        for argument in func._schema.arguments
    )


def bind(
    func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the arguments of a call by their names in the schema, defaults filled in."""
    signature = _signature(func)
    bound = {name: argument for (name, _, _), argument in zip(signature, args, strict=False)}
    for name, default, _ in signature[len(args) :]:
        bound[name] = kwargs.get(name, default)
    return bound


def tensors_in(arguments: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(arguments, torch.Tensor):
        yield arguments
    elif isinstance(arguments, list | tuple):
        for item in arguments:
            if isinstance(item, torch.Tensor):
                yield item
            elif isinstance(item, list | tuple):
                yield from tensors_in(item)


def replace_tensors(result: Any, stand_ins: Mapping[int, torch.Tensor]) -> Any:
    """The same nest with other tensors in place of those with the given identities."""
    match result:
        case torch.Tensor():
            return stand_ins.get(id(result), result)
        case list() | tuple():
            return type(result)(replace_tensors(item, stand_ins) for item in result)
    return result


def written_tensors(
    func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    """The tensors that a call writes into."""
    written = [name for name, _, writes in _signature(func) if writes]
    if not written:
        return []
    bound = bind(func, args, kwargs)
    return [tensor for name in written for tensor in tensors_in(bound[name])]


def on_device(arguments: Any, device: torch.device) -> Any:
    """Arguments that ask for the meta device ask for a real one instead."""
    match arguments:
        case torch.device(type="meta"):
            return device
        case list() | tuple():
            return type(arguments)(on_device(item, device) for item in arguments)
        case Mapping():
            return {key: on_device(item, device) for key, item in arguments.items()}
    return arguments
