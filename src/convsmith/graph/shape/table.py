"""The table itself, and what its rows share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from convsmith.errors import ShapeError, UnsupportedOperatorError
from convsmith.graph.operators import Operator

__all__ = ["Shape", "broadcast", "check_axis", "check_image", "infer_shapes", "times"]

Shape = tuple[int, ...]


@singledispatch
def infer_shapes(op: Operator, *inputs: Shape) -> tuple[Shape | None, ...]:
    """Returns the shape of every output; ``None`` where nobody can know it.

    Args:
        op: The operator.
        *inputs: The shapes of its inputs, batch and channels included.

    Raises:
        ShapeError: If the sizes do not fit; the message has no place yet.

    >>> from convsmith.graph.operators import Linear
    >>> infer_shapes(Linear(features=10), (5, 7, 3))
    ((5, 7, 10),)
    """
    raise UnsupportedOperatorError(f"no shape rule for {type(op).__name__}")


def times(sizes: Sequence[int]) -> str:
    """Sizes as people write them: ``3x224x224``."""
    return "x".join(map(str, sizes))


def check_image(op_name: str, shape: Shape, rank: int | None = None) -> None:
    """Raises ``ShapeError`` unless a shape has batch, channels and ``rank`` spatial axes."""
    if len(shape) < 3 or (rank is not None and len(shape) != rank + 2):
        wanted = f"(N, C, {rank} spatial axes)" if rank is not None else "(N, C, spatial ...)"
        raise ShapeError(
            f"{op_name} needs an input {wanted}, not shape {times(shape) or 'scalar'}",
            remedy="check the layers before it",
        )


def check_axis(axis: int, x: Shape) -> int:
    """Returns an axis counted from the front, or raises ``ShapeError``."""
    if not -len(x) <= axis < len(x):
        raise ShapeError(f"axis {axis} does not exist in shape {times(x) or 'scalar'}")
    return axis % len(x)


def broadcast(*shapes: Shape) -> Shape:
    """The shape that all the shapes broadcast to.

    >>> broadcast((3, 1, 5), (4, 1))
    (3, 4, 5)
    """
    if len(set(shapes)) == 1:
        return shapes[0]
    rank = max(map(len, shapes))
    result = []
    for column in zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True):
        sizes = {size for size in column if size != 1}
        if len(sizes) > 1:
            raise ShapeError(
                f"shapes {' and '.join(times(s) or 'scalar' for s in shapes)} do not broadcast",
                remedy="every axis must be equal or 1; check stride and padding of the branches",
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)
