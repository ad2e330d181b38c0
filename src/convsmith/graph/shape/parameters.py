"""The table of parameters: the shapes of the tensors that every operator has."""

from __future__ import annotations

from convsmith.graph.operators import Activation, Conv, DeformConv, Linear, Norm, Operator
from convsmith.graph.shape.table import Shape

__all__ = ["parameter_shapes"]


def parameter_shapes(op: Operator, *inputs: Shape) -> tuple[Shape, ...]:
    """Returns the shapes of the parameter tensors, in the order of ``roles(op)``.

    >>> from convsmith.graph.operators import Linear
    >>> parameter_shapes(Linear(features=10), (1, 4))
    ((10, 4), (10,))
    """
    x = inputs[0] if inputs else ()
    match op:
        case Conv(transposed=False) | DeformConv():
            weight: Shape = (op.channels, x[1] // op.groups, *op.kernel)
            return (weight, (op.channels,)) if op.bias else (weight,)
        case Conv():
            weight = (x[1], op.channels // op.groups, *op.kernel)
            return (weight, (op.channels,)) if op.bias else (weight,)
        case Linear():
            weight = (op.features, x[-1])
            return (weight, (op.features,)) if op.bias else (weight,)
        case Norm(kind="batch"):
            return ((x[1],),) * (4 if op.affine else 2)
        case Norm(kind="rms", affine=True):
            return (x[len(x) - op.axes :],)
        case Norm(kind="layer", affine=True):
            return (x[len(x) - op.axes :],) * 2
        case Norm(kind="instance" | "group", affine=True):
            return ((x[1],),) * 2
        case Activation(kind="prelu"):
            return ((x[1] if len(x) > 1 else 1,),)
    return ()
