"""What a module is called with and what it returns, matched with names."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from convsmith.errors import SourceError, UsageError
from convsmith.sources.input_sizes import read_sizes

__all__ = ["Arguments", "named_tensors", "read_arguments"]

_REMEDY = "such as input=(1, 3, 224, 224), or example tensors"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The arguments of one call, on the meta device.

    Attributes:
        positional: In order.
        keywords: By name.
        tensors: Every tensor among them, by the name that it has as an input of the network.
    """

    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]
    tensors: tuple[tuple[str, torch.Tensor], ...]


def read_arguments(module: nn.Module, given: object) -> Arguments:
    """Returns the arguments for ``module.forward`` that shapes or example tensors stand for.

    Raises:
        UsageError: If there are none, or ``forward`` has no parameter of that name or number.
    """
    if given is None:
        raise UsageError(
            "a torch module does not know the size of its input",
            place=type(module).__name__,
            remedy=f"give it, {_REMEDY}",
        )
    positional: Sequence[Any] = ()
    keywords: Mapping[str, Any] = {}
    dtype = _floating_type(module)
    if _holds_tensors(given):
        match given:
            case Mapping():
                keywords = {str(key): _to_meta(value) for key, value in given.items()}
            case list() | tuple():
                positional = [_to_meta(value) for value in given]
            case _:
                positional = [_to_meta(given)]
    else:
        sizes = read_sizes(given)
        if isinstance(sizes, Mapping):
            keywords = {name: _empty(shape, dtype) for name, shape in sizes.items()}
        else:
            positional = [_empty(shape, dtype) for shape in sizes or ()]
    names = _bind(module, positional, keywords)
    pairs = [*zip(names, positional, strict=True), *keywords.items()]
    tensors = tuple(pair for name, value in pairs for pair in named_tensors(value, name))
    return Arguments(positional=tuple(positional), keywords=keywords, tensors=tensors)


def _floating_type(module: nn.Module) -> torch.dtype:
    types = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(types, torch.float32)


def _holds_tensors(given: object) -> bool:
    match given:
        case torch.Tensor():
            return True
        case Mapping():
            return any(map(_holds_tensors, given.values()))
        case list() | tuple():
            return any(map(_holds_tensors, given))
    return False


def _empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    try:
        return torch.empty(tuple(shape), dtype=dtype, device="meta")
    except (RuntimeError, TypeError):
        sizes = ",".join(map(str, shape))
        raise SourceError(
            f"torch has no tensors as large as {sizes}", remedy="use a smaller input"
        ) from None


def _to_meta(value: Any) -> Any:
    match value:
        case torch.Tensor():
            return torch.empty_like(value.detach(), device="meta")
        case list():
            return [_to_meta(item) for item in value]
        case tuple() if type(value) is tuple:
            return tuple(_to_meta(item) for item in value)
        case dict():
            return {key: _to_meta(item) for key, item in value.items()}
    return value


def _bind(
    module: nn.Module, positional: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[str, ...]:
    """The parameter names of the positional arguments, once it is clear that all fit."""
    signature = inspect.signature(module.forward)
    try:
        signature.bind(*positional, **keywords)
    except TypeError as error:
        raise UsageError(
            f"forward{signature} does not take these inputs: {error}",
            place=type(module).__name__,
            remedy="give a shape or a tensor for each parameter without default",
        ) from None
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(len(positional) - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return tuple(names[: len(positional)])


def named_tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested containers, named by where it stands.

    A single tensor has the given name; those of a mapping or a dataclass have their keys, those
    of a sequence the name and a number (``output``, ``output_1``, ...).
    """
    yield from _named(value, name, top=True)


def _named(value: Any, name: str, *, top: bool) -> Iterator[tuple[str, torch.Tensor]]:
    match value:
        case torch.Tensor():
            yield name, value
        case Mapping():
            for key, item in value.items():
                yield from _named(item, str(key) if top else f"{name}_{key}", top=False)
        case tuple() if hasattr(value, "_fields"):
            for key in value._fields:
                yield from _named(getattr(value, key), key if top else f"{name}_{key}", top=False)
        case list() | tuple():
            for index, item in enumerate(_flat(value)):
                yield from _named(item, f"{name}_{index}" if index else name, top=False)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for item_field in dataclasses.fields(value):
                key = item_field.name if top else f"{name}_{item_field.name}"
                yield from _named(getattr(value, item_field.name), key, top=False)


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            yield from _flat(value)
        else:
            yield value
