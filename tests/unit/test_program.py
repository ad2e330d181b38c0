"""What a compiled network promises besides its numbers, and the parts that it is made of."""

from __future__ import annotations

import threading
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.random_weights import random_network

import convsmith as cs
from convsmith.conv.spec import LAYOUTS, Layout
from convsmith.errors import DataError, ShapeError, UnsupportedOperatorError, UsageError
from convsmith.graph import Constant, Graph, GraphBuilder, parse
from convsmith.graph import operators as ops
from convsmith.graph.evaluate import evaluate
from convsmith.runtime.arena import Lifetime, place
from convsmith.runtime.program import Program
from convsmith.runtime.weights import random_weights

Array = npt.NDArray[Any]

NET = "3@8 > conv 4 3 p1 > bn > relu > ( conv 4 3 p1 + - ) > relu > gap > flatten > fc 3"


def program(notation: str = NET, **options: Any) -> Program:
    return cs.compile(random_network(notation), tune=False, **options)


def image(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def same(net: Graph, inputs: dict[str, Array], layout: Layout | None = None) -> Program:
    """Compiles, compares with the definition, returns the program."""
    made = cs.compile(net, tune=False, layout=layout)
    wanted = evaluate(net, inputs)
    got = made.run(inputs)
    assert list(got) == [output.name for output in net.outputs]
    for output in net.outputs:
        want: Any = wanted.get(output.value)
        want = net.constants[output.value].data if want is None else want
        assert got[output.name].shape == want.shape
        np.testing.assert_allclose(got[output.name], want, rtol=1e-4, atol=1e-5)
    return made


# Fusing --------------------------------------------------------------------------------


def test_norm_residual_and_activation_are_part_of_the_convolution() -> None:
    steps = program(layout="channels_first").describe().steps
    assert [step.nodes for step in steps] == [
        ("conv1", "bn1", "relu1"),
        ("conv2", "add1", "relu2"),
        ("gap1",),
        ("fc1",),
    ]


def test_a_value_that_is_read_elsewhere_stays() -> None:
    net = random_network("3@6 > conv 4 3 p1 > ( relu + - )")
    made = same(net, {"x": image(1, 3, 6, 6)})
    assert [step.nodes for step in made.describe().steps][:2] != [("conv1", "relu1")]


def test_a_value_that_is_returned_stays() -> None:
    net = random_network("3@6 > conv 4 3 p1 > relu")
    outputs = (*net.outputs, replace(net.outputs[0], name="before", value="conv1"))
    same(replace(net, outputs=outputs), {"x": image(1, 3, 6, 6)})


def test_functions_of_elements_are_one_step() -> None:
    made = program("3@6 > tanh > sigmoid > elu > maxpool 2/2", layout="channels_first")
    assert [step.nodes for step in made.describe().steps] == [
        ("tanh1", "sigmoid1", "elu1"),
        ("maxpool1",),
    ]


def test_concatenation_costs_nothing_where_parts_can_be_made_in_place() -> None:
    notation = "3@6 > conv 4 3 p1 > [ conv 2 1 | conv 3 1 | maxpool 3/1 p1 ] > conv 2 1"
    first = program(notation, layout="channels_first").describe().steps
    assert "copy" not in {step.algorithm for step in first}
    assert len(first) == 5


def test_dense_concatenations_of_concatenations() -> None:
    builder = GraphBuilder()
    builder.input("x", (1, 2, 4, 4))
    parts = [builder.add(ops.Activation(kind="relu"), "x", name="a")]
    for name in ("b", "c", "d"):
        whole = builder.add(ops.Concat(axis=1), *parts, name=f"concat_{name}")
        parts.append(builder.add(ops.Activation(kind="tanh"), whole, name=name))
    last = builder.add(ops.Concat(axis=1), *parts, parts[0], name="last")
    for layout in LAYOUTS:
        same(builder.build(last), {"x": image(1, 2, 4, 4)}, layout)


# Operators -----------------------------------------------------------------------------


def cases() -> list[tuple[ops.Operator, tuple[int, ...]]]:
    half = Fraction(3, 2)
    return [
        (ops.Slice(ranges=((1, 1, 4, 2), (3, 5, 0, -1))), (2, 5, 3, 7)),
        (ops.Split(axis=1, sizes=(2, 3)), (2, 5, 3, 4)),
        (ops.Split(axis=1, sizes=(2, 3)), (1, 5, 3, 4)),
        (ops.Flip(axes=(1, 3)), (2, 3, 4, 5)),
        (ops.Transpose(permutation=(0, 2, 3, 1)), (2, 20, 5, 7)),
        (ops.Transpose(permutation=(3, 1, 0, 2)), (2, 3, 18, 35)),
        (ops.Expand(shape=(2, 3, 4, 5)), (3, 1, 5)),
        (ops.DepthToSpace(block=(2, 3)), (2, 12, 3, 4)),
        (ops.DepthToSpace(block=(2, 2), order="dcr"), (1, 8, 3, 4)),
        (ops.SpaceToDepth(block=(2, 3)), (2, 2, 4, 6)),
        (ops.SpaceToDepth(block=(2, 2), order="dcr"), (1, 3, 4, 6)),
        (ops.Pad(padding=((0, 0), (0, 1), (2, 0), (-1, 3)), value=1.5), (1, 2, 4, 5)),
        (ops.Reshape(shape=(4, 6)), (2, 3, 4)),
        (ops.Resize(scale=(half, half), mode="linear", alignment="half_pixel"), (1, 3, 6, 8)),
        (ops.Resize(size=(5, 13), mode="cubic", alignment="align_corners"), (2, 3, 6, 8)),
        (ops.Resize(size=(9, 4), mode="nearest"), (1, 17, 6, 8)),
        (ops.AdaptivePool(kind="average", size=(3, 2)), (2, 3, 7, 5)),
        (ops.AdaptivePool(kind="max", size=(1, 1)), (2, 3, 7, 5)),
        (ops.GlobalPool(kind="average"), (2, 70, 9, 13)),
        (ops.GlobalPool(kind="max"), (3, 5, 40)),
        (ops.Reduce(kind="mean", axes=(2, 3)), (2, 5, 6, 7)),
        (ops.Reduce(kind="sum", axes=(1,)), (2, 5, 6, 7)),
        (ops.Softmax(axis=1), (2, 5, 6)),
        (ops.Softmax(axis=-1), (3, 5, 19)),
        (ops.Softmax(axis=1, log=True), (2, 5)),
        (ops.Norm(kind="layer", axes=2), (3, 5, 7, 6)),
        (ops.Norm(kind="layer", affine=False), (3, 70)),
        (ops.Norm(kind="rms"), (2, 3, 33)),
        (ops.Norm(kind="group", groups=2), (2, 6, 5, 3)),
        (ops.Norm(kind="instance"), (2, 3, 17)),
        (ops.Norm(kind="batch"), (2, 3, 17)),
        (ops.Activation(kind="prelu"), (2, 3, 5, 5)),
        (ops.LocalResponseNorm(size=3), (1, 5, 4, 4)),
        (ops.Norm(kind="instance", affine=False), (2, 3, 4, 4)),
        (ops.Cumulate(axis=1), (2, 3)),
        (ops.Flatten(), (2, 3, 4, 5)),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("op", "shape"), cases(), ids=lambda case: type(case).__name__)
def test_operators_behind_a_layout(
    op: ops.Operator, shape: tuple[int, ...], layout: Layout
) -> None:
    """What stands before it lies in the layout of the network."""
    builder = GraphBuilder()
    builder.input("x", shape)
    value = builder.add(ops.Activation(kind="tanh"), "x", name="before")
    outputs = builder.add_all(op, value, name="op")
    net = random_weights(builder.build(*outputs))
    same(net, {"x": image(*shape)}, layout)


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div", "maximum", "minimum", "pow"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_broadcasting(kind: str, layout: Layout) -> None:
    builder = GraphBuilder()
    shapes = {"a": (2, 5, 3, 4), "b": (5, 1, 1), "c": (2, 1, 3, 4), "d": (4,), "e": (2, 5, 1, 1)}
    for name, shape in shapes.items():
        builder.input(name, shape)
    builder.constant("two", Constant.of(np.float32(2).reshape(1)))
    builder.constant("row", Constant.of(image(1, 5, 1, 1)))
    op = ops.Elementwise(kind=kind)
    value = builder.add(ops.Activation(kind="sigmoid"), "a", name="start")
    for index, other in enumerate(("b", "c", "d", "e", "two", "row")):
        value = builder.add(op, value, other, name=f"y{index}")
    inputs = {name: np.abs(image(*shape)) + 0.5 for name, shape in shapes.items()}
    same(builder.build(value), inputs, layout)


def test_types_that_are_no_float32_take_the_definition() -> None:
    builder = GraphBuilder()
    builder.input("x", (2, 3))
    builder.input("n", (2, 3), "int64")
    less = builder.add(ops.Elementwise(kind="less"), "x", "n", name="less")
    chosen = builder.add(ops.Where(), less, "x", "x", name="where")
    top = builder.add_all(ops.TopK(count=2), chosen, name="top")
    net = builder.build(*top, less)
    inputs = {"x": image(2, 3), "n": np.array([[0, 1, 2], [-1, 0, 5]])}
    got, wanted = cs.compile(net, tune=False).run(inputs), evaluate(net, inputs)
    for output in net.outputs:
        np.testing.assert_array_equal(got[output.name], wanted[output.value])
        assert got[output.name].dtype == wanted[output.value].dtype


def test_nothing_in_nothing_out() -> None:
    net = random_network("3@8 > conv 4 3 p1 > relu").with_inputs({"x": (0, 3, 8, 8)})
    assert cs.compile(net, tune=False).run({"x": image(0, 3, 8, 8)})["y"].shape == (0, 4, 8, 8)


def test_the_input_itself_and_constants_can_be_returned() -> None:
    builder = GraphBuilder()
    builder.input("x", (1, 3))
    builder.constant("c", Constant.of(image(2, 2)))
    net = builder.build("x", "c", builder.add(ops.Identity(), "x", name="same"))
    inputs = {"x": image(1, 3)}
    made = same(net, inputs)
    got = made.run(inputs)
    assert not any(np.may_share_memory(array, inputs["x"]) for array in got.values())
    data = net.constants["c"].data
    assert data is not None
    assert not any(np.may_share_memory(array, data) for array in got.values())


# Calling -------------------------------------------------------------------------------


def test_ways_to_call() -> None:
    made = program()
    x = image(1, 3, 8, 8)
    for result in (made(x), made({"x": x}), made(x=x), made.run({"x": x})["y"]):
        np.testing.assert_array_equal(result, made(x))
    assert made(np.asfortranarray(x)).tolist() == made(x).tolist()


def test_other_sizes_are_other_kernels() -> None:
    net = random_network(NET)
    made = cs.compile(net, tune=False)
    for shape in ((3, 3, 8, 8), (1, 3, 11, 5), (2, 3, 9, 9), (3, 3, 8, 8)):
        x = image(*shape)
        wanted = evaluate(net, {"x": x})[net.outputs[0].value]
        np.testing.assert_allclose(made(x), wanted, rtol=1e-4, atol=1e-5)


def test_outputs_are_fresh() -> None:
    made = program()
    first = made(image(1, 3, 8, 8))
    kept = first.copy()
    assert not np.may_share_memory(first, made(2 * image(1, 3, 8, 8)))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"x": np.zeros((1, 3, 8, 8))}, DataError, "input 'x' is float64, the network takes"),
        ({"x": np.zeros((3, 8, 8), np.float32)}, ShapeError, "has shape (3, 8, 8)"),
        ({"x": np.zeros((1, 4, 8, 8), np.float32)}, ShapeError, "weight has shape"),
        ({"z": np.zeros((1, 3, 8, 8), np.float32)}, DataError, "no input 'z'"),
        ({}, DataError, "input 'x' is missing"),
        ({"x": [1, 2]}, DataError, "is list, not an array"),
    ],
)
def test_bad_inputs(inputs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        program()(inputs)
    assert message in str(raised.value)


def test_bad_networks() -> None:
    with pytest.raises(DataError, match=r"conv1: its tensor 'conv1\.weight' has no weights"):
        cs.compile(parse("1@4 > conv 2 3"))
    net = parse("1@4 > relu")
    node = replace(net.nodes[0], op=ops.Unsupported(kind="Odd", shapes=((1, 1, 4, 4),)))
    with pytest.raises(UnsupportedOperatorError, match="relu1"):
        cs.compile(replace(net, nodes=(node,))).run({"x": image(1, 1, 4, 4)})


@pytest.mark.parametrize(
    "options",
    [{"threads": 0}, {"tolerance": 0.5}, {"layout": "nchw"}, {"algorithm": "magic"}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        program(**options)


def test_threads_do_not_change_bits() -> None:
    x = image(2, 3, 8, 8)
    results = [program(threads=count, layout="channels_last")(x) for count in (1, 2, 3)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_many_python_threads_at_once() -> None:
    made = program()
    inputs = [image(1, 3, 8, 8) * (k + 1) for k in range(8)]
    wanted = [made(x) for x in inputs]
    wrong: list[int] = []

    def hammer(index: int) -> None:
        results = [made(inputs[index]) for _ in range(50)]
        wrong.extend(index for y in results if not np.array_equal(y, wanted[index]))

    workers = [threading.Thread(target=hammer, args=(k,)) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_tuning_chooses_a_layout_and_remembers_it() -> None:
    net = random_network("2@5 > conv 3 3 > relu")
    first = cs.compile(net, threads=1)
    assert first.layout == cs.compile(net, threads=1, tune=False).layout
    np.testing.assert_allclose(
        first(image(1, 2, 5, 5)),
        evaluate(net, {"x": image(1, 2, 5, 5)})["relu1"],
        rtol=1e-4,
        atol=1e-5,
    )


# Looking -------------------------------------------------------------------------------


def test_a_program_prints_its_steps() -> None:
    made = program(layout="channels_last")
    shown = str(made)
    assert "fc1" in shown
    assert "channels_last" in shown
    assert repr(made).startswith("Program of 3@8 >")
    data = made.to_dict()
    assert data["schema"] == "convsmith.program/1"
    assert data["steps"][-1]["algorithm"]
    assert data["memory_bytes"] < data["separate_bytes"]


def test_a_profile_has_a_time_for_every_step() -> None:
    made = program().profile(image(1, 3, 8, 8), rounds=2)
    assert all(step.milliseconds is not None for step in made.steps)
    assert made.milliseconds == pytest.approx(sum(step.milliseconds or 0 for step in made.steps))
    assert "the sum of the steps" in str(made)


# Memory --------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(1, 200), st.integers(0, 9), st.integers(0, 4)),
        min_size=1,
        max_size=20,
    )
)
def test_pieces_that_live_together_never_overlap(rows: list[tuple[int, int, int]]) -> None:
    pieces = [Lifetime(elements=n, first=first, last=first + more) for n, first, more in rows]
    offsets, total = place(pieces)
    for i, (a, at) in enumerate(zip(pieces, offsets, strict=True)):
        assert at >= 0
        assert at + a.elements <= total
        assert at % 16 == 0
        for b, other in list(zip(pieces, offsets, strict=True))[:i]:
            if a.first <= b.last and b.first <= a.last:
                assert at + a.elements <= other or other + b.elements <= at
