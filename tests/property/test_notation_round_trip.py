"""What is printed parses back, for graphs of every operator and every name."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from convsmith.errors import ConvsmithError
from convsmith.graph import Constant, Graph, GraphBuilder, Shape, parse
from convsmith.graph import operators as ops
from convsmith.graph.operators import Operator, roles
from convsmith.graph.shape import parameter_shapes

NAMES = st.one_of(
    st.from_regex(r"[a-z][a-z0-9_.]{0,6}", fullmatch=True),
    st.sampled_from(["return", "x y", 'a"b', "a\\b", "😀", "(", "{", "}", "=", ":", ">", "\n", "\t",
                     "<1,2>", "<", "", " ", "parameter", "x2", "-", "été", "\u2028", "\x85", "\0"]),
    st.text(max_size=4),
)  # fmt: skip
NUMBERS = st.floats(allow_nan=False)
SMALL = st.integers(1, 4)
SAME: st.SearchStrategy[ops.Same | None] = st.sampled_from([None, None, "upper", "lower"])
ROUNDING: st.SearchStrategy[Literal["floor", "ceil"]] = st.sampled_from(["floor", "ceil"])


def per_axis(numbers: st.SearchStrategy[int], rank: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[numbers] * rank)


def paddings(rank: int, least: int = 0) -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    side = st.integers(least, 3)
    return st.tuples(*[st.tuples(side, side)] * rank)


@st.composite
def conv(draw: st.DrawFn, x: Shape) -> Operator:
    rank = len(x) - 2
    groups = draw(st.sampled_from([g for g in range(1, x[1] + 1) if x[1] % g == 0]))
    same = draw(SAME)
    turned = draw(st.booleans())
    return ops.Conv(
        channels=groups * draw(SMALL),
        kernel=draw(per_axis(SMALL, rank)),
        stride=draw(per_axis(SMALL, rank)),
        padding=((0, 0),) * rank if same else draw(paddings(rank)),
        same=same,
        dilation=draw(per_axis(SMALL, rank)),
        groups=groups,
        bias=draw(st.booleans()),
        rounding=draw(ROUNDING),
        transposed=turned,
        output_padding=draw(st.sampled_from([(), (1,) * rank])) if turned else (),
    )


@st.composite
def pool(draw: st.DrawFn, x: Shape) -> Operator:
    rank = len(x) - 2
    same = draw(SAME)
    return ops.Pool(
        kind=draw(st.sampled_from(["max", "average"])),
        kernel=draw(per_axis(SMALL, rank)),
        stride=draw(per_axis(SMALL, rank)),
        padding=((0, 0),) * rank if same else draw(paddings(rank)),
        same=same,
        dilation=draw(per_axis(SMALL, rank)),
        rounding=draw(ROUNDING),
        count_padding=draw(st.booleans()),
    )


MODES: st.SearchStrategy[Literal["nearest", "linear", "cubic"]] = st.sampled_from(
    ["nearest", "linear", "cubic"]
)
ALIGNMENTS: st.SearchStrategy[
    Literal["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"]
] = st.sampled_from(["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"])
PICKS: st.SearchStrategy[Literal["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]] = (
    st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
)


@st.composite
def resize(draw: st.DrawFn, x: Shape) -> Operator:
    rank = len(x) - 2
    scale = st.builds(Fraction, st.integers(1, 9), st.integers(1, 9))
    by_scale = draw(st.booleans())
    return ops.Resize(
        scale=draw(st.tuples(*[scale] * rank)) if by_scale else (),
        size=() if by_scale else draw(per_axis(SMALL, rank)),
        mode=draw(MODES),
        alignment=draw(ALIGNMENTS),
        rounding=draw(PICKS),
    )


def activation() -> st.SearchStrategy[Operator]:
    option = st.none() | NUMBERS
    return st.builds(
        ops.Activation,
        kind=st.sampled_from(ops.ACTIVATIONS),
        alpha=option,
        beta=option,
        low=option,
        high=option,
    )


def operators(x: Shape) -> st.SearchStrategy[Operator]:
    """Operators of one input that may fit a shape."""
    rank = len(x)
    axis = st.integers(0, rank - 1)
    one_or_more = st.lists(axis, min_size=1, max_size=rank, unique=True).map(tuple)
    any_rank: list[st.SearchStrategy[Operator]] = [
        activation(),
        st.builds(ops.Unary, kind=st.sampled_from(ops.UNARIES)),
        st.builds(ops.Softmax, axis=st.integers(-rank, rank - 1), log=st.booleans()),
        st.builds(ops.Linear, features=SMALL, bias=st.booleans()),
        st.builds(ops.Concat, axis=axis),
        st.builds(ops.Pad, padding=paddings(rank, -1), value=NUMBERS,
                  mode=st.sampled_from(["constant", "reflect", "edge", "wrap"])),
        st.just(ops.Reshape(shape=(-1,))),
        st.builds(ops.Flatten, axis=st.integers(0, rank), last=st.integers(-1, rank - 1)),
        st.permutations(range(rank)).map(lambda p: ops.Transpose(permutation=tuple(p))),
        st.just(ops.Expand(shape=(2, *x))),
        st.builds(ops.Reduce, kind=st.sampled_from(ops.REDUCTIONS), axes=one_or_more,
                  keep=st.booleans()),
        st.builds(ops.Identity, kind=st.sampled_from(["identity", "dropout", "cast"])),
        st.builds(ops.Norm, kind=st.just("layer"), axes=st.integers(1, rank),
                  affine=st.booleans(), epsilon=NUMBERS),
        axis.map(lambda a: ops.Split(axis=a, sizes=(1, x[a] - 1) if x[a] > 1 else (1,))),
        st.builds(ops.Slice, ranges=st.tuples(
            st.tuples(axis, st.integers(0, 3), st.none() | st.integers(0, 9), SMALL))),
        st.builds(ops.Unsupported, kind=NAMES, shapes=st.lists(
            st.none() | st.just(x), min_size=1, max_size=3).map(tuple)),
    ]  # fmt: skip
    if rank < 3:
        return st.one_of(any_rank)
    images: list[st.SearchStrategy[Operator]] = [
        conv(x),
        conv(x),
        pool(x),
        resize(x),
        st.builds(ops.GlobalPool, kind=st.sampled_from(["max", "average"])),
        st.builds(ops.AdaptivePool, kind=st.sampled_from(["max", "average"]),
                  size=per_axis(st.integers(0, 3), rank - 2)),
        st.builds(ops.Norm, kind=st.sampled_from(["batch", "instance"]), affine=st.booleans(),
                  epsilon=NUMBERS),
        st.builds(ops.Norm, kind=st.just("group"), groups=st.just(x[1]), affine=st.booleans()),
        st.builds(ops.LocalResponseNorm, size=SMALL, alpha=NUMBERS, beta=NUMBERS, k=NUMBERS),
    ]  # fmt: skip
    return st.one_of(*any_rank, *images)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any network: several inputs and outputs, shared constants, odd names."""
    builder = GraphBuilder()
    values: list[str] = []

    def new_name() -> str:
        name = draw(NAMES)
        while name in builder.shapes:
            name += "'"
        return name

    for _ in range(draw(st.integers(1, 2))):
        spatial = draw(st.sampled_from([(6,), (6, 6), (5, 7), (3, 4, 3), ()]))
        shape = (draw(st.integers(1, 2)), draw(SMALL), *spatial)
        dtype = draw(st.sampled_from(["float32", "float32", "int8"]))
        values.append(builder.input(new_name(), shape, dtype))
    for _ in range(draw(st.integers(0, 6))):
        used = draw(st.sampled_from(values))
        x = builder.shapes[used]
        inputs = [used]
        if x is None:
            op: Operator = ops.Activation(kind="relu")
        elif draw(st.integers(0, 4)) == 0:
            inputs.append(draw(st.sampled_from(values)))
            kinds = st.sampled_from([ops.MatMul(), ops.Concat(), ops.Concat(axis=0)])
            op = draw(kinds | st.builds(ops.Elementwise, kind=st.sampled_from(ops.ELEMENTWISE)))
        else:
            op = draw(operators(x)) if x else ops.Activation(kind="relu")
        name = new_name()
        try:
            parameters = shared(draw, builder, op, x, new_name)
            values += builder.add_all(op, *inputs, name=name, parameters=parameters)
        except ConvsmithError:  # it does not fit: leave it out
            continue
    if draw(st.booleans()):
        constant = Constant(shape=(1,), learnable=draw(st.booleans()))
        values.append(builder.constant(new_name(), constant))
    wanted = draw(st.lists(st.tuples(NAMES, st.sampled_from(values)), max_size=3))
    return builder.build(*{**dict(wanted), values[-1]: values[-1]}.items())


