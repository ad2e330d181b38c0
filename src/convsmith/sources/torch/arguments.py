"""The arguments of aten operators: nested lists and tuples with tensors in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

__all__ = ["bind", "on_device", "replace_tensors", "tensors_in", "written_tensors"]


def bind(
    func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the arguments of a call by their names in the schema, defaults filled in."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value
    return bound


def tensors_in(arguments: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested lists and tuples."""
    match arguments:
        case torch.Tensor():
            yield arguments
        case list() | tuple():
            for item in arguments:
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
    bound = bind(func, args, kwargs)
    return [
        tensor
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors_in(bound[argument.name])
    ]


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
