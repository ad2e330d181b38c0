"""The operators of a network, as data.

The grammar, which :mod:`convsmith.graph.printing` prints and :mod:`convsmith.graph.parsing` reads::

    network  ::= chain                                    one line: "3@32 > conv 8 3 p1 > relu"
               | line*                                    a listing, one value a line
    line     ::= NAME ":" shape [dtype]                   an input
               | NAME ":" ("parameter" | "constant") shape [dtype]
               | NAME* "=" operator ["{" role "=" NAME "}"] "(" NAME* ")"
               | "return" (NAME "=" NAME)*
    shape    ::= [N "x"] C "@" (H | H "x" W | D "x" H "x" W) | "<" INT* ">"
    chain    ::= shape (">" step)*
    step     ::= operator | "[" body ("|" body)* "]"       branches, concatenated over channels
               | "(" body ("+" body)* ")"                 branches, added
               | "(" body ")" "x" INT                     repeated
    body     ::= "-" | step (">" step)*                   "-" passes its input through

    operator ::= "conv" OUT window ["nobias"]             Conv
               | "dw" window                              Conv, one group a channel
               | "deconv" OUT window ["o" INT]            Conv, transposed
               | "deformconv" OUT window ["og" G]         DeformConv
               | ("maxpool" | "avgpool") window ["indices"]   Pool
               | "gap" | "gmp"                            GlobalPool
               | "adaptiveavgpool" SIZE | "adaptivemaxpool" SIZE
               | "unpool" SIZE                            Unpool
               | "unfold" window | "fold" SIZE window     Unfold, Fold
               | "bn" | "instancenorm" | "groupnorm" G | "layernorm" AXES
               | "rmsnorm" AXES
               | "lrn" SIZE ["lower"]                     LocalResponseNorm
               | "relu" | "relu6" | "sigmoid" | ...       Activation
               | "exp" | "sqrt" | "neg" | ...             Unary
               | "where" | "cast" TYPE                    Where, Cast
               | "softmax" | "logsoftmax"
               | ("cumsum" | "cumprod") AXIS ["exclusive"] ["reverse"]   Cumulate
               | "topk" K ["axis=" AXIS] ["smallest"]     TopK
               | "fc" OUT ["nobias"]                      Linear
               | "matmul" | "add" | "less" | "and" | ...  MatMul, Elementwise
               | "einsum" EQUATION                        Einsum: "bchw,dc->bdhw"
               | "concat" | "split" SIZES
               | "gather" ["axis=" AXIS] ["along"]        Gather
               | "flip" AXES
               | ("depthtospace" | "spacetodepth") BLOCK ["dcr"]
               | "slice" | "pad" | "reshape" | "flatten" | "transpose" | "expand"
               | "up" SCALE | "resize" SIZE               Resize
               | "gridsample" [mode] ["border" | "reflection"] ["aligned"]   GridSample
               | "mean" | "sum" | "max" | ...             Reduce
               | "identity" | "dropout"
               | "unsupported" NAME
    window   ::= K ["/" S] ["p" P | "psame" | "psame-lower"] ["d" D] ["g" G] ["ceil"]

``K``, ``S``, ``P`` and ``D`` are ``3`` (every axis) or ``1x7`` (per axis, outermost first);
``P`` may also be ``T,L,B,R``: all that is put before, then all that is put behind.

Every operator is a frozen dataclass; the sizes of its inputs are not part of it. Layout is
always ``(N, C, *spatial)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from convsmith.graph.operators.arranging import (
    Concat,
    DepthToSpace,
    Expand,
    Flatten,
    Flip,
    Gather,
    Pad,
    Reshape,
    Slice,
    SpaceToDepth,
    Split,
    Transpose,
)
from convsmith.graph.operators.base import (
    Operator,
    Padding,
    Rounding,
    Same,
)
from convsmith.graph.operators.layers import (
    Conv,
    DeformConv,
    Einsum,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
)
from convsmith.graph.operators.pointwise import (
    ACTIVATIONS,
    COMPARISONS,
    ELEMENTWISE,
    REDUCTIONS,
    TYPES,
    UNARIES,
    Activation,
    Cast,
    Cumulate,
    Elementwise,
    Identity,
    Reduce,
    Softmax,
    TopK,
    Unary,
    Where,
)
from convsmith.graph.operators.sampling import (
    GridSample,
    Resize,
)
from convsmith.graph.operators.windows import (
    AdaptivePool,
    Fold,
    GlobalPool,
    Pool,
    Unfold,
    Unpool,
)

__all__ = [
    "ACTIVATIONS",
    "COMPARISONS",
    "ELEMENTWISE",
    "REDUCTIONS",
    "TYPES",
    "UNARIES",
    "Activation",
    "AdaptivePool",
    "Cast",
    "Concat",
    "Conv",
    "Cumulate",
    "DeformConv",
    "DepthToSpace",
    "Einsum",
    "Elementwise",
    "Expand",
    "Flatten",
    "Flip",
    "Fold",
    "Gather",
    "GlobalPool",
    "GridSample",
    "Identity",
    "Linear",
    "LocalResponseNorm",
    "MatMul",
    "Norm",
    "Operator",
    "Pad",
    "Padding",
    "Pool",
    "Reduce",
    "Reshape",
    "Resize",
    "Rounding",
    "Same",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "TopK",
    "Transpose",
    "Unary",
    "Unfold",
    "Unpool",
    "Unsupported",
    "Where",
    "arity",
    "results",
    "roles",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported(Operator):
    """An operator that convsmith does not know, kept and shown by name.

    Attributes:
        kind: Its name, with its domain when it is not a standard one.
        shapes: The shapes of its outputs as far as its source knows them.
    """

    kind: str
    shapes: tuple[tuple[int, ...] | None, ...] = (None,)


def roles(op: Operator) -> tuple[str, ...]:
    """Names, in order, the parameter tensors that an operator has.

    >>> roles(Linear(features=10))
    ('weight', 'bias')
    """
    if type(op) not in _WEIGHTED:
        return ()
    match op:
        case Conv(bias=bias) | DeformConv(bias=bias) | Linear(bias=bias):
            return ("weight", "bias") if bias else ("weight",)
        case Norm(kind="batch", affine=affine):
            return ("weight", "bias", "mean", "variance") if affine else ("mean", "variance")
        case Norm(kind="rms", affine=True):
            return ("weight",)
        case Norm(affine=True):
            return ("weight", "bias")
        case Activation(kind="prelu"):
            return ("weight",)
    return ()


def arity(op: Operator) -> tuple[int, int | None]:
    """How many values an operator takes: at least, and at most (``None``: any number).

    >>> arity(MatMul()), arity(Concat())
    ((2, 2), (1, None))
    """
    if isinstance(op, Einsum):
        operands = op.equation.partition("->")[0].count(",") + 1
        return operands, operands
    return _ARITY.get(type(op), (1, 1))


def results(op: Operator) -> int:
    """How many values an operator makes.

    >>> results(Split(sizes=(1, 2))), results(MatMul())
    (2, 1)
    """
    if type(op) not in _SEVERAL:
        return 1
    match op:
        case Split(sizes=made) | Unsupported(shapes=made):
            return len(made)
        case TopK() | Pool(indices=True):
            return 2
    return 1


# Operator classes are final, so that their type decides.
_SEVERAL = frozenset((Split, Unsupported, TopK, Pool))
_WEIGHTED = frozenset((Conv, DeformConv, Linear, Norm, Activation))
_ARITY: dict[type[Operator], tuple[int, int | None]] = {
    Unsupported: (0, None),
    Elementwise: (1, None),
    Concat: (1, None),
    MatMul: (2, 2),
    Gather: (2, 2),
    GridSample: (2, 2),
    Unpool: (2, 2),
    DeformConv: (2, 3),
    Where: (3, 3),
}
