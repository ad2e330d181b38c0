"""A graph refuses what contradicts itself, and every message says what, where and what to do."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import numpy as np
import pytest

from convsmith.errors import GraphError, NotationError, ShapeError
from convsmith.graph import Constant, Graph, GraphBuilder, Node, Output, parse
from convsmith.graph.operators import Activation, Concat, Conv, Einsum, Linear, Split
from convsmith.graph.shape import infer_shapes
from convsmith.graph.slots import filled_directly

PLAIN = parse("3@8 > conv 4 3 > relu")


def test_sizes_that_do_not_fit_name_the_layer_and_the_remedy() -> None:
    with pytest.raises(ShapeError) as caught:
        PLAIN.with_inputs({"x": (1, 3, 2, 2)}).shape("conv1")
    assert str(caught.value) == (
        "conv1: kernel 3x3 does not fit input 2x2 with padding 0;"
        " pad by at least 1 or use a smaller kernel."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3@8 > conv 4 3 g2", "conv1: 2 groups do not divide 3 input and 4 output channels"),
        ("3@8 > conv 4 3 d4", "kernel 3x3 (dilated to 9x9) does not fit input 8x8 with padding 0"),
        ("3@8 > conv 4 9x3 p0x1", "with padding 0,1,0,1; pad by at least 1 more"),
        ("3@8 > [ conv 4 3 | conv 4 1 ]", "cannot concatenate 1x4x6x6 and 1x4x8x8 along axis 1"),
        ("3@8 > ( conv 4 3 p1 + conv 5 3 p1 )", "do not broadcast"),
        ("3@8 > reshape 1,5,-1", "cannot reshape 1x3x8x8 to 1,5,-1"),
        ("3@8 > split 1,1", "sizes (1, 1) do not add up to the 3 of axis 1"),
        ("3@8 > groupnorm 2", "2 groups do not divide 3 channels"),
        ("3@8 > deconv 4 1 p4", "the padding cuts away more than is made of 8x8"),
        ("3@8 > pad 8 reflect", "reflection padding must be smaller than the input 1x3x8x8"),
        ("3@8 > transpose 0,1,1,2", "is not an order of the 4 axes"),
        ("3@8 > softmax 7", "axis 7 does not exist in shape 1x3x8x8"),
    ],
)
def test_facts_of_sizes(text: str, message: str) -> None:
    with pytest.raises(NotationError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_an_output_size_is_worked_out_by_the_rule_of_the_layer() -> None:
    sizes = {
        "maxpool 3/2": 3,
        "maxpool 3/2 ceil": 4,
        "maxpool 4/4 p2 ceil": 3,
        "conv 1 3/2 psame": 4,
        "conv 1 3/2 p1": 4,
        "conv 1 3/2": 3,
    }
    sides = {"maxpool 4/4 p2 ceil": 9}
    for text, size in sizes.items():
        graph = parse(f"1@{sides.get(text, 8)} > {text}")
        assert graph.shape(graph.outputs[0].value)[2:] == (size, size), text


def test_names_are_unique() -> None:
    relu = PLAIN.nodes[1]
    with pytest.raises(GraphError, match="relu1: two nodes have this name"):
        replace(PLAIN, nodes=(*PLAIN.nodes, relu))
    with pytest.raises(GraphError, match="conv1: two values have this name"):
        replace(PLAIN, constants={**PLAIN.constants, "conv1": Constant(shape=(1,))})
    with pytest.raises(GraphError, match="y: two values have this name"):
        replace(PLAIN, outputs=(*PLAIN.outputs, Output(name="y", value="conv1")))


def test_everything_that_is_used_is_there() -> None:
    late = Node(name="late", op=Activation(kind="relu"), inputs=("nowhere",))
    with pytest.raises(GraphError, match="late: input 'nowhere' is not known yet"):
        replace(PLAIN, nodes=(*PLAIN.nodes, late))
    with pytest.raises(GraphError, match="output 'nowhere' is not made by any node"):
        replace(PLAIN, outputs=(Output(name="y", value="nowhere"),))
    with pytest.raises(GraphError, match="relu1: input 'conv1' is not known yet"):
        replace(PLAIN, nodes=PLAIN.nodes[::-1])


def test_weights_must_fit_the_layer() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 3))
    wrong = builder.constant("w", Constant.of(np.zeros((2, 4))))
    with pytest.raises(ShapeError, match=r"fc: its weight has shape \(2, 4\).*needs \(2, 3\)"):
        builder.add(Linear(features=2, bias=False), x, name="fc", parameters=[wrong])


def test_other_input_sizes_make_another_graph_that_shares_the_rest() -> None:
    larger = PLAIN.with_inputs({"x": (2, 3, 16, 16)})
    assert larger.shape("relu1") == (2, 4, 14, 14)
    assert larger.nodes is PLAIN.nodes
    assert PLAIN.shape("relu1") == (1, 4, 6, 6)
    assert PLAIN.with_inputs({"x": (1, 3, 8, 8)}) is PLAIN
    with pytest.raises(GraphError, match="no input named 'z'; it has x"):
        PLAIN.with_inputs({"z": (1,)})


def test_graphs_are_equal_by_structure_and_hash_alike() -> None:
    again = parse("3@8 > conv 4 3 > relu")
    assert again == PLAIN
    assert hash(again) == hash(PLAIN)
    assert parse("3@8 > conv 4 3 > sigmoid") != PLAIN
    assert parse("3@9 > conv 4 3 > relu") != PLAIN
    weighted = replace(
        PLAIN,
        constants={n: replace(c, data=np.zeros(c.shape)) for n, c in PLAIN.constants.items()},
    )
    assert weighted == PLAIN


def test_several_outputs_of_one_node_have_names() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 6, 4, 4))
    first, second = builder.add_all(Split(sizes=(2, 4)), x, name="cut")
    joined = builder.add(Concat(), second, first, name="join")
    graph = builder.build(joined)
    assert (first, second) == ("cut", "cut:1")
    assert graph.shape("cut:1") == (1, 4, 4, 4)
    assert [node.name for node in graph.consumers["cut:1"]] == ["join"]
    assert graph.producers["cut:1"].name == "cut"


def test_huge_sizes_are_numbers_like_others() -> None:
    conv = Conv(channels=1, kernel=(3,), stride=(1,), padding=((1, 1),), dilation=(1,))
    assert infer_shapes(conv, (1, 1, 2**62)) == ((1, 1, 2**62),)


def test_a_graph_cannot_be_changed() -> None:
    constants = PLAIN.constants
    with pytest.raises(TypeError):
        constants["new"] = Constant(shape=())  # type: ignore[index]
    with pytest.raises(AttributeError):
        PLAIN.nodes = ()  # type: ignore[misc]
    assert isinstance(PLAIN, Graph)


@pytest.mark.parametrize("text", ["3@8 > up 999999999999999999 > up 4", "3@8 > ( [ - | - ] ) x80"])
def test_no_axis_is_longer_than_a_tensor_can_be(text: str) -> None:
    with pytest.raises(NotationError, match=r"an axis would have more than 2\^63 - 1 elements;"):
        parse(text)


def test_an_axis_may_be_as_long_as_a_tensor_can_be() -> None:
    builder = GraphBuilder()
    image = builder.input("x", (1, 1, 2**63 - 1, 2**63 - 1))
    builder.add(Activation(kind="relu"), image, name="relu")
    assert builder.shapes["relu"] == (1, 1, 2**63 - 1, 2**63 - 1)


def test_a_message_shows_the_beginning_of_a_long_equation() -> None:
    with pytest.raises(ShapeError) as caught:
        infer_shapes(Einsum(equation="a" * 10_000 + "->a"), (1, 1))
    assert len(str(caught.value)) < 300


def test_what_fills_its_slots_directly_is_a_frozen_dataclass_like_others() -> None:
    @filled_directly
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Filled:
        shape: tuple[int, ...]
        name: str = "x"

    signature = "(*, shape: 'tuple[int, ...]', name: 'str' = 'x') -> 'None'"
    assert str(inspect.signature(Filled)).replace("-> None", "-> 'None'") == signature
    made = Filled(shape=(1, 2))
    assert made == Filled(name="x", shape=(1, 2)) != replace(made, name="y")
    with pytest.raises(FrozenInstanceError):
        made.name = "z"  # type: ignore[misc]
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'shape'"):
        Filled()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        Filled(shape=(), size=3)  # type: ignore[call-arg]
    constant = Constant(shape=(3,), learnable=False)
    assert pickle.loads(pickle.dumps(constant)) == constant


def test_only_what_does_no_more_than_fill_its_slots_is_filled_directly() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Checked:
        size: int

        def __post_init__(self) -> None:
            raise ValueError

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Anew:
        sizes: list[int] = field(default_factory=list)

    @dataclass(frozen=True, kw_only=True)
    class Open:
        size: int

    for cls in (Checked, Anew, Open):
        with pytest.raises(TypeError, match="does more than fill its slots"):
            filled_directly(cls)
