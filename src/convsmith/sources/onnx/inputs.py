"""The sizes of a model's inputs: what the file says, and what the caller adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from convsmith.errors import DynamicSizeError, SourceError
from convsmith.graph import Input, Shape
from convsmith.sources.onnx.tensors import element_type

__all__ = ["resolve_inputs"]

_Size = int | str | None
"""A number, a symbol, or nothing at all."""


def resolve_inputs(
    values: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Shape] | Shape | None
) -> tuple[Input, ...]:
    """Returns the inputs with all sizes known.

    A batch size that alone is dynamic becomes 1. A symbol that one input binds to a number has
    that number in every input.

    Args:
        values: The inputs as the file declares them.
        shapes: Shapes by name, or one shape for the one input that needs it.

    Raises:
        SourceError: If a size stays open, or contradicts the file.
    """
    declared = {value.name: _declared(value) for value in values}
    given = _by_name(declared, shapes)
    bound: dict[str, int] = {}
    for name, shape in given.items():
        _bind(name, declared[name], shape, bound)
    return tuple(
        Input(
            name=value.name,
            shape=_resolve(value.name, declared[value.name], given.get(value.name), bound),
            dtype=element_type(value.type.tensor_type.elem_type),
        )
        for value in values
    )


def _declared(value: onnx.ValueInfoProto) -> list[_Size] | None:
    """The sizes in the file; ``None`` when not even the number of axes is there."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        found = (kind or "nothing known").removesuffix("_type").replace("_", " ")
        raise SourceError(
            f"input {value.name!r} is a {found}, only tensors are supported",
            remedy="export the model with tensor inputs",
        )
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    sizes: list[_Size] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            sizes.append(dim.dim_value)
        else:
            sizes.append(dim.dim_param if isinstance(dim.dim_param, str) else None)
    return [size or None if isinstance(size, str) else size for size in sizes]


def _by_name(
    declared: Mapping[str, list[_Size] | None], shapes: Mapping[str, Shape] | Shape | None
) -> dict[str, Shape]:
    if shapes is None:
        return {}
    if isinstance(shapes, Mapping):
        for name in shapes:
            if name not in declared:
                raise SourceError(
                    f"the model has no input {name!r}", remedy=f"it has {_listed(declared)}"
                )
        return {name: tuple(shape) for name, shape in shapes.items()}
    names = list(declared)
    if len(names) > 1:
        names = [name for name, sizes in declared.items() if not _fixed(sizes)]
    if len(names) != 1:
        raise SourceError(
            f"one size is given, the model has {len(declared)} inputs ({_listed(declared)})",
            remedy="give the sizes by name",
        )
    return {names[0]: tuple(shapes)}


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "no inputs"


def _fixed(sizes: list[_Size] | None) -> bool:
    return sizes is not None and all(isinstance(size, int) for size in sizes)


def _text(sizes: Sequence[_Size]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in sizes)})"


def _bind(name: str, sizes: list[_Size] | None, shape: Shape, bound: dict[str, int]) -> None:
    if any(size < 1 for size in shape) and list(shape) != sizes:
        raise SourceError(f"size {_text(shape)} of input {name!r} must be positive")
    if sizes is None:
        return
    fits = len(sizes) == len(shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(sizes, shape, strict=True)
    )
    if not fits:
        raise SourceError(
            f"input {name!r} has size {_text(sizes)} in the file, not {_text(shape)}",
            remedy="give a size that fits"
            if not _fixed(sizes)
            else "leave the size out, or export the model with dynamic sizes",
        )
    for size, number in zip(sizes, shape, strict=True):
        if isinstance(size, str) and bound.setdefault(size, number) != number:
            raise SourceError(f"{size!r} is both {bound[size]} and {number} in the given sizes")


def _resolve(
    name: str, sizes: list[_Size] | None, given: Shape | None, bound: Mapping[str, int]
) -> Shape:
    if given is not None:
        return given
    if sizes is None:
        raise SourceError(
            f"input {name!r} has no size in the file", remedy="give one, as in --input 1,3,224,224"
        )
    known = [bound.get(size, size) if isinstance(size, str) else size for size in sizes]
    if len(known) >= 2 and not isinstance(known[0], int):
        known[0] = 1 if all(isinstance(size, int) for size in known[1:]) else known[0]
    shape = tuple(size for size in known if isinstance(size, int))
    if len(shape) == len(known):
        return shape
    guess = [size if isinstance(size, int) else 224 for size in known]
    if len(guess) > 1 and not isinstance(known[0], int):
        guess[0] = 1
    raise DynamicSizeError(
        f"input {name!r} has dynamic size {_text(sizes)}",
        shapes={name: tuple(size if isinstance(size, int) else None for size in known)},
        remedy=f"give --input {','.join(map(str, guess))}",
    )
