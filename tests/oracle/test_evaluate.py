"""Every operator, evaluated in float64, against torch's function for it in float64.

Convolutions and poolings have a file of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor

from convsmith.graph import operators as ops
from convsmith.graph.evaluate import apply
from convsmith.graph.operators import (
    ACTIVATIONS,
    COMPARISONS,
    ELEMENTWISE,
    REDUCTIONS,
    UNARIES,
    Padding,
)

Array = npt.NDArray[Any]
Expected = Callable[..., Tensor | Sequence[Tensor]]


class Case(NamedTuple):
    """One operator on given arrays, and what torch makes of them."""

    op: ops.Operator
    inputs: Sequence[Array]
    expected: Expected
    parameters: Sequence[Array] = ()


def draws(seed: int, count: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng((seed, index)) for index in range(count))


def some(random: np.random.Generator, rank: int, low: int, high: int) -> tuple[int, ...]:
    """Numbers from ``low`` to ``high`` inclusive, one per axis."""
    return tuple(random.integers(low, high + 1, rank).tolist())


def torch_order(padding: Padding) -> list[int]:
    """Padding as ``F.pad`` takes it: the last axis first."""
    return [side for pair in reversed(padding) for side in pair]


# Element by element ------------------------------------------------------------------------

_TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leakyrelu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelutanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),  # F's turns linear at 20
    "softsign": F.softsign,
    "mish": F.mish,
    "clip": torch.clone,
}


def activation_cases() -> Iterator[Case]:
    random = np.random.default_rng(6)
    edges = [0.0, 1e-9, -1e-9, 3, -3, 6, -6, 30, -30, 800, -800, 1e4, -1e4]
    x = np.concatenate([edges, random.normal(size=47) * 3]).reshape(2, 5, 6)

    def of(expected: Callable[..., Tensor], *slopes: Array, **fields: Any) -> Case:
        op = ops.Activation(**fields)
        return Case(op=op, inputs=[x], parameters=slopes, expected=expected)

    for kind, function in _TORCH_ACTIVATIONS.items():
        yield of(function, kind=kind)
    yield of(lambda x: F.leaky_relu(x, 0.3), kind="leakyrelu", alpha=0.3)
    yield of(lambda x: F.elu(x, 0.7), kind="elu", alpha=0.7)
    yield of(lambda x: F.celu(x, 0.7), kind="celu", alpha=0.7)
    yield of(lambda x: (0.2 * x + 0.4).clamp(0, 1), kind="hardsigmoid", alpha=0.2, beta=0.4)
    yield of(lambda x: x.clamp(-1, 2), kind="clip", low=-1.0, high=2.0)
    yield of(lambda x: x.clamp(min=-1), kind="clip", low=-1.0)
    yield of(F.prelu, random.normal(size=5), kind="prelu")
    yield of(F.prelu, random.normal(size=1), kind="prelu")


_TORCH_UNARIES: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "square": torch.square,
    "erf": torch.erf,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "not": torch.logical_not,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
}
_TORCH_ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "mod": torch.remainder,
    "fmod": torch.fmod,
    "equal": torch.eq,
    "notequal": torch.ne,
    "less": torch.lt,
    "lessequal": torch.le,
    "greater": torch.gt,
    "greaterequal": torch.ge,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
}


LOGICAL = {*COMPARISONS, "and", "or", "xor"}


def arithmetic_cases() -> Iterator[Case]:
    random = np.random.default_rng(7)
    signed = random.normal(size=(2, 3, 4)) * 3
    positive = np.abs(signed) + 1e-3
    for kind, function in _TORCH_UNARIES.items():
        x = positive if kind in {"log", "sqrt", "rsqrt"} else signed
        x = np.tanh(signed) if kind in {"asin", "acos"} else x
        x = np.round(signed * 2) / 2 if kind in {"round", "not"} else x  # halves, and zeros
        yield Case(op=ops.Unary(kind=kind), inputs=[x], expected=function)
    for kind, two in _TORCH_ELEMENTWISE.items():
        for shape in ((2, 3, 4), (3, 1), (1,), ()):
            other = random.normal(size=shape)
            left = np.round(signed) if kind in LOGICAL else positive
            other = np.round(other) if kind in LOGICAL else other
            yield Case(op=ops.Elementwise(kind=kind), inputs=[left, other], expected=two)
    three = [signed, random.normal(size=(3, 1)), random.normal(size=(5, 1, 1, 1))]
    yield Case(op=ops.Elementwise(), inputs=three, expected=lambda a, b, c: a + b + c)
    for axis in (0, 1, -1):
        softmax = ops.Softmax(axis=axis)
        yield Case(op=softmax, inputs=[signed * 100], expected=lambda x, a=axis: x.softmax(a))
        log = replace(softmax, log=True)
        yield Case(op=log, inputs=[signed * 100], expected=lambda x, a=axis: x.log_softmax(a))
    halves = np.round(signed * 2) / 2
    three = [np.round(signed), random.normal(size=(3, 1)), random.normal(size=(4,))]
    yield Case(op=ops.Where(), inputs=three, expected=lambda c, a, b: torch.where(c != 0, a, b))
    for dtype in ("int64", "int32", "bool"):
        kind = getattr(torch, dtype)
        yield Case(op=ops.Cast(dtype=dtype), inputs=[halves], expected=lambda x, k=kind: x.to(k))
    yield Case(
        op=ops.Identity(kind="cast"), inputs=[np.arange(6)], expected=lambda x: x.to(torch.float64)
    )
    for kind in ("identity", "dropout"):
        yield Case(op=ops.Identity(kind=kind), inputs=[signed], expected=torch.clone)


# Normalization and products ----------------------------------------------------------------


def batch_norm(eps: float, x: Tensor, *p: Tensor) -> Tensor:
    weight, bias = p[:-2] or (None, None)
    return F.batch_norm(x, p[-2], p[-1], weight, bias, eps=eps)


def group_norm(eps: float, groups: int, x: Tensor, *p: Tensor) -> Tensor:
    weight, bias = p or (None, None)
    return F.group_norm(x, groups, weight, bias, eps)


def layer_norm(eps: float, x: Tensor, *p: Tensor) -> Tensor:
    weight, bias = p or (None, None)
    return F.layer_norm(x, x.shape[1:], weight, bias, eps)


def rms_norm(eps: float, x: Tensor, *p: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[1:], p[0] if p else None, eps)


def norm_cases() -> Iterator[Case]:
    for index, random in enumerate(draws(8, 18)):
        x = random.normal(size=(2, 6, *some(random, 1 + index % 3, 1, 5))) * 3 + 1
        mean, variance = random.normal(size=6), random.random(6)
        scale, shift = random.normal(size=6), random.normal(size=6)
        eps = float(random.choice([1e-5, 1e-3]))
        tail = x.shape[1:]
        wide, wider = random.normal(size=tail), random.normal(size=tail)
        for affine in (True, False):
            learned = [scale, shift] if affine else []

            def norm(kind: str, affine: bool = affine, eps: float = eps, **fields: int) -> ops.Norm:
                return ops.Norm(kind=kind, epsilon=eps, affine=affine, **fields)  # type: ignore[arg-type]

            yield Case(
                op=norm("batch"),
                inputs=[x],
                parameters=[*learned, mean, variance],
                expected=partial(batch_norm, eps),
            )
            yield Case(
                op=norm("group", groups=3),
                inputs=[x],
                parameters=learned,
                expected=partial(group_norm, eps, 3),
            )
            yield Case(
                op=norm("layer", axes=x.ndim - 1),
                inputs=[x],
                parameters=[wide, wider] if affine else [],
                expected=partial(layer_norm, eps),
            )
            yield Case(  # one group a channel; F.instance_norm refuses a single pixel
                op=norm("instance"),
                inputs=[x],
                parameters=learned,
                expected=partial(group_norm, eps, 6),
            )
            yield Case(
                op=norm("rms", axes=x.ndim - 1),
                inputs=[x],
                parameters=[wide] if affine else [],
                expected=partial(rms_norm, eps),
            )
        lrn = ops.LocalResponseNorm(size=(1, 3, 5)[index % 3], alpha=0.5, beta=0.6, k=1.5)
        yield Case(
            op=lrn,
            inputs=[x],
            expected=lambda x, n=lrn.size: F.local_response_norm(x, n, 0.5, 0.6, 1.5),
        )
        even = replace(lrn, size=(2, 4, 6)[index % 3])  # ONNX: the odd neighbour comes after
        yield Case(op=even, inputs=[x], expected=lambda x, op=even: onnx_lrn(op, x))
        yield Case(
            op=replace(even, lean="lower"),
            inputs=[x],
            expected=lambda x, n=even.size: F.local_response_norm(x, n, 0.5, 0.6, 1.5),
        )


def onnx_lrn(op: ops.LocalResponseNorm, x: Tensor) -> Tensor:
    """The definition of ONNX's LRN, channel by channel."""
    y = torch.empty_like(x)
    for c in range(x.shape[1]):
        first = max(0, c - (op.size - 1) // 2)
        last = min(x.shape[1] - 1, c + -(-(op.size - 1) // 2))
        total = x[:, first : last + 1].square().sum(1)
        y[:, c] = x[:, c] / (op.k + op.alpha / op.size * total) ** op.beta
    return y


def product_cases() -> Iterator[Case]:
    for random in draws(9, 6):
        for lead in ((), (3,), (2, 3)):
            weight, bias = random.normal(size=(4, 5)), random.normal(size=4)
            x = random.normal(size=(*lead, 5))
            yield Case(
                op=ops.Linear(features=4), inputs=[x], parameters=[weight, bias], expected=F.linear
            )
            yield Case(
                op=ops.Linear(features=4, bias=False),
                inputs=[x],
                parameters=[weight],
                expected=F.linear,
            )
        for left, right in (
            ((3, 4), (4, 5)),
            ((2, 1, 3, 4), (6, 4, 5)),
            ((4,), (2, 4, 5)),
            ((2, 3, 4), (4,)),
        ):
            pair = [random.normal(size=left), random.normal(size=right)]
            yield Case(op=ops.MatMul(), inputs=pair, expected=torch.matmul)
        a, b, c = (random.normal(size=s) for s in ((2, 3, 4), (4, 5), (2, 5)))
        for equation, operands in EINSUMS.items():
            given = [{"a": a, "b": b, "c": c, "q": a[0, :, :3]}[name] for name in operands]
            yield Case(
                op=ops.Einsum(equation=equation),
                inputs=given,
                expected=lambda *t, e=equation: torch.einsum(e, *t),
            )


EINSUMS = {
    "nij,jk->nik": "ab",
    "nij,jk,nk->ni": "abc",
    "nij->jin": "a",
    "nij->j": "a",
    "nij,jk->": "ab",
    "ii->i": "q",
    "ii->": "q",
    "nij,nk->nijk": "ac",
    "nij,jk->n": "ab",
}


# Shapes ------------------------------------------------------------------------------------


def rearranging_cases() -> Iterator[Case]:
    random = np.random.default_rng(10)
    x = random.normal(size=(2, 6, 4, 5))

    def of(op: ops.Operator, expected: Callable[..., Tensor | Sequence[Tensor]]) -> Case:
        return Case(op=op, inputs=[x], expected=expected)

    for axis in (0, 1, -1):
        parts = [x, random.normal(size=x.shape), x]
        yield Case(
            op=ops.Concat(axis=axis), inputs=parts, expected=lambda *p, a=axis: torch.cat(p, a)
        )
    yield of(ops.Split(sizes=(1, 2, 3)), lambda x: x.split((1, 2, 3), 1))
    yield of(ops.Split(sizes=(5, 0), axis=-1), lambda x: x.split((5, 0), -1))
    yield of(ops.Slice(ranges=((1, 1, 5, 2), (3, 2, None, 1))), lambda x: x[:, 1:5:2, :, 2:])
    yield of(ops.Slice(ranges=((2, 0, 99, 3),)), lambda x: x[:, :, ::3])
    yield of(ops.Slice(ranges=((-1, 4, 2, 1),)), lambda x: x[..., 4:2])
    yield of(ops.Reshape(shape=(2, -1, 10)), lambda x: x.reshape(2, -1, 10))
    yield of(ops.Flatten(), lambda x: x.flatten(1))
    yield of(ops.Flatten(axis=1, last=2), lambda x: x.flatten(1, 2))
    yield of(ops.Flatten(axis=4), lambda x: x.unsqueeze(-1))
    yield of(ops.Transpose(permutation=(3, 0, 2, 1)), lambda x: x.permute(3, 0, 2, 1))
    yield of(ops.Flip(axes=(0, 2)), lambda x: x.flip(0, 2))
    yield of(ops.Flip(axes=(-1,)), lambda x: x.flip(-1))
    for axis in (0, 1, -1):
        size = x.shape[axis]
        places = random.integers(-size, size, (3, 2))
        yield Case(
            op=ops.Gather(axis=axis),
            inputs=[x, places],
            expected=lambda x, i, a=axis: torch_take(x, i, a),
        )
        fewer = random.integers(0, size, tuple(min(n, 3) for n in x.shape))
        yield Case(
            op=ops.Gather(axis=axis, along=True),
            inputs=[x, fewer],
            expected=lambda x, i, a=axis: x.gather(a, i),
        )
        for reverse, exclusive in itertools.product((False, True), repeat=2):
            op = ops.Cumulate(axis=axis, reverse=reverse, exclusive=exclusive)
            yield of(op, lambda x, op=op: torch_running(op, x))
            product = replace(op, kind="prod")
            yield of(product, lambda x, op=product: torch_running(op, x))
        for count, largest in ((0, True), (1, False), (2, True)):
            op_ = ops.TopK(count=count, axis=axis, largest=largest)
            yield of(op_, lambda x, k=count, a=axis, b=largest: x.topk(k, a, b))
    for block in ((2, 2), (1, 1)):
        cells, n = block[0] * block[1], block[0]
        deep = random.normal(size=(2, 3 * cells, 4, 5))
        shuffled = ops.DepthToSpace(block=block)
        yield Case(op=shuffled, inputs=[deep], expected=lambda x, n=n: F.pixel_shuffle(x, n))
        even = random.normal(size=(2, 3, 4, 6))
        back = ops.SpaceToDepth(block=block)
        yield Case(op=back, inputs=[even], expected=lambda x, n=n: F.pixel_unshuffle(x, n))
    narrow = random.normal(size=(2, 1, 4, 1))
    wide = ops.Expand(shape=(3, 1, 7, 4, 5))
    yield Case(op=wide, inputs=[narrow], expected=lambda x: x.expand(3, 2, 7, 4, 5))


def torch_take(x: Tensor, places: Tensor, axis: int) -> Tensor:
    axis %= x.ndim
    picked = x.index_select(axis, places.flatten() % x.shape[axis])
    return picked.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def torch_running(op: ops.Cumulate, x: Tensor) -> Tensor:
    """Element by element, from the definition."""
    turned = x.flip(op.axis) if op.reverse else x
    rows = turned.movedim(op.axis, 0)
    made = []
    for i in range(len(rows)):
        part = rows[: i if op.exclusive else i + 1]
        made.append(part.sum(0) if op.kind == "sum" else part.prod(0))
    y = torch.stack(made).movedim(0, op.axis)
    return y.flip(op.axis) if op.reverse else y


def pad_cases() -> Iterator[Case]:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    for index, random in enumerate(draws(11, 36)):
        rank = 1 + index % 3
        x = random.normal(size=(2, 3, *some(random, rank, 3, 5)))
        pairs = tuple((int(random.integers(0, 3)), int(random.integers(0, 3))) for _ in range(rank))
        padding: Padding = ((0, 0), (0, 0), *pairs)
        for mode, torch_mode in modes.items():
            yield Case(
                op=ops.Pad(padding=padding, mode=mode),  # type: ignore[arg-type]
                inputs=[x],
                expected=lambda x, p=pairs, m=torch_mode: F.pad(x, torch_order(p), m),
            )
        everywhere = tuple(
            (int(random.integers(-1, 3)), int(random.integers(-1, 3))) for _ in range(x.ndim)
        )
        everywhere = tuple(
            pair if size + sum(pair) >= 0 else (0, 0)
            for pair, size in zip(everywhere, x.shape, strict=True)
        )
        yield Case(
            op=ops.Pad(padding=everywhere, value=2.5),
            inputs=[x],
            expected=lambda x, p=everywhere: F.pad(x, torch_order(p), value=2.5),
        )


_TORCH_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "max": torch.amax,
    "min": torch.amin,
    "l1norm": lambda x, axes, keepdim: torch.linalg.vector_norm(x, 1, axes, keepdim),
    "l2norm": lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim),
    "logsumexp": torch.logsumexp,
    "argmax": lambda x, axes, keepdim: torch_place(torch.argmax, x, axes, keepdim),
    "argmin": lambda x, axes, keepdim: torch_place(torch.argmin, x, axes, keepdim),
}


def torch_place(
    function: Callable[..., Tensor], x: Tensor, axes: Sequence[int], keepdim: bool
) -> Tensor:
    """The place counted row by row over axes: those are moved behind the others and joined."""
    inner = sorted(axis % x.ndim for axis in axes)
    outer = [axis for axis in range(x.ndim) if axis not in inner]
    found = function(x.permute(*outer, *inner).flatten(len(outer)), -1)
    for axis in inner if keepdim else ():
        found = found.unsqueeze(axis)
    return found


def torch_prod(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim)
    return x


def reduce_cases() -> Iterator[Case]:
    x = np.random.default_rng(12).normal(size=(2, 3, 4, 5))
    for kind in REDUCTIONS:
        for axes, keep in itertools.product(((1,), (2, 3), (-1, 0), (0, 1, 2, 3)), (True, False)):
            function = _TORCH_REDUCTIONS.get(kind, torch_prod)
            yield Case(
                op=ops.Reduce(kind=kind, axes=axes, keep=keep),
                inputs=[x],
                expected=lambda x, f=function, a=axes, k=keep: f(x, a, keepdim=k),
            )


# Resizing ----------------------------------------------------------------------------------

_LINEAR = ("linear", "bilinear", "trilinear")


def resize_cases() -> Iterator[Case]:
    scales = (Fraction(3, 2), Fraction(2), Fraction(5, 4), Fraction(1, 2), Fraction(3))
    for index, random in enumerate(draws(13, 60)):
        rank = 1 + index % 3
        x = random.normal(size=(1, 2, *some(random, rank, 2, 9)))
        size = some(random, rank, 1, 12)
        scale = tuple(scales[int(random.integers(len(scales)))] for _ in range(rank))
        by_size, by_scale = ops.Resize(size=size), ops.Resize(scale=scale)

        def of(op: ops.Resize, mode: str, corners: bool | None, x: Array = x) -> Case:
            def expected(x: Tensor) -> Tensor:
                factors = [float(s) for s in op.scale] or None
                return F.interpolate(x, op.size or None, factors, mode=mode, align_corners=corners)

            return Case(op=op, inputs=[x], expected=expected)

        # Torch, unlike ONNX, forgets the scale of an axis that keeps its size, or that doubles it.
        # Its cubic and "exact" modes do not.
        after = [int(n * s) for n, s in zip(x.shape[2:], scale, strict=True)]
        forgets = any(
            s not in {1, 2} and many in {n, 2 * n}
            for n, s, many in zip(x.shape[2:], scale, after, strict=True)
        )
        for op in (by_size, by_scale):
            if not (op.scale and forgets):
                yield of(op, "nearest", None)
            exact = replace(op, alignment="half_pixel", rounding="round_prefer_ceil")
            yield of(exact, "nearest-exact", None)
            linear = replace(op, mode="linear", alignment="half_pixel")
            if not (op.scale and forgets):
                yield of(linear, _LINEAR[rank - 1], False)
            if rank == 2:
                yield of(replace(linear, mode="cubic"), "bicubic", False)
        corners = replace(by_size, mode="linear", alignment="align_corners")
        yield of(corners, _LINEAR[rank - 1], True)
        if rank == 2:
            yield of(replace(corners, mode="cubic"), "bicubic", True)
            # The scale counts where it is too small to change the size.
            barely = ops.Resize(scale=(Fraction(17, 16),) * 2, mode="cubic", alignment="half_pixel")
            yield of(barely, "bicubic", False)


def test_a_linear_resize_follows_onnx_where_torch_has_no_such_mode() -> None:
    """The formulas of ONNX Resize, written out for one axis of [0, 1, 4]."""
    x = np.array([[[0.0, 1.0, 4.0]]])
    asymmetric = ops.Resize(scale=(Fraction(2),), mode="linear")  # output i lies at i / 2
    np.testing.assert_allclose(apply(asymmetric, [x], [])[0][0, 0], [0, 0.5, 1, 2.5, 4, 4])
    barely = ops.Resize(scale=(Fraction(5, 4),), mode="linear", alignment="half_pixel")
    at = [(i + 0.5) * 0.8 - 0.5 for i in range(3)]  # -0.1, 0.7, 1.5
    np.testing.assert_allclose(
        apply(barely, [x], [])[0][0, 0], np.interp(at, [0, 1, 2], [0, 1, 4]), atol=1e-12
    )
    one = ops.Resize(size=(1,), mode="linear", alignment="pytorch_half_pixel")
    np.testing.assert_array_equal(apply(one, [x], [])[0], [[[0.0]]])


# The comparison ----------------------------------------------------------------------------

FAMILIES = (
    activation_cases,
    arithmetic_cases,
    norm_cases,
    product_cases,
    rearranging_cases,
    pad_cases,
    reduce_cases,
    resize_cases,
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_it_computes_what_torch_computes(
    family: Callable[[], Iterator[Case]], matches_torch: Callable[..., None]
) -> None:
    count = 0
    for case in family():
        matches_torch(*case)
        count += 1
    assert count >= 10


def test_every_operator_and_every_kind_has_a_case() -> None:
    cases = [case.op for family in FAMILIES for case in family()]
    elsewhere = {ops.Conv, ops.Pool, ops.GlobalPool, ops.AdaptivePool}
    elsewhere |= {ops.DeformConv, ops.Fold, ops.GridSample, ops.Unfold, ops.Unpool}
    public = (getattr(ops, name) for name in ops.__all__)
    operators = {p for p in public if isinstance(p, type) and issubclass(p, ops.Operator)}
    assert {type(op) for op in cases} == operators - elsewhere - {ops.Operator, ops.Unsupported}
    for kind, names in (
        (ops.Activation, ACTIVATIONS),
        (ops.Unary, UNARIES),
        (ops.Elementwise, ELEMENTWISE),
        (ops.Reduce, REDUCTIONS),
    ):
        assert {op.kind for op in cases if isinstance(op, kind)} == set(names)
