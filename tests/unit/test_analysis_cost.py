"""Costs: the textbook's numbers, and every operator against its definition."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from convsmith.analysis import analyze
from convsmith.analysis.cost import FREE, UNSUPPORTED, Cost, cost
from convsmith.graph import Constant, Shape, parse
from convsmith.graph import operators as ops
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Operator
from convsmith.graph.shape import infer_shapes


def macs(notation: str) -> list[int]:
    """Multiply-accumulates of every layer that has some."""
    return [row.macs for row in analyze(parse(notation)).rows if row.macs]


def weights(notation: str) -> int:
    return analyze(parse(notation)).total.params


def of(op: Operator, *inputs: Shape) -> Cost:
    shape = infer_shapes(op, *inputs)[0]
    assert shape is not None
    return cost(op, inputs, shape)


# The worked examples that everybody checks by hand --------------------------------


def test_two_3x3_cost_less_than_one_5x5_on_28x28() -> None:
    stack = macs("1@28 > conv 1 3 nobias > conv 1 3 nobias")
    assert stack == [6_084, 5_184]
    assert sum(stack) == 11_268
    assert macs("1@28 > conv 1 5 nobias") == [14_400]
    assert pytest.approx(0.2175) == 1 - 11_268 / 14_400


def test_the_direct_convolution_has_81_multiplications() -> None:
    graph = parse("1@5 > conv 1 3 nobias")
    (row,) = analyze(graph).rows
    assert row.outputs == ((1, 1, 3, 3),)
    assert (row.mults, row.adds) == (81, 9 * 8)
    image = [[1, 2, 3, 0, 1], [4, 5, 6, 1, 2], [7, 8, 9, 2, 3], [1, 2, 3, 0, 1], [4, 5, 6, 1, 2]]
    kernel = Constant.of(np.array([[[[1.0, 0.0, -1.0]] * 3]]))
    graph = replace(graph, constants={"conv1.weight": kernel})
    made = evaluate(graph, {"x": np.array([[image]], float)})["conv1"]
    assert made.tolist() == [[[[-6, 12, 12], [-6, 12, 12], [-6, 12, 12]]]]


def test_a_5x5_against_two_3x3_of_64_channels() -> None:
    assert weights("64@28 > conv 64 5 p2 nobias") == 102_400
    assert weights("64@28 > conv 64 3 p1 nobias > conv 64 3 p1 nobias") == 73_728
    assert weights("64@28 > conv 64 5 p2") == 102_464
    assert weights("64@28 > conv 64 3 p1 > conv 64 3 p1") == 73_856


def test_a_7x7_against_three_3x3() -> None:
    assert weights("16@28 > conv 16 7 p3 nobias") == 49 * 16**2
    three = "16@28 > ( conv 16 3 p1 nobias ) x3"
    assert weights(three) == 27 * 16**2
    assert sum(macs(three)) == 27 * 28 * 28 * 16**2


def test_a_stack_with_a_middle_width() -> None:
    assert weights("10@28 > conv 7 3 p1 nobias > conv 20 3 p1 nobias") == 9 * 10 * 7 + 9 * 7 * 20


def test_the_1x1_bottleneck() -> None:
    assert macs("192@28 > conv 32 5 p2") == [120_422_400]
    reduced = macs("192@28 > conv 16 1 > conv 32 5 p2")
    assert reduced == [2_408_448, 10_035_200]
    assert sum(reduced) == 12_443_648


PLAIN = "[ conv 64 1 nobias | conv 128 3 p1 nobias | conv 32 5 p2 nobias | maxpool 3/1 p1 ]"
REDUCED = (
    "[ conv 64 1 nobias | conv 96 1 nobias > conv 128 3 p1 nobias"
    " | conv 16 1 nobias > conv 32 5 p2 nobias | maxpool 3/1 p1 > conv 32 1 nobias ]"
)


@pytest.mark.parametrize(
    ("module", "count", "channels"), [(PLAIN, 387_072, 416), (REDUCED, 163_328, 256)]
)
def test_inception(module: str, count: int, channels: int) -> None:
    analysis = analyze(parse(f"192@28 > {module}"))
    assert analysis.total.params == count
    assert analysis.outputs["y"].shape == (1, channels, 28, 28)


@pytest.mark.parametrize("n", [3, 5, 7])
def test_an_asymmetric_pair_has_two_nths_of_the_weights(n: int) -> None:
    square = weights(f"8@28 > conv 8 {n} nobias")
    pair = weights(f"8@28 > conv 8 1x{n} nobias > conv 8 {n}x1 nobias")
    assert pair * n == square * 2


def test_a_depthwise_separable_convolution() -> None:
    rows = analyze(parse("3@8 > dw 3 p1 nobias > conv 4 1 nobias")).rows
    assert [row.params for row in rows] == [27, 12]
    assert [row.macs for row in rows] == [27 * 64, 12 * 64]
    standard = sum(macs("3@8 > conv 4 3 p1 nobias"))
    assert sum(row.macs for row in rows) / standard == pytest.approx(1 / 4 + 1 / 9)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_groups_divide_parameters_and_multiplications(groups: int) -> None:
    assert weights(f"8@8 > conv 16 3 g{groups} nobias") * groups == 8 * 16 * 9
    assert macs(f"8@8 > conv 16 3 g{groups}")[0] * groups == 8 * 16 * 9 * 36


def test_weights_and_bias_of_one_layer() -> None:
    row = analyze(parse("3@224 > conv 64 7/2 p3")).rows[0]
    assert row.params == 64 * (7 * 7 * 3 + 1) == 9_472
    assert (row.macs, row.adds, row.flops) == (118_013_952, 118_013_952, 236_027_904)
    assert row.weight_bytes == 37_888


# What other tools get wrong -------------------------------------------------------


@pytest.mark.parametrize(
    ("notation", "count"),
    [
        ("3@32 > conv 8 3/2 p1", 55_296),
        ("2x4@8 > deconv 6 4/2 p1", 49_152),
        ("1@10 > conv 1 4 psame", 1_600),
        ("<5,10,3> > fc 8", 1_200),
        ("8@16 > conv 8 3 p1 > conv 8 3 p1", 294_912),
    ],
)
def test_macs_that_other_tools_count_otherwise(notation: str, count: int) -> None:
    assert sum(macs(notation)) == count


def test_a_product_of_two_values_counts() -> None:
    graph = parse("x : <1,8,8>\nt = transpose 0,2,1 (x)\ny = matmul (x t)\nreturn y")
    assert analyze(graph).total.macs == 512


def test_a_layer_used_twice_has_its_parameters_once() -> None:
    graph = parse(
        "x : 8@16\na = conv 8 3 p1 nobias (x)\nb = conv 8 3 p1 nobias {weight = a.weight} (a)\n"
        "return b"
    )
    analysis = analyze(graph)
    assert [row.params for row in analysis.rows] == [576, 576]
    assert analysis.total.params == 576
    assert analysis.total.weight_bytes == 4 * 576
    assert analysis.total.macs == 294_912


def test_stored_statistics_are_no_parameters_but_take_memory() -> None:
    row = analyze(parse("8@4 > bn")).rows[0]
    assert row.params == 16
    assert row.weight_bytes == 4 * 32


def test_a_learnable_constant_counts_where_it_is_used() -> None:
    graph = parse(
        "x : 4@2\nscale : parameter <4,1,1>\nshift : constant <4,1,1>\n"
        "a = mul (x scale)\nb = add (a shift)\nreturn b"
    )
    assert [row.params for row in analyze(graph).rows] == [4, 0]
    assert [row.inputs for row in analyze(graph).rows] == [((1, 4, 2, 2),)] * 2


# Every operator against its definition --------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_a_transposed_convolution_adds_what_meets(
    stride: int, dilation: int, kernel: int, bias: bool
) -> None:
    size = 4
    op = ops.Conv(
        channels=1,
        kernel=(kernel,),
        stride=(stride,),
        padding=((0, 0),),
        dilation=(dilation,),
        transposed=True,
        bias=bias,
    )
    products = Counter(i * stride + k * dilation for i in range(size) for k in range(kernel))
    outputs = (size - 1) * stride + dilation * (kernel - 1) + 1
    counted = of(op, (1, 1, size))
    assert counted.mults == products.total()
    assert counted.adds == sum(n - 1 for n in products.values()) + bias * outputs


@pytest.mark.parametrize(("size", "count"), [*itertools.product([1, 5, 7, 12], [1, 3, 4, 5, 12])])
def test_adaptive_pooling_has_the_windows_that_it_uses(size: int, count: int) -> None:
    lengths = [-(-(i + 1) * size // count) - i * size // count for i in range(count)]
    counted = of(ops.AdaptivePool(kind="average", size=(count,)), (1, 1, size))
    assert counted == Cost(adds=sum(lengths) - count, others=count)


WINDOW = {"stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
X = (2, 4, 6, 6)
N = 2 * 4 * 6 * 6


@pytest.mark.parametrize(
    ("op", "mults", "adds", "others"),
    [
        (ops.Pool(kind="max", kernel=(2, 2), **WINDOW), 0, 0, N // 4 * 3),  # type: ignore[arg-type]
        (ops.Pool(kind="average", kernel=(2, 2), **WINDOW), 0, N // 4 * 3, N // 4),  # type: ignore[arg-type]
        (ops.GlobalPool(kind="max"), 0, 0, 8 * 35),
        (ops.GlobalPool(kind="average"), 0, 8 * 35, 8),
        (ops.Norm(kind="batch"), N, N, 0),
        (ops.Norm(kind="instance"), 3 * N, 2 * (N - 8) + 2 * N + 8, 32),
        (ops.Norm(kind="group", groups=2, affine=False), 2 * N, 2 * (N - 4) + N + 4, 16),
        (ops.Norm(kind="layer", axes=1), 3 * N, 2 * (N - 48) + 2 * N + 48, 192),
        (ops.LocalResponseNorm(size=5), 2 * N, 5 * N, 2 * N),
        (ops.Activation(kind="relu"), 0, 0, N),
        (ops.Activation(kind="sigmoid"), 0, N, 2 * N),
        (ops.Activation(kind="hardswish"), 2 * N, N, 2 * N),
        (ops.Unary(kind="square"), N, 0, 0),
        (ops.Unary(kind="exp"), 0, 0, N),
        (ops.Softmax(axis=1), 0, N + N - N // 4, N - N // 4 + 2 * N),
        (ops.Softmax(axis=-1, log=True), 0, 2 * N + N - N // 6, N - N // 6 + N + N // 6),
        (ops.Linear(features=5, bias=False), 5 * N, 5 * (N - N // 6), 0),
        (ops.Resize(scale=(2, 2), mode="linear"), 16 * N, 12 * N, 0),  # type: ignore[arg-type]
        (ops.Resize(size=(6, 12), mode="cubic"), 8 * N, 6 * N, 0),
        (ops.Reduce(kind="mean", axes=(2, 3)), 0, 8 * 35, 8),
        (ops.Reduce(kind="sum", axes=(1,)), 0, N - N // 4, 0),
        (ops.Reduce(kind="max", axes=(1,)), 0, 0, N - N // 4),
        (ops.Reduce(kind="prod", axes=(1,)), N - N // 4, 0, 0),
        (ops.Reduce(kind="l1norm", axes=(1,)), 0, N - N // 4, N),
        (ops.Reduce(kind="l2norm", axes=(1,)), N, N - N // 4, N // 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Operator) else None,
)
def test_operations_of_one_input(op: Operator, mults: int, adds: int, others: int) -> None:
    counted = of(op, X)
    assert (counted.mults, counted.adds, counted.others) == (mults, adds, others)
    assert counted.status == "counted"
    assert counted.flops == mults + adds + others


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("add", Cost(adds=2 * N)), ("mul", Cost(mults=2 * N)), ("maximum", Cost(others=2 * N))],
)
def test_operations_element_by_element(kind: str, expected: Cost) -> None:
    assert of(ops.Elementwise(kind=kind), X, X, (4, 1, 1)) == expected


@pytest.mark.parametrize(
    "op",
    [
        ops.Concat(),
        ops.Expand(shape=X),
        ops.Flatten(),
        ops.Identity(),
        ops.Pad(padding=((0, 0), (0, 0), (1, 1), (1, 1))),
        ops.Reshape(shape=(-1,)),
        ops.Resize(size=(12, 12)),
        ops.Resize(size=(6, 6), mode="linear"),
        ops.Slice(ranges=((2, 0, None, 2),)),
        ops.Split(sizes=(1, 3)),
        ops.Transpose(permutation=(0, 2, 3, 1)),
    ],
    ids=lambda op: type(op).__name__,
)
def test_moving_elements_is_free_by_decision(op: Operator) -> None:
    assert of(op, X) == FREE


# Samples, columns, contractions, places ---------------------------------------------


def test_an_einsum_counts_from_the_left_to_the_right() -> None:
    product = of(ops.Einsum(equation="ij,jk->ik"), (2, 3), (3, 4))
    assert product == of(ops.MatMul(), (2, 3), (3, 4))
    assert (product.macs, product.adds) == (24, 16)
    # (2x3 by 3x4: 24 products, 16 additions), then (2x4 by 4x5: 40 products, 30 additions).
    chain = of(ops.Einsum(equation="ij,jk,kl->il"), (2, 3), (3, 4), (4, 5))
    assert (chain.macs, chain.adds) == (64, 46)
    # The other order costs otherwise: 3x4 by 4x5 first is 60 products.
    turned = of(ops.Einsum(equation="jk,kl,ij->il"), (3, 4), (4, 5), (2, 3))
    assert turned.macs == 60 + 2 * 3 * 5
    # An axis of one operand alone is summed before: 2 * 3 * 6 elements into 6, then 2 x 3 by 3.
    assert of(ops.Einsum(equation="ijs,jk->ik"), (2, 3, 6), (3, 4)) == Cost(
        macs=24, mults=24, adds=16 + 30
    )
    assert of(ops.Einsum(equation="ij->"), (2, 3)) == Cost(adds=5)
    assert of(ops.Einsum(equation="ij->ji"), (2, 3)).flops == 0
    assert of(ops.Einsum(equation="i,j->ij"), (2,), (3,)) == Cost(macs=6, mults=6)
    assert of(ops.Einsum(equation="ij,jk->ik"), (2, 0), (0, 4)).flops == 0


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_linear_samples_weigh_the_corners_of_a_cell(rank: int) -> None:
    """At 5 places: scale, floor and two shares per axis; corner weights; then per channel."""
    x, grid = (2, 3, *(4,) * rank), (2, 5, *(1,) * (rank - 1), rank)
    corners, places = 2**rank, 2 * 5
    count = of(ops.GridSample(), x, grid)
    assert count.mults == places * (rank + corners * (rank - 1) + 3 * corners)
    assert count.adds == places * (rank + 2 * rank + 3 * (corners - 1))
    assert count.others == places * rank
    held = of(ops.GridSample(beyond="border"), x, grid)
    assert held.others == 3 * count.others
    nearest = of(ops.GridSample(mode="nearest"), x, grid)
    assert (nearest.mults, nearest.adds, nearest.others) == (places * rank,) * 3
    assert count.macs == nearest.macs == 0


def test_a_deformable_convolution_is_samples_and_a_convolution() -> None:
    op = ops.DeformConv(
        channels=8, kernel=(3, 3), stride=(1, 1), padding=((1, 1),) * 2, dilation=(1, 1)
    )
    x, offset, factors = (1, 4, 5, 6), (1, 18, 5, 6), (1, 9, 5, 6)
    plain = of(parse("4@5x6 > conv 8 3 p1").nodes[0].op, x)
    count = of(op, x, offset)
    samples = 5 * 6 * 9
    assert count.macs == plain.macs == 5 * 6 * 8 * 4 * 9
    assert count.mults == plain.mults + samples * (4 + 4 * 4)
    assert count.adds == plain.adds + samples * (2 + 4 + 4 * 3)
    assert count.others == samples * 2
    assert of(op, x, offset, factors).mults == count.mults + samples * 4


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_folding_adds_what_meets(stride: int, dilation: int) -> None:
    """Against a count of how often every position is written."""
    op = ops.Fold(size=(9,), kernel=(3,), stride=(stride,), padding=((1, 1),), dilation=(dilation,))
    windows = (9 + 2 - 2 * dilation - 1) // stride + 1
    met = Counter(w * stride + tap * dilation for w in range(windows) for tap in range(3))
    count = of(op, (2, 4 * 3, windows))
    assert count == Cost(adds=2 * 4 * sum(times - 1 for times in met.values()))


WIDE = (2, 4, 6, 8)


def test_places_and_orders_are_comparisons() -> None:
    assert of(ops.Where(), WIDE, WIDE, (1,)).others == 2 * 4 * 6 * 8
    assert of(ops.Reduce(kind="argmax", axes=(1,)), WIDE).others == 2 * 6 * 8 * 3
    assert of(ops.TopK(count=1, axis=3), WIDE).others == 2 * 4 * 6 * 7
    assert of(ops.TopK(count=2, axis=3), WIDE).others == 2 * 4 * 6 * (7 + 6)
    assert of(ops.TopK(count=8, axis=3), WIDE).others == 2 * 4 * 6 * min(28, 8 * 3)
    assert of(ops.TopK(count=0, axis=3), WIDE).flops == 0
    assert of(ops.Cumulate(axis=3), WIDE) == Cost(adds=2 * 4 * 6 * 7)
    assert of(ops.Cumulate(axis=3, kind="prod", exclusive=True), WIDE) == Cost(mults=2 * 4 * 6 * 6)
    lines, elements = 2 * 4 * 6, 2 * 4 * 6 * 8
    assert of(ops.Reduce(kind="logsumexp", axes=(3,)), WIDE) == Cost(
        adds=elements + lines * 7 + lines, others=lines * 7 + elements + lines
    )


def test_rms_normalization_has_no_mean() -> None:
    layer = of(ops.Norm(kind="layer", axes=1), WIDE)
    rms = of(ops.Norm(kind="rms", axes=1), WIDE)
    sets, elements = 2 * 4 * 6, 2 * 4 * 6 * 8
    assert (rms.mults, rms.adds, rms.others) == (3 * elements, sets * 7 + sets, 3 * sets)
    assert rms.flops < layer.flops


@pytest.mark.parametrize(
    "op",
    [
        ops.Flip(axes=(2,)),
        ops.Cast(dtype="int64"),
        ops.DepthToSpace(block=(2, 2)),
        ops.SpaceToDepth(block=(2, 2)),
        ops.Unfold(kernel=(3, 3), stride=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1)),
    ],
)
def test_what_only_moves_elements_is_free(op: Operator) -> None:
    assert of(op, X) == FREE
    assert of(ops.Gather(), (50, 8), (2, 7)) == FREE
    assert of(ops.Unpool(size=(12, 12)), X, X) == FREE


def test_every_operator_has_a_row_in_the_table() -> None:
    kinds = [
        kind
        for kind in vars(ops).values()
        if isinstance(kind, type) and issubclass(kind, Operator) and kind is not Operator
    ]
    default: Callable[..., Cost] = cost.dispatch(Operator)
    assert [kind for kind in kinds if cost.dispatch(kind) is default] == []


@pytest.mark.parametrize("kind", ops.ACTIVATIONS)
def test_every_activation_is_counted(kind: str) -> None:
    assert of(ops.Activation(kind=kind), X).status == "counted"


@pytest.mark.parametrize("kind", ops.REDUCTIONS)
def test_every_reduction_is_counted(kind: str) -> None:
    assert of(ops.Reduce(kind=kind, axes=(1,)), X).flops > 0


def test_what_is_not_known_is_not_counted() -> None:
    assert cost(ops.Unsupported(kind="Foo"), (X,), X) == UNSUPPORTED
    assert of(ops.Activation(kind="surprise"), X) == UNSUPPORTED
