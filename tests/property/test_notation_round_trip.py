"""What is printed parses back, for graphs of every operator and every name."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from convsmith.errors import ConvsmithError
from convsmith.graph import Constant, Graph, GraphBuilder, Shape, parse
from convsmith.graph import operators as ops
from convsmith.graph.operators import Operator, roles
from convsmith.graph.shape import infer_shapes, parameter_shapes

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


ORDERS = st.sampled_from(["crd", "dcr"])


def window(rank: int) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "kernel": per_axis(SMALL, rank),
        "stride": per_axis(SMALL, rank),
        "padding": paddings(rank),
        "dilation": per_axis(SMALL, rank),
    }


def unfold(rank: int) -> st.SearchStrategy[Operator]:
    return st.builds(ops.Unfold, **window(rank))


@st.composite
def with_second(draw: st.DrawFn, x: Shape) -> tuple[Operator, list[Shape]]:
    """Operators of several inputs, and the shapes of those behind the first."""
    rank = len(x) - 2
    kind = draw(st.sampled_from(["gather", "along", "where", "grid", "deform", "unpool", "einsum"]))
    axis = draw(st.integers(0, len(x) - 1))
    match kind:
        case "gather":
            return ops.Gather(axis=axis), [draw(st.sampled_from([(), (3,), (2, 2)]))]
        case "along":
            return ops.Gather(axis=axis, along=True), [x]
        case "where":
            return ops.Where(), [x, (1,)]
        case "einsum" if len(x) > 1:
            letters = "abcdefg"[: len(x)]
            return ops.Einsum(equation=f"{letters},{letters}->{letters[0]}"), [x]
        case "grid" if rank > 0:
            op = draw(st.builds(ops.GridSample, aligned=st.booleans(),
                mode=st.sampled_from(["nearest", "linear", "cubic"]),
                beyond=st.sampled_from(["zeros", "border", "reflection"])))  # fmt: skip
            return op, [(x[0], *(3,) * rank, rank)]
        case "unpool" if rank > 0:
            return ops.Unpool(size=draw(per_axis(st.integers(4, 9), rank))), [x]
        case "deform" if rank > 0:
            whole = st.sampled_from([1, x[1] or 1])
            made = draw(st.builds(ops.DeformConv, channels=st.just(x[1] * 2),
                groups=whole, offset_groups=whole,
                bias=st.booleans(), **window(rank)))  # fmt: skip
            unfolded = ops.Unfold(
                **{
                    name: getattr(made, name)
                    for name in ("kernel", "stride", "padding", "dilation")
                }
            )
            try:
                shape = infer_shapes(unfolded, x)[0]
            except ConvsmithError:
                return ops.Where(), [x, x]
            assert shape is not None
            taps = made.offset_groups * math.prod(made.kernel)
            offsets = (x[0], taps * rank, *shape[2:])
            return made, [offsets, (x[0], taps, *shape[2:])][: draw(st.integers(1, 2))]
    return ops.Where(), [x, x]


def fold_of(x: Shape) -> st.SearchStrategy[tuple[Operator, Shape]]:
    """A fold, and the shape of the columns that it takes."""
    rank = len(x) - 2
    size = tuple(s + 3 for s in x[2:])
    ones = (1,) * rank
    op = ops.Fold(
        size=size, kernel=(2,) * rank, stride=ones, padding=((0, 0),) * rank, dilation=ones
    )
    return st.just((op, (x[0], x[1] * 2**rank, *(s - 1 for s in size))))


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
        st.builds(ops.Cast, dtype=st.sampled_from(ops.TYPES)),
        st.builds(ops.Flip, axes=one_or_more),
        st.builds(ops.Cumulate, kind=st.sampled_from(["sum", "prod"]), axis=axis,
                  exclusive=st.booleans(), reverse=st.booleans()),
        st.builds(ops.TopK, count=st.just(1), axis=axis, largest=st.booleans()),
        st.permutations("abcdefg"[:rank]).map(lambda p: ops.Einsum(
            equation=f"{'abcdefg'[:rank]}->{''.join(p[:2])}")),
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
        st.builds(ops.LocalResponseNorm, size=SMALL, alpha=NUMBERS, beta=NUMBERS, k=NUMBERS,
                  lean=st.sampled_from(["upper", "lower"])),
        st.builds(ops.Norm, kind=st.just("rms"), axes=st.just(1), affine=st.booleans()),
        unfold(rank - 2),
        st.builds(ops.SpaceToDepth, block=per_axis(st.integers(1, 2), rank - 2), order=ORDERS),
        st.builds(ops.DepthToSpace, block=per_axis(st.integers(1, 2), rank - 2), order=ORDERS),
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
            if x and draw(st.integers(0, 4)) == 0:
                op, shapes = draw(with_second(x))
                inputs += [builder.input(new_name(), shape) for shape in shapes]
            elif len(x) > 2 and draw(st.integers(0, 9)) == 0:
                op, columns = draw(fold_of(x))
                inputs = [builder.input(new_name(), columns)]
                x = columns
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
@settings(max_examples=250)
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
    x = (1, 4, 6, 6)
    several = st.one_of(with_second(x), fold_of(x)).map(lambda pair: pair[0])
    anything = st.one_of(operators(x), several)
    # The first that is found: looking for the simplest takes most of the time.
    any_one = settings(
        max_examples=50_000, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    assert isinstance(find(anything, lambda op: isinstance(op, kind), settings=any_one), kind)
