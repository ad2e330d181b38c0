"""The rules of a table by class of operator, found sooner than singledispatch finds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from convsmith.graph.operators import Operator

__all__ = ["Rules"]

Made = TypeVar("Made")


class Rules(dict[type[Operator], Callable[..., Made]], Generic[Made]):
    """Remembers which function of a table is that of a class.

    Args:
        dispatch: The ``dispatch`` of a ``functools.singledispatch`` table, complete by now.

    >>> from convsmith.graph.operators import Linear
    >>> from convsmith.graph.shape import infer_shapes
    >>> Rules(infer_shapes.dispatch)[Linear](Linear(features=10), (5, 3))
    ((5, 10),)
    """

    def __init__(self, dispatch: Callable[[type[Operator]], Callable[..., Made]]) -> None:
        super().__init__()
        self._dispatch = dispatch

    def __missing__(self, kind: type[Operator]) -> Callable[..., Made]:
        rule = self[kind] = self._dispatch(kind)
        return rule
