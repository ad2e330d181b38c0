"""Convolutions and poolings, evaluated in float64, against torch's functions in float64.

And what holds for the evaluation of every operator: the tables have no holes, and errors name
the node.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor

from convsmith.errors import DataError, ShapeError, UnsupportedOperatorError
from convsmith.graph import Constant, GraphBuilder, evaluate, operator_text, parse
from convsmith.graph import operators as ops
from convsmith.graph.compute import compute, sliding
from convsmith.graph.operators import Padding
from convsmith.graph.shape import effective_kernel, infer_shapes

Array = npt.NDArray[Any]
Expected = Callable[..., Tensor]


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


def conv(rank: int) -> Callable[..., Tensor]:
    return (F.conv1d, F.conv2d, F.conv3d)[rank - 1]


def same_padding(op: ops.Conv | ops.Pool, sizes: Sequence[int]) -> Padding:
    """TensorFlow's rule as its documentation words it, unlike the one in the shape table."""
    pairs = []
    for size, kernel, stride, dilation in zip(
        sizes, op.kernel, op.stride, op.dilation, strict=True
    ):
        rest = stride if size % stride == 0 else size % stride
        total = max((kernel - 1) * dilation + 1 - rest, 0)
        small = total // 2
        pairs.append((small, total - small) if op.same == "upper" else (total - small, small))
    return tuple(pairs)


# Windows -----------------------------------------------------------------------------------


