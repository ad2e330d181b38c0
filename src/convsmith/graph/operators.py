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
               | ("maxpool" | "avgpool") window           Pool
               | "gap" | "gmp"                            GlobalPool
               | "adaptiveavgpool" SIZE | "adaptivemaxpool" SIZE
               | "bn" | "instancenorm" | "groupnorm" G | "layernorm" AXES
               | "lrn" SIZE                               LocalResponseNorm
               | "relu" | "relu6" | "sigmoid" | ...       Activation
               | "exp" | "sqrt" | "neg" | ...             Unary
               | "softmax" | "logsoftmax"
               | "fc" OUT ["nobias"]                      Linear
               | "matmul" | "add" | "sub" | "mul" | ...   MatMul, Elementwise
               | "concat" | "split" SIZES
               | "slice" | "pad" | "reshape" | "flatten" | "transpose" | "expand"
               | "up" SCALE | "resize" SIZE               Resize
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
from fractions import Fraction
from typing import Literal

__all__ = [
    "Activation",
    "AdaptivePool",
    "Concat",
    "Conv",
    "Elementwise",
    "Expand",
    "Flatten",
    "GlobalPool",
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
    "Same",
    "Slice",
    "Softmax",
    "Split",
    "Transpose",
    "Unary",
    "Unsupported",
    "arity",
    "roles",
]

Padding = tuple[tuple[int, int], ...]
"""Per axis: how much is put before and how much behind."""

Same = Literal["upper", "lower"]
"""Where SAME padding puts the odd element: behind (``upper``) or before (``lower``)."""

Rounding = Literal["floor", "ceil"]

ACTIVATIONS = (
    "relu",
    "relu6",
    "leakyrelu",
    "prelu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "gelutanh",
    "sigmoid",
    "hardsigmoid",
    "tanh",
    "silu",
    "hardswish",
    "softplus",
    "softsign",
    "mish",
    "clip",
)
UNARIES = ("abs", "exp", "log", "sqrt", "rsqrt", "neg", "reciprocal", "square", "erf", "floor")
ELEMENTWISE = ("add", "sub", "mul", "div", "maximum", "minimum", "pow")
REDUCTIONS = ("mean", "sum", "max", "min", "prod", "l1norm", "l2norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What every operator is; abstract. The classes below are final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Operator):
    """A convolution (cross-correlation), 1-D to 3-D, grouped, dilated or transposed.

    Attributes:
        channels: Output channels.
        kernel: Window size per spatial axis.
        stride: Step per spatial axis; of the output grid when ``transposed``.
        padding: Zeros before and behind per spatial axis; ignored when ``same`` is set.
        same: SAME padding: the output has ``ceil(input / stride)`` elements.
        dilation: Distance between the taps per spatial axis.
        groups: Independent groups of channels.
        bias: Whether a bias is added.
        rounding: How the last, incomplete window counts.
        transposed: Weight layout is then ``(C_in, C_out / groups, *kernel)``.
        output_padding: Extra elements behind, transposed only.
    """

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    same: Same | None = None
    dilation: tuple[int, ...]
    groups: int = 1
    bias: bool = True
    rounding: Rounding = "floor"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Operator):
    """Max or average pooling over windows.

    With ``rounding="ceil"`` the last window may be incomplete, but starts inside the input or
    the padding before it (Caffe, PyTorch). ``count_padding``: an average divides by the whole
    window, padding included (but never by what ``ceil`` adds behind the padding).
    """

    kind: Literal["max", "average"]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    same: Same | None = None
    dilation: tuple[int, ...]
    rounding: Rounding = "floor"
    count_padding: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalPool(Operator):
    """Max or average over all spatial axes, kept with size 1."""

    kind: Literal["max", "average"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptivePool(Operator):
    """Max or average pooling to a given output size; ``0`` keeps the input's size."""

    kind: Literal["max", "average"]
    size: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm(Operator):
    """Normalization, as at inference.

    Attributes:
        kind: ``batch`` uses stored statistics (per channel: an affine map); the others
            use the statistics of their input.
        groups: For ``group``: groups of channels.
        axes: For ``layer``: how many trailing axes are normalized over.
        epsilon: Added to the variance.
        affine: Whether a learned scale and shift follow.
    """

    kind: Literal["batch", "instance", "group", "layer"]
    groups: int = 1
    axes: int = 1
    epsilon: float = 1e-5
    affine: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResponseNorm(Operator):
    """Across-channel normalization of AlexNet: ``x / (k + alpha / size * sum(x^2))^beta``."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Operator):
    """A nonlinearity applied to every element; ``kind`` is one of ``ACTIVATIONS``.

    ``alpha`` is the slope of ``leakyrelu``, the scale of ``elu`` / ``celu``, the slope of
    ``hardsigmoid``; ``beta`` the offset of ``hardsigmoid``; ``low`` and ``high`` bound ``clip``.
    """

    kind: str
    alpha: float | None = None
    beta: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary(Operator):
    """A mathematical function applied to every element; ``kind`` is one of ``UNARIES``."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Operator):
    """Softmax (or its logarithm) over one axis."""

    axis: int = 1
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Operator):
    """``y = x W^T + b`` over the last axis; weight ``(features, in)``."""

    features: int
    bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MatMul(Operator):
    """The matrix product of two values, batched over leading axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise(Operator):
    """Two or more values combined element by element, with broadcasting."""

    kind: str = "add"


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Operator):
    """Values joined along one axis."""

    axis: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Operator):
    """One value cut into ``len(sizes)`` along one axis."""

    sizes: tuple[int, ...]
    axis: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Operator):
    """A strided rectangle: ``ranges`` holds ``(axis, start, stop, step)``.

    Starts are non-negative, steps positive; a stop of ``None`` is the end of the axis.
    """

    ranges: tuple[tuple[int, int, int | None, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad(Operator):
    """Elements put before and behind every axis (negative: cut away)."""

    padding: Padding
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant"
    value: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape(Operator):
    """The same elements in another shape; one entry may be -1."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten(Operator):
    """All axes from ``axis`` to ``last`` (inclusive) joined into one."""

    axis: int = 1
    last: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpose(Operator):
    """Axes in another order."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand(Operator):
    """Axes of size 1 repeated to the given shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Operator):
    """Interpolation over the spatial axes, by exact ``scale`` or to a ``size``.

    Attributes:
        scale: Per spatial axis; empty when ``size`` is given.
        size: Per spatial axis; empty when ``scale`` is given.
        mode: The interpolation.
        alignment: How output coordinates map to the input, in ONNX's words.
        rounding: How ``nearest`` picks, in ONNX's words.
    """

    scale: tuple[Fraction, ...] = ()
    size: tuple[int, ...] = ()
    mode: Literal["nearest", "linear", "cubic"] = "nearest"
    alignment: Literal["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"] = (
        "asymmetric"
    )
    rounding: Literal["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"] = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Operator):
    """A reduction over axes; ``kind`` is one of ``REDUCTIONS``."""

    kind: str
    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(Operator):
    """Passes its input through; ``kind`` remembers what it was (``dropout``, ``cast``, ...)."""

    kind: str = "identity"


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
    match op:
        case Conv(bias=bias) | Linear(bias=bias):
            return ("weight", "bias") if bias else ("weight",)
        case Norm(kind="batch", affine=affine):
            return ("weight", "bias", "mean", "variance") if affine else ("mean", "variance")
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
    match op:
        case Unsupported():
            return 0, None
        case Elementwise() | Concat():
            return 1, None
        case MatMul():
            return 2, 2
    return 1, 1
