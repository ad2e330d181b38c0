"""Reads the words of operators, each error with its column.

The inverse of :func:`convsmith.graph.printing.operator_text`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Literal

from convsmith.errors import ShapeError
from convsmith.graph.contraction import read_equation
from convsmith.graph.operators import (
    ACTIVATIONS,
    ELEMENTWISE,
    REDUCTIONS,
    TYPES,
    UNARIES,
    Activation,
    AdaptivePool,
    Cast,
    Concat,
    Conv,
    Cumulate,
    DeformConv,
    DepthToSpace,
    Einsum,
    Elementwise,
    Expand,
    Flatten,
    Flip,
    Fold,
    Gather,
    GlobalPool,
    GridSample,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pad,
    Padding,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Rounding,
    Same,
    Slice,
    Softmax,
    SpaceToDepth,
    Split,
    TopK,
    Transpose,
    Unary,
    Unfold,
    Unpool,
    Unsupported,
    Where,
)
from convsmith.graph.shape import Shape
from convsmith.graph.tokens import Reader, Token, read_shape

__all__ = ["Reader", "Token", "read_operator", "read_shape"]


@dataclass(slots=True)
class _Words:
    """The words of one operator, taken one by one."""

    reader: Reader
    head: Token
    rest: list[Token]
    shapes: list[Shape | None]

    @property
    def rank(self) -> int:
        shape = self.shapes[0] if self.shapes else None
        return 2 if shape is None else max(len(shape) - 2, 1)

    def take(self, expected: str) -> Token:
        if not self.rest:
            raise self.reader.error(f"{self.head.text!r} needs {expected}", self.reader.peek())
        return self.rest.pop(0)

    def integer(self, expected: str, minimum: int = 1) -> int:
        token = self.take(expected)
        return self._int(token.text, token, expected, minimum)

    def number(self, expected: str) -> int:
        return self.integer(expected, -(2**62))

    def sizes(self, expected: str) -> tuple[int, ...]:
        """The next word, per axis."""
        token = self.take(expected)
        return self.axes(token.text, token, expected)

    def _int(self, text: str, token: Token, expected: str, minimum: int = 1) -> int:
        if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
            raise self.reader.error(f"found {token.text!r}, expected {expected}", token)
        if int(text) < minimum:
            raise self.reader.error(f"{expected} must be at least {minimum}", token)
        return int(text)

    def axes(self, text: str, token: Token, expected: str, minimum: int = 1) -> tuple[int, ...]:
        """``3`` for every axis or ``1x7`` per axis."""
        values = tuple(self._int(part, token, expected, minimum) for part in text.split("x"))
        if len(values) == 1:
            return values * self.rank
        if len(values) != self.rank:
            raise self.reader.error(
                f"{expected} for {len(values)} axes, the input has {self.rank}", token
            )
        return values

    def integers(self, text: str, token: Token, expected: str) -> tuple[int, ...]:
        return tuple(self._int(p, token, expected, -(2**62)) for p in text.split(","))

    def flag(self, *names: str) -> str | None:
        """Takes the first of the words that is there."""
        for index, token in enumerate(self.rest):
            if token.is_(*names):
                return self.rest.pop(index).text
        return None

    def prefixed(self, prefix: str) -> Token | None:
        """Takes a word such as ``p1`` or ``g32``; returns it without its letter."""
        for index, token in enumerate(self.rest):
            if re.match(rf"{prefix}[-\d]", token.text):
                del self.rest[index]
                return Token(token.text[len(prefix) :], token.column)
        return None

    def option(self, key: str) -> float | None:
        """Takes ``key=value``."""
        for index, token in enumerate(self.rest):
            if token.text.startswith(f"{key}="):
                del self.rest[index]
                try:
                    value = float(token.text[len(key) + 1 :])
                except ValueError:
                    value = math.nan
                if math.isnan(value):
                    raise self.reader.error(f"expected a number after {key}=", token)
                return value
        return None

    def axis_option(self, default: int) -> int:
        value = self.option("axis")
        if value is None:
            return default
        if not value.is_integer() or abs(value) > 1000:
            raise self.reader.error("expected a number of an axis after axis=", self.head)
        return int(value)

    def done(self) -> None:
        if self.rest:
            raise self.reader.error(
                f"{self.head.text!r} does not take {self.rest[0].text!r}",
                self.rest[0],
            )


def _read_padding(words: _Words) -> tuple[Padding, str | None]:
    same = words.flag("psame", "psame-lower")
    token = words.prefixed("p")
    zero: Padding = ((0, 0),) * words.rank
    if same:
        return zero, "upper" if same == "psame" else "lower"
    return (zero if token is None else _padding_numbers(words, token)), None


def _padding_numbers(words: _Words, token: Token) -> Padding:
    if "," not in token.text:
        return tuple((p, p) for p in words.axes(token.text, token, "padding", 0))
    values = tuple(words._int(p, token, "padding", 0) for p in token.text.split(","))
    if len(values) != 2 * words.rank:
        raise words.reader.error(
            f"padding has {len(values)} numbers, {words.rank} axes need {2 * words.rank}", token
        )
    return tuple(zip(values[: words.rank], values[words.rank :], strict=True))


def _read_kernel(words: _Words) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    token = words.take("a kernel size, such as 3 or 1x7")
    kernel, _, stride = token.text.partition("/")
    sizes = words.axes(kernel, token, "a kernel size")
    if "/" not in token.text:
        return sizes, None
    return sizes, words.axes(stride, token, "a stride")


def _read_dilation(words: _Words) -> tuple[int, ...]:
    token = words.prefixed("d")
    return (1,) * words.rank if token is None else words.axes(token.text, token, "dilation")


def _read_conv(words: _Words, *, transposed: bool = False, depthwise: bool = False) -> Operator:
    if depthwise:
        shape = words.shapes[0]
        channels = shape[1] if shape is not None and len(shape) > 2 else 1
    else:
        channels = words.integer("a number of output channels")
    kernel, stride = _read_kernel(words)
    padding, same = _read_padding(words)
    groups = words.prefixed("g")
    token = words.prefixed("o")
    extra = () if token is None else words.axes(token.text, token, "padding", 0)
    return Conv(
        channels=channels,
        kernel=kernel,
        stride=stride or (1,) * words.rank,
        padding=padding,
        same=same,  # type: ignore[arg-type]  # "upper", "lower" or None
        dilation=_read_dilation(words),
        groups=channels
        if depthwise
        else 1
        if groups is None
        else words._int(groups.text, groups, "a number of groups"),
        bias=not words.flag("nobias"),
        rounding=_read_rounding(words),
        transposed=transposed,
        output_padding=extra if any(extra) else (),  # as it is printed: zeros are left out
    )


def _read_pool(words: _Words, kind: str) -> Operator:
    kernel, stride = _read_kernel(words)
    padding, same = _read_padding(words)
    return Pool(
        kind=kind,  # type: ignore[arg-type]  # from the table below
        kernel=kernel,
        stride=stride or kernel,
        padding=padding,
        same=same,  # type: ignore[arg-type]
        dilation=_read_dilation(words),
        rounding=_read_rounding(words),
        count_padding=not words.flag("nopadcount"),
        indices=kind == "max" and bool(words.flag("indices")),
    )


def _read_rounding(words: _Words) -> Rounding:
    return "ceil" if words.flag("ceil") else "floor"


def _read_plain_window(words: _Words) -> dict[str, Any]:
    """A window without SAME padding and ``ceil``."""
    kernel, stride = _read_kernel(words)
    token = words.prefixed("p")
    padding: Padding = ((0, 0),) * words.rank
    if token is not None:
        padding = _padding_numbers(words, token)
    return {
        "kernel": kernel,
        "stride": stride or (1,) * words.rank,
        "padding": padding,
        "dilation": _read_dilation(words),
    }


def _read_deform_conv(words: _Words) -> Operator:
    channels = words.integer("a number of output channels")
    given = {"offset_groups": words.prefixed("og"), "groups": words.prefixed("g")}
    groups: dict[str, Any] = {
        name: words._int(token.text, token, "a number of groups")
        for name, token in given.items()
        if token is not None
    }
    return DeformConv(
        channels=channels,
        bias=not words.flag("nobias"),
        **groups,
        **_read_plain_window(words),
    )


def _read_fold(words: _Words) -> Operator:
    return Fold(size=words.sizes("an image size"), **_read_plain_window(words))


def _read_block(words: _Words, kind: type[DepthToSpace] | type[SpaceToDepth]) -> Operator:
    order = words.flag("crd", "dcr") or "crd"
    return kind(block=words.sizes("a block size"), order=order)  # type: ignore[arg-type]


def _read_grid_sample(words: _Words) -> Operator:
    return GridSample(
        mode=words.flag("nearest", "linear", "cubic") or "linear",  # type: ignore[arg-type]
        beyond=words.flag("zeros", "border", "reflection") or "zeros",  # type: ignore[arg-type]
        aligned=bool(words.flag("aligned")),
    )


def _read_einsum(words: _Words) -> Operator:
    token = words.take('an equation, such as "ij,jk->ik"')
    try:
        read_equation(token.text)
    except ShapeError as error:
        raise words.reader.error(error.fact, token, error.remedy) from None
    return Einsum(equation=token.text)


def _read_cumulate(words: _Words, kind: Literal["sum", "prod"]) -> Operator:
    exclusive, reverse = bool(words.flag("exclusive")), bool(words.flag("reverse"))
    axis = words.number("an axis")
    return Cumulate(kind=kind, axis=axis, exclusive=exclusive, reverse=reverse)


def _read_top(words: _Words) -> Operator:
    axis, largest = words.axis_option(-1), not words.flag("smallest")
    return TopK(count=words.integer("how many", 0), axis=axis, largest=largest)


def _read_cast(words: _Words) -> Operator:
    if not words.rest:
        return Identity(kind="cast")
    token = words.take("a type")
    if token.text not in TYPES:
        raise words.reader.error(
            f"found {token.text!r}, expected a type", token, f"one of {', '.join(TYPES)}"
        )
    return Cast(dtype=token.text)


def _read_adaptive(words: _Words, kind: str) -> Operator:
    token = words.take("an output size")
    return AdaptivePool(
        kind=kind,  # type: ignore[arg-type]
        size=words.axes(token.text, token, "an output size", 0),
    )


def _read_norm(words: _Words, kind: str) -> Operator:
    number = words.integer("a number") if kind in ("group", "layer", "rms") else 1
    epsilon = words.option("eps")
    return Norm(
        kind=kind,  # type: ignore[arg-type]
        groups=number if kind == "group" else 1,
        axes=number if kind in ("layer", "rms") else 1,
        affine=not words.flag("noaffine"),
        epsilon=1e-5 if epsilon is None else epsilon,
    )


def _read_lrn(words: _Words) -> Operator:
    size = words.integer("a number of channels")
    lean: Same = "lower" if words.flag("lower") else "upper"
    given = {name: words.option(name) for name in ("alpha", "beta", "k")}
    numbers: dict[str, Any] = {n: v for n, v in given.items() if v is not None}
    return LocalResponseNorm(size=size, lean=lean, **numbers)


def _read_activation(words: _Words) -> Operator:
    options = {name: words.option(name) for name in ("alpha", "beta", "low", "high")}
    return Activation(kind=words.head.text, **options)


def _read_softmax(words: _Words, log: bool) -> Operator:
    axis = words.integers(words.rest[0].text, words.rest.pop(0), "an axis")[0] if words.rest else 1
    return Softmax(axis=axis, log=log)


def _read_linear(words: _Words) -> Operator:
    return Linear(features=words.integer("a number of features"), bias=not words.flag("nobias"))


def _read_list(words: _Words, expected: str) -> tuple[int, ...]:
    token = words.take(expected)
    return words.integers(token.text, token, expected)


def _read_slice(words: _Words) -> Operator:
    ranges: list[tuple[int, int, int | None, int]] = []
    expected = "axis:start:stop:step"
    words.rest = words.rest or [words.take(expected)]
    for token in words.rest:
        parts = token.text.split(":")
        if len(parts) != 4:
            raise words.reader.error(f"found {token.text!r}, expected {expected}", token)
        axis, start, step = (words._int(parts[i], token, expected, 0) for i in (0, 1, 3))
        stop = words._int(parts[2], token, expected, 0) if parts[2] else None
        ranges.append((axis, start, stop, max(step, 1)))
    words.rest = []
    return Slice(ranges=tuple(ranges))


def _read_pad(words: _Words) -> Operator:
    mode = words.flag("reflect", "edge", "wrap") or "constant"
    value = words.option("value") or 0.0
    token = words.take("a padding")
    still: Padding = ((0, 0), (0, 0))
    if "," not in token.text:
        padding = still + tuple((p, p) for p in words.axes(token.text, token, "padding", -(2**62)))
    else:
        numbers = words.integers(token.text, token, "padding")
        if len(numbers) % 2:
            raise words.reader.error(f"padding has {len(numbers)} numbers, not two an axis", token)
        half = len(numbers) // 2
        padding = tuple(zip(numbers[:half], numbers[half:], strict=False))
        if len(padding) == words.rank and len(words.shapes[0] or ()) == words.rank + 2:
            padding = still + padding
    return Pad(padding=padding, mode=mode, value=value)  # type: ignore[arg-type]


def _read_flatten(words: _Words) -> Operator:
    if not words.rest:
        return Flatten()
    token = words.rest[0]
    axes = _read_list(words, "axes")
    if len(axes) > 2:
        raise words.reader.error("flatten takes the first and the last axis", token)
    return Flatten(axis=axes[0], last=axes[1] if len(axes) > 1 else -1)


# No exponents: 1e999999999 would keep the machine busy. No denominator of zero.
_SCALE = re.compile(r"\d{1,18}(\.\d{1,18}|/0*[1-9]\d{0,17})?", re.ASCII)


def _read_resize(words: _Words, by_scale: bool) -> Operator:
    mode = words.flag("linear", "bilinear", "cubic", "nearest") or "nearest"
    alignment = words.flag("half_pixel", "pytorch_half_pixel", "align_corners") or "asymmetric"
    rounding = words.flag("ceil", "round_prefer_floor", "round_prefer_ceil") or "floor"
    token = words.take("a scale" if by_scale else "a size")
    scale: tuple[Fraction, ...] = ()
    size: tuple[int, ...] = ()
    if by_scale:
        parts = token.text.split("x")
        if all(_SCALE.fullmatch(part) for part in parts):
            scale = tuple(Fraction(p) for p in parts) * (words.rank if len(parts) == 1 else 1)
        if len(scale) != words.rank or min(scale) <= 0:
            raise words.reader.error(f"found {token.text!r}, expected a scale", token)
    else:
        size = words.axes(token.text, token, "a size")
    return Resize(
        scale=scale,
        size=size,
        mode="linear" if mode == "bilinear" else mode,  # type: ignore[arg-type]
        alignment=alignment,  # type: ignore[arg-type]
        rounding=rounding,  # type: ignore[arg-type]
    )


def _read_reduce(words: _Words) -> Operator:
    keep = words.flag("keep") is not None
    return Reduce(kind=words.head.text, axes=_read_list(words, "axes, such as 2,3"), keep=keep)


def _read_unsupported(words: _Words) -> Operator:
    kind = words.take("a name").text
    shapes: list[Shape | None] = []
    while words.rest:
        token = words.rest.pop(0)
        shapes.append(None if token.is_("?") else read_shape(words.reader, token))
    return Unsupported(kind=kind, shapes=tuple(shapes) or (None,))


_OPERATORS: dict[str, Callable[[_Words], Operator]] = {
    "conv": _read_conv,
    "dw": lambda w: _read_conv(w, depthwise=True),
    "deconv": lambda w: _read_conv(w, transposed=True),
    "maxpool": lambda w: _read_pool(w, "max"),
    "avgpool": lambda w: _read_pool(w, "average"),
    "gap": lambda w: GlobalPool(kind="average"),
    "gmp": lambda w: GlobalPool(kind="max"),
    "adaptiveavgpool": lambda w: _read_adaptive(w, "average"),
    "adaptivemaxpool": lambda w: _read_adaptive(w, "max"),
    "bn": lambda w: _read_norm(w, "batch"),
    "instancenorm": lambda w: _read_norm(w, "instance"),
    "groupnorm": lambda w: _read_norm(w, "group"),
    "layernorm": lambda w: _read_norm(w, "layer"),
    "rmsnorm": lambda w: _read_norm(w, "rms"),
    "lrn": _read_lrn,
    "deformconv": _read_deform_conv,
    "unpool": lambda w: Unpool(size=w.sizes("an output size")),
    "unfold": lambda w: Unfold(**_read_plain_window(w)),
    "fold": _read_fold,
    "where": lambda w: Where(),
    "cast": _read_cast,
    "cumsum": lambda w: _read_cumulate(w, "sum"),
    "cumprod": lambda w: _read_cumulate(w, "prod"),
    "topk": _read_top,
    "einsum": _read_einsum,
    "gather": lambda w: Gather(axis=w.axis_option(0), along=bool(w.flag("along"))),
    "flip": lambda w: Flip(axes=_read_list(w, "axes, such as 2,3")),
    "depthtospace": lambda w: _read_block(w, DepthToSpace),
    "spacetodepth": lambda w: _read_block(w, SpaceToDepth),
    "gridsample": _read_grid_sample,
    "softmax": lambda w: _read_softmax(w, False),
    "logsoftmax": lambda w: _read_softmax(w, True),
    "fc": _read_linear,
    "matmul": lambda w: MatMul(),
    "concat": lambda w: Concat(axis=w.axis_option(1)),
    "split": lambda w: Split(sizes=_read_list(w, "sizes"), axis=w.axis_option(1)),
    "slice": _read_slice,
    "pad": _read_pad,
    "reshape": lambda w: Reshape(shape=_read_list(w, "a shape")),
    "expand": lambda w: Expand(shape=_read_list(w, "a shape")),
    "transpose": lambda w: Transpose(permutation=_read_list(w, "an order of the axes")),
    "flatten": _read_flatten,
    "up": lambda w: _read_resize(w, True),
    "resize": lambda w: _read_resize(w, False),
    "unsupported": _read_unsupported,
    **dict.fromkeys(ACTIVATIONS, _read_activation),
    **{kind: lambda w: Unary(kind=w.head.text) for kind in UNARIES},
    **{kind: lambda w: Elementwise(kind=w.head.text) for kind in ELEMENTWISE},
    **dict.fromkeys(REDUCTIONS, _read_reduce),
    **{kind: lambda w: Identity(kind=w.head.text) for kind in ("identity", "dropout")},
}


def read_operator(reader: Reader, shapes: list[Shape | None]) -> tuple[Token, Operator]:
    """Reads one operator; the shapes of its inputs say how many axes ``3`` stands for.

    Returns:
        Its first token, for later errors, and the operator.

    Raises:
        NotationError: With the caret under the word that is wrong.
    """
    tokens = reader.words()
    if not tokens:
        found = reader.peek()
        fact = "the text ends" if found is None else f"found {found.text!r}"
        raise reader.error(f"{fact}, expected an operator", found, "such as conv 64 3 p1")
    head = tokens[0]
    if head.text not in _OPERATORS:
        raise reader.error(f"unknown operator {head.text!r}", head, _suggestion(head.text))
    words = _Words(reader, head, tokens[1:], shapes)
    op = _OPERATORS[head.text](words)
    words.done()
    return head, op


def _suggestion(word: str) -> str:
    close = get_close_matches(word, _OPERATORS, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(sorted(_OPERATORS))}"