def shared(
    draw: st.DrawFn,
    builder: GraphBuilder,
    op: Operator,
    x: Shape | None,
    new_name: Callable[[], str],
) -> list[str] | None:
    """Sometimes parameters with names of their own, also constants that exist already."""
    if x is None or not roles(op) or draw(st.booleans()):
        return None
    names = []
    for shape in parameter_shapes(op, x):
        fitting = [n for n, s in builder.shapes.items() if s == shape and builder.has_constant(n)]
        if draw(st.booleans()) and fitting:
            names.append(fitting[0])
        else:
            constant = Constant(
                shape=shape,
                learnable=draw(st.booleans()),
                dtype=draw(st.sampled_from(["float32", "float16"])),
            )
            names.append(builder.constant(new_name(), constant))
    return names


@given(graphs())
@settings(max_examples=400)
def test_every_graph_parses_back_to_an_equal_one(graph: Graph) -> None:
    assert parse(str(graph)) == graph


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(ops).values()
        if isinstance(kind, type)
        and issubclass(kind, Operator)
        and kind not in (Operator, ops.MatMul, ops.Elementwise)
    ],
)
def test_every_operator_takes_part(kind: type[Operator]) -> None:
    assert isinstance(find(operators((1, 2, 6, 6)), lambda op: isinstance(op, kind)), kind)
