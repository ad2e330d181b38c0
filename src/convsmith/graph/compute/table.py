"""The table itself."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy.typing as npt

from convsmith.errors import UnsupportedOperatorError
from convsmith.graph.operators import Operator

__all__ = ["Array", "compute"]

Array = npt.NDArray[Any]


@singledispatch
def compute(op: Operator, *arrays: Array) -> Array | tuple[Array, ...]:
    """Computes one operator of its inputs and its parameters, whose shapes were checked.

    Raises:
        UnsupportedOperatorError: If there is no rule for it.
    """
    kind = getattr(op, "kind", type(op).__name__)
    raise UnsupportedOperatorError(
        f"operator {kind!r} cannot be computed", remedy="remove it or keep it out of the network"
    )