def convolutions(transposed: bool) -> Iterator[tuple[np.random.Generator, ops.Conv, Case]]:
    """Random convolutions with their arrays, without what is expected."""
    for index, random in enumerate(draws(1 + transposed, 120)):
        rank = 1 + index % 3
        groups = int(random.choice([1, 1, 2, 3]))
        depth, width = groups * int(random.integers(1, 4)), groups * int(random.integers(1, 4))
        if index % 10 == 0:
            groups = depth = width
        kernel, dilation = some(random, rank, 1, 4), some(random, rank, 1, 3)
        sizes = tuple(
            max(1, effective_kernel(k, d) - int(random.integers(0, 3)) + int(random.integers(0, 6)))
            for k, d in zip(kernel, dilation, strict=True)
        )
        padding = tuple(
            (
                int(random.integers(0, 3)) + max(0, effective_kernel(k, d) - size),
                int(random.integers(0, 3)),
            )
            for k, d, size in zip(kernel, dilation, sizes, strict=True)
        )
        bias = bool(random.integers(2))
        op = ops.Conv(
            channels=width,
            kernel=kernel,
            stride=some(random, rank, 1, 3),
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        shape = (depth, width // groups) if transposed else (width, depth // groups)
        weight = random.normal(size=(*shape, *kernel))
        parameters = [weight, random.normal(size=width)] if bias else [weight]
        x = random.normal(size=(int(random.integers(1, 3)), depth, *sizes))
        yield random, op, Case(op=op, inputs=[x], parameters=parameters, expected=torch.clone)


def convolve(op: ops.Conv, x: Tensor, *parameters: Tensor) -> Tensor:
    return conv(len(op.kernel))(
        x, *parameters, stride=op.stride, dilation=op.dilation, groups=op.groups
    )


def conv_cases() -> Iterator[Case]:
    for _, op, case in convolutions(transposed=False):

        def padded(x: Tensor, *parameters: Tensor, op: ops.Conv = op) -> Tensor:
            return convolve(op, F.pad(x, torch_order(op.padding)), *parameters)

        yield case._replace(expected=padded)


def same_conv_cases() -> Iterator[Case]:
    for random, op, case in convolutions(transposed=False):
        same = replace(op, same=random.choice(["upper", "lower"]))
        pads = torch_order(same_padding(same, case.inputs[0].shape[2:]))

        def padded(
            x: Tensor, *parameters: Tensor, op: ops.Conv = same, pads: list[int] = pads
        ) -> Tensor:
            return convolve(op, F.pad(x, pads), *parameters)

        yield case._replace(op=same, expected=padded)


def ceil_conv_cases() -> Iterator[Case]:
    """The rule of torch's pooling_output_shape: the last window may be incomplete, not outside."""
    for _, op, case in convolutions(transposed=False):
        ceil = replace(op, rounding="ceil")

        def padded(x: Tensor, *parameters: Tensor, op: ops.Conv = ceil) -> Tensor:
            more = tuple((low, high + s - 1) for (low, high), s in zip(
                op.padding, op.stride, strict=True
            ))  # fmt: skip
            y = convolve(op, F.pad(x, torch_order(more)), *parameters)
            for axis, (size, (low, high), s) in enumerate(
                zip(x.shape[2:], op.padding, op.stride, strict=True), start=2
            ):
                extent = effective_kernel(op.kernel[axis - 2], op.dilation[axis - 2])
                count = -(-(size + low + high - extent) // s) + 1
                outside = (count - 1) * s >= size + low  # only the last one is looked at
                y = y.narrow(axis, 0, count - outside)
            return y

        yield case._replace(op=ceil, expected=padded)


def transposed_cases() -> Iterator[Case]:
    for random, op, case in convolutions(transposed=True):
        rank = len(op.kernel)
        extra = tuple(int(random.integers(0, s)) for s in op.stride)
        full = tuple(
            (size - 1) * s + effective_kernel(k, d) + e
            for size, s, k, d, e in zip(
                case.inputs[0].shape[2:], op.stride, op.kernel, op.dilation, extra, strict=True
            )
        )
        padding = tuple(
            (min(low, (size - 1) // 2), min(high, (size - 1) // 2))
            for (low, high), size in zip(op.padding, full, strict=True)
        )
        turned = replace(op, transposed=True, output_padding=extra, padding=padding)

        def cropped(x: Tensor, *parameters: Tensor, op: ops.Conv = turned) -> Tensor:
            function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[
                len(op.kernel) - 1
            ]
            bias = parameters[1] if op.bias else None
            y = function(
                x, parameters[0], bias, op.stride, 0, op.output_padding, op.groups, op.dilation
            )
            return F.pad(y, [-side for side in torch_order(op.padding)])

        assert rank == len(extra)
        yield case._replace(op=turned, expected=cropped)


def pools(seed: int) -> Iterator[tuple[np.random.Generator, ops.Pool, Array]]:
    for index, random in enumerate(draws(seed, 90)):
        rank = 1 + index % 3
        kernel, dilation = some(random, rank, 1, 4), some(random, rank, 1, 2)
        op = ops.Pool(
            kind="max",
            kernel=kernel,
            stride=some(random, rank, 1, 4),
            padding=tuple((int(random.integers(0, k // 2 + 1)),) * 2 for k in kernel),
            dilation=dilation,
            rounding=random.choice(["floor", "ceil"]),
        )
        sizes = (effective_kernel(k, d) for k, d in zip(kernel, dilation, strict=True))
        spatial = tuple(size + int(random.integers(0, 5)) for size in sizes)
        yield random, op, random.normal(size=(2, 3, *spatial)) - 5  # a padded 0 would be seen


def max_pool_cases() -> Iterator[Case]:
    for random, op, x in pools(3):

        def symmetric(x: Tensor, op: ops.Pool = op) -> Tensor:
            function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(op.kernel) - 1]
            pads = [low for low, _ in op.padding]
            ceil = op.rounding == "ceil"
            return function(x, op.kernel, op.stride, pads, op.dilation, ceil)

        yield Case(op=op, inputs=[x], expected=symmetric)
        padding = tuple((int(random.integers(0, k)), int(random.integers(0, k))) for k in op.kernel)
        for other in (
            replace(op, padding=padding, rounding="floor"),
            replace(op, same=random.choice(["upper", "lower"]), rounding="floor"),
        ):
            pads = other.padding if other.same is None else same_padding(other, x.shape[2:])

            def padded(x: Tensor, op: ops.Pool = other, pads: Padding = pads) -> Tensor:
                function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(op.kernel) - 1]
                x = F.pad(x, torch_order(pads), value=-torch.inf)
                return function(x, op.kernel, op.stride, 0, op.dilation)

            yield Case(op=other, inputs=[x], expected=padded)


def average(op: ops.Pool, x: Tensor, pads: list[int] | int = 0) -> Tensor:
    function: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(op.kernel) - 1]
    return function(x, op.kernel, op.stride, pads, op.rounding == "ceil", op.count_padding)


def average_pool_cases() -> Iterator[Case]:
    for random, pool, x in pools(4):
        op = replace(
            pool,
            kind="average",
            dilation=(1,) * len(pool.kernel),
            count_padding=bool(random.integers(2)),
        )

        def symmetric(x: Tensor, op: ops.Pool = op) -> Tensor:
            return average(op, x, [low for low, _ in op.padding])

        yield Case(op=op, inputs=[x], expected=symmetric)
        padding = tuple((int(random.integers(0, k)), int(random.integers(0, k))) for k in op.kernel)
        for other in (
            replace(op, padding=padding, rounding="floor"),
            replace(op, same=random.choice(["upper", "lower"]), rounding="floor"),
        ):
            pads = other.padding if other.same is None else same_padding(other, x.shape[2:])

            def padded(x: Tensor, op: ops.Pool = other, pads: Padding = pads) -> Tensor:
                total = average(op, F.pad(x, torch_order(pads)))
                if op.count_padding:
                    return total
                return total / average(op, F.pad(torch.ones_like(x), torch_order(pads)))

            yield Case(op=other, inputs=[x], expected=padded)


def other_pool_cases() -> Iterator[Case]:
    for index, random in enumerate(draws(5, 40)):
        rank = 1 + index % 3
        x = random.normal(size=(2, 3, *some(random, rank, 1, 11)))
        size = some(random, rank, 0, 7)
        wanted = [want or have for want, have in zip(size, x.shape[2:], strict=True)]
        largest = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[rank - 1]
        mean = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[rank - 1]

        def pooled(x: Tensor, function: Any = None, size: Sequence[int] = ()) -> Tensor:
            result: Tensor = function(x, list(size))
            return result

        for kind, function in (("max", largest), ("average", mean)):
            yield Case(
                op=ops.AdaptivePool(kind=kind, size=size),  # type: ignore[arg-type]
                inputs=[x],
                expected=lambda x, f=function, s=wanted: pooled(x, f, s),
            )
            yield Case(
                op=ops.GlobalPool(kind=kind),  # type: ignore[arg-type]
                inputs=[x],
                expected=lambda x, f=function, r=rank: pooled(x, f, (1,) * r),
            )


# The comparison ----------------------------------------------------------------------------

FAMILIES = (
    conv_cases,
    same_conv_cases,
    ceil_conv_cases,
    transposed_cases,
    max_pool_cases,
    average_pool_cases,
    other_pool_cases,
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


def wrong(case: Case, matches_torch: Callable[..., None]) -> bool:
    try:
        matches_torch(*case)
    except AssertionError:
        return True
    return False


def test_the_comparison_can_fail(
    monkeypatch: pytest.MonkeyPatch, matches_torch: Callable[..., None]
) -> None:
    cases = list(itertools.islice(conv_cases(), 60))

    def flipped(case: Case) -> Case:
        return case._replace(expected=lambda x, w, *bias: case.expected(x, w.flip(2), *bias))

    tall = [case for case in cases if case.parameters[0].shape[2] > 1]
    assert sum(wrong(flipped(case), matches_torch) for case in tall) > 0.9 * len(tall) > 30
    right = sliding._convolve
    monkeypatch.setattr(sliding, "_convolve", lambda *a: right(*a) * (1 + 1e-8))
    assert sum(wrong(case, matches_torch) for case in cases) > 0.9 * len(cases)


def test_upper_and_lower_are_told_apart(matches_torch: Callable[..., None]) -> None:
    swapped = [
        case._replace(op=replace(case.op, same="upper" if case.op.same == "lower" else "lower"))
        for case in same_conv_cases()
        if isinstance(case.op, ops.Conv) and case.op.same is not None
    ]
    assert sum(wrong(case, matches_torch) for case in swapped) > 20


# The holes ---------------------------------------------------------------------------------

OPERATORS = tuple(
    value
    for value in (getattr(ops, name) for name in ops.__all__)
    if isinstance(value, type) and issubclass(value, ops.Operator) and value is not ops.Operator
)
NOT_COMPUTED = {ops.Unsupported}
NO_SHAPE: set[type[ops.Operator]] = set()
NO_NOTATION: set[type[ops.Operator]] = set()


def holes(table: Any) -> set[type[ops.Operator]]:
    return {kind for kind in OPERATORS if table.dispatch(kind) is table.dispatch(object)}


def test_every_operator_is_in_every_table() -> None:
    assert not [kind for kind in OPERATORS if kind.__subclasses__()], "operators are final"
    assert holes(compute) == NOT_COMPUTED
    assert holes(infer_shapes) == NO_SHAPE
    assert holes(operator_text) == NO_NOTATION


# Errors ------------------------------------------------------------------------------------


def test_errors_name_the_node() -> None:
    small = np.zeros((1, 3, 2, 2))
    with pytest.raises(ShapeError, match=r"^maxpool1: kernel 3x3 does not fit input 2x2"):
        evaluate.evaluate(parse("3@8 > maxpool 3/2"), {"x": small})
    with pytest.raises(DataError) as error:
        evaluate.evaluate(parse("3@8 > conv 4 3 p1"), {"x": np.zeros((1, 3, 8, 8))})
    assert str(error.value) == (
        "conv1: its tensor 'conv1.weight' has no weights, only a shape; load a trained network."
    )
    with pytest.raises(DataError, match=r"^input 'x' is missing; give an array for it\.$"):
        evaluate.evaluate(parse("3@8 > relu"), {"y": small})
    builder = GraphBuilder()
    x = builder.input("x", (1, 3, 2, 2))
    y = builder.add(ops.Unsupported(kind="Warp"), x, name="warp1")
    with pytest.raises(UnsupportedOperatorError) as unsupported:
        evaluate.evaluate(builder.build(y), {"x": small})
    assert str(unsupported.value) == (
        "warp1: operator 'Warp' cannot be computed; remove it or keep it out of the network."
    )


def test_inputs_that_do_not_fit_the_weights_are_an_error_of_the_node() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 3, 4, 4))
    weight = builder.constant("w", Constant.of(np.zeros((2, 3, 1, 1))))
    op = ops.Conv(
        channels=2, kernel=(1, 1), stride=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1), bias=False
    )
    net = builder.build(builder.add(op, x, name="conv1", parameters=[weight]))
    with pytest.raises(
        ShapeError, match=r"^conv1: its weight has shape \(2, 3, 1, 1\), the layer needs \(2, 5,"
    ) as error:
        evaluate.evaluate(net, {"x": np.zeros((1, 5, 4, 4))})
    assert "check the number of input channels" in str(error.value)
