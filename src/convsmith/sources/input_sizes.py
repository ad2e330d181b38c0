"""What a caller may say about the sizes of a network's inputs, and its normal form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from convsmith.errors import UsageError
from convsmith.graph import Graph, Shape

__all__ = ["Sizes", "name_sizes", "read_sizes", "resize_inputs"]

Sizes = tuple[Shape, ...] | Mapping[str, Shape]
"""One shape per input, in order or by name."""

_EXAMPLE = "such as 1,3,224,224"


def read_sizes(given: object) -> Sizes | None:
    """Returns what ``given`` says about input shapes, in order or by name.

    Args:
        given: Nothing, a shape, a sequence of shapes, a mapping from names to shapes, text such
            as ``"1,3,224,224"`` or ``"image=1,3,224,224;mask=1,1,224,224"``, or arrays and
            tensors in place of shapes.

    Raises:
        UsageError: If it is none of these.

    >>> read_sizes("1,3,224,224")
    ((1, 3, 224, 224),)
    >>> read_sizes("image=1,3,8,8;mask=1,1,8,8")
    {'image': (1, 3, 8, 8), 'mask': (1, 1, 8, 8)}
    """
    match given:
        case None:
            return None
        case str():
            return _read_text(given)
        case Mapping():
            return {str(name): _read_shape(shape) for name, shape in given.items()}
        case list() | tuple() if given and not all(_is_size(size) for size in given):
            return tuple(_read_shape(shape) for shape in given)
    return (_read_shape(given),)


def _read_text(text: str) -> Sizes:
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if not any("=" in part for part in parts):
        shapes = tuple(_read_shape_text(part) for part in parts)
        if not shapes:
            raise UsageError("the input size is empty", remedy=f"give numbers {_EXAMPLE}")
        return shapes
    named: dict[str, Shape] = {}
    for part in parts:
        name, equals, sizes = part.rpartition("=")
        if not equals or not name.strip():
            raise UsageError(
                f"the input size {part!r} has no name, others have",
                remedy="give all of them as name=1,3,224,224",
            )
        named[name.strip()] = _read_shape_text(sizes)
    return named


def _read_shape_text(text: str) -> Shape:
    words = re.split(r"\s*[,x]\s*", text.strip())
    if not all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
        raise UsageError(
            f"cannot read the input size {text.strip()!r}", remedy=f"give numbers {_EXAMPLE}"
        )
    return _read_shape([int(word) for word in words])


def _is_size(value: object) -> bool:
    return hasattr(value, "__index__") and not getattr(value, "shape", ())


def _read_shape(given: Any) -> Shape:
    sizes = getattr(given, "shape", given)
    if not isinstance(sizes, list | tuple) or not all(_is_size(size) for size in sizes):
        raise UsageError(
            f"cannot read an input size from {given!r}", remedy=f"give numbers {_EXAMPLE}"
        )
    shape = tuple(int(size) for size in sizes)
    if any(size < 1 for size in shape):
        raise UsageError(
            f"the input size {','.join(map(str, shape))} has a number below 1",
            remedy=f"give positive numbers {_EXAMPLE}",
        )
    return shape


def name_sizes(shapes: Sequence[Shape], names: Sequence[str]) -> dict[str, Shape]:
    """Gives each shape the name of its input.

    Raises:
        UsageError: If there are more of one than of the other.
    """
    if len(shapes) != len(names):
        raise UsageError(
            f"{len(shapes)} input sizes for {len(names)} inputs ({', '.join(names)})",
            remedy="give one for each, or name them: name=1,3,224,224",
        )
    return dict(zip(names, shapes, strict=True))


def resize_inputs(graph: Graph, sizes: Sizes | None) -> Graph:
    """Returns the network for inputs of these sizes.

    Raises:
        GraphError: If a name is not that of an input.
        ShapeError: If a layer does not accept the sizes; names the layer.
        UsageError: If there are more shapes than inputs, or one for several inputs.
    """
    if sizes is None:
        return graph
    if not isinstance(sizes, Mapping):
        sizes = name_sizes(sizes, [value.name for value in graph.inputs])
    resized = graph.with_inputs(sizes)
    _ = resized.shapes  # a size that does not fit is an error here, not at some later use
    return resized
