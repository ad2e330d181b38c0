"""Receptive fields that the literature and the textbooks state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsmith.analysis import Axis, Field, Window, backward, chain, fields, forward, seen
from convsmith.analysis.field.moves import moves
from convsmith.errors import GraphError, UnsupportedOperatorError
from convsmith.graph import Graph, parse
from convsmith.graph import operators as ops
from convsmith.graph.operators import Conv, Pool
from convsmith.sources.zoo import NETWORKS, network


def sizes(notation: str) -> list[int | None]:
    """The width of the field of every node, along the first image axis."""
    graph = parse(notation)
    found = fields(graph)
    return [found[node.name].size[0] for node in graph.nodes]


def last(notation: str) -> Field:
    graph = parse(notation)
    return fields(graph)[graph.outputs[0].value]


def strides(field: Field) -> list[str]:
    return [str(stride) for stride in field.stride]


# Published ------------------------------------------------------------------------


def test_vgg16() -> None:
    found = fields(network("vgg16"))
    assert found["features.29"].size == (196, 196)
    pool = found["features.30"]
    assert pool.size == (212, 212)
    assert strides(pool) == ["32", "32"]
    assert pool.offset == (-90, -90)
    assert pool.status == "exact"


@pytest.mark.parametrize(
    ("name", "value", "size"),
    [
        ("resnet50", "layer4.2.relu_out", 427),
        ("resnet18", "layer4.1.relu_out", 435),
        ("resnet50_v1", "layer4.2.relu_out", 483),
        ("mobilenet_v1", "block13.relu_1", 315),
        ("inception_v3", "Mixed_7c.concat", 1311),
        ("alexnet", "features.12", 195),
        ("vdsr", "add", 41),
        ("srcnn", "conv3", 17),
    ],
)
def test_published_fields(name: str, value: str, size: int) -> None:
    found = fields(network(name))[value]
    assert found.size == (size, size)
    assert found.status == "exact"


def with_same_padding(graph: Graph, *, pools_only: bool = False) -> Graph:
    """The network as TensorFlow pads it."""
    kinds = Pool if pools_only else Conv | Pool
    return replace(
        graph,
        nodes=tuple(
            replace(node, op=replace(node.op, same="upper"))
            if isinstance(node.op, kinds) and max(node.op.kernel) > 1
            else node
            for node in graph.nodes
        ),
    )


def test_effective_padding_of_tensorflow_networks() -> None:
    """Araujo, Norris & Sim (2019), table 2, for an input of 224 (Inception: 299)."""
    mobilenet = fields(with_same_padding(network("mobilenet_v1")))["block13.relu_1"]
    assert (mobilenet.size, mobilenet.padding) == ((315, 315), (126, 126))
    # TF-Slim pads strided convolutions of ResNet-v1 explicitly, and only its pool by SAME.
    resnet = fields(with_same_padding(network("resnet50_v1"), pools_only=True))
    assert resnet["layer4.2.relu_out"].size == (483, 483)
    assert resnet["layer4.2.relu_out"].padding == (239, 239)
    assert fields(network("inception_v3"))["Mixed_7c.concat"].padding == (618, 618)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_large"])
def test_squeeze_and_excite_networks_have_a_local_field_and_a_flag(name: str) -> None:
    graph = network(name)
    found = fields(graph)
    last = [node.name for node in graph.nodes if found[node.name].status == "exact"][-1]
    field = found[last]
    assert strides(field) == ["32", "32"]
    assert field.everywhere == (True, True)
    assert field.to_dict()["global"] is True
    assert {field.status for field in found.values()} == {"exact", "global"}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_of_the_zoo_has_an_unknown_field(name: str) -> None:
    assert "unknown" not in {field.status for field in fields(network(name)).values()}


def test_a_unet_has_an_exact_field_in_every_phase() -> None:
    field = fields(network("unet"))["head"]
    assert field.status == "exact"
    assert strides(field) == ["1", "1"]
    assert "phases" in field.to_dict()
    rows, _ = field.axes
    assert rows is not None
    positions, _ = seen(network("unet"), "head")
    assert [rows.at(i) for i in range(388)] == list(positions.intervals)
    assert positions.intervals[0] is not None
    assert positions.intervals[-1] is not None
    assert (positions.intervals[0][0], positions.intervals[-1][1]) == (0, 571)


# By hand --------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 6))
def test_n_stacked_3x3_see_2n_plus_1(n: int) -> None:
    assert sizes(f"1@64 > ( conv 1 3 ) x{n}")[-1] == 2 * n + 1


def test_the_textbook_chain_forwards_and_backwards() -> None:
    notation = "3@200 > conv 8 5/2 p1 > maxpool 3/1 > conv 8 3/1 p1"
    assert sizes(notation) == [5, 9, 13]
    windows = chain(parse(notation))
    assert forward(windows) == (5, 9, 13)
    assert backward(windows) == (3, 5, 13)


WINDOWS = st.builds(Window, st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))


@given(st.lists(WINDOWS, min_size=1, max_size=6))
def test_both_recursions_and_the_graph_agree_on_every_chain(windows: list[Window]) -> None:
    layers = " > ".join(
        f"conv 1 {w.kernel}/{w.stride} p{w.kernel * w.dilation} d{w.dilation}" for w in windows
    )
    notation = f"1@64 > {layers}"
    assert chain(parse(notation)) == tuple(windows)
    assert forward(windows)[-1] == backward(windows)[-1]
    assert tuple(sizes(notation)) == forward(windows)


@pytest.mark.parametrize("windows", [[Window(3)], [Window(3, 2), Window(5, 1, 2)]])
def test_a_wrong_recursion_would_be_noticed(windows: list[Window]) -> None:
    wrong = [Window(w.kernel + 1, w.stride, w.dilation) for w in windows]
    assert forward(wrong)[-1] != backward(windows)[-1]


@pytest.mark.parametrize(
    ("notation", "size", "stride", "offset"),
    [
        ("1@32 > conv 1 3x5 p1x2", (3, 5), (1, 1), (-1, -2)),
        ("1@32 > conv 1 3/2 p0,1,1,0", (3, 3), (2, 2), (0, -1)),
        ("1@32 > conv 1 3 p2 d2", (5, 5), (1, 1), (-2, -2)),
        ("1@32 > conv 1 4 psame", (4, 4), (1, 1), (-1, -1)),
        ("1@32 > conv 1 4 psame-lower", (4, 4), (1, 1), (-2, -2)),
        ("1@31 > maxpool 3/2 ceil", (3, 3), (2, 2), (0, 0)),
        ("1@32 > conv 2 1x7 p0x3 > conv 2 7x1 p3x0", (7, 7), (1, 1), (-3, -3)),
        ("1@32 > [ conv 2 1 | conv 2 5 p2 | maxpool 3/1 p1 ]", (5, 5), (1, 1), (-2, -2)),
        ("1@32 > slice 2:4:20:2", (1, 1), (2, 1), (4, 0)),
        ("1@32 > transpose 0,1,3,2 > conv 1 3x1 p1x0", (1, 3), (1, 1), (0, -1)),
        ("1@32 > up 2", (1, 1), ("1/2", "1/2"), (0, 0)),
        ("1@32 > up 2 > conv 1 3 p1", (2, 2), ("1/2", "1/2"), (-1, -1)),
        ("1@32 > maxpool 2/2 > up 2", (2, 2), (1, 1), (0, 0)),
        ("1@32 > up 2 > avgpool 2/2", (1, 1), (1, 1), (0, 0)),
        ("1@32 > deconv 1 4/2 p1", (2, 2), ("1/2", "1/2"), (-1, -1)),
        ("1@32 > up 2 bilinear half_pixel", (2, 2), ("1/2", "1/2"), (-1, -1)),
        ("1@30 > adaptiveavgpool 10", (3, 3), (3, 3), (0, 0)),
        ("1@30 > adaptiveavgpool 4", (8, 8), ("15/2", "15/2"), (0, 0)),
        ("4@30 > split 1,3 > conv 2 3 p1", (3, 3), (1, 1), (-1, -1)),
    ],
)
def test_exact_fields(
    notation: str,
    size: tuple[int, int],
    stride: tuple[int | str, int | str],
    offset: tuple[int, int],
) -> None:
    field = last(notation)
    assert field.size == size
    assert strides(field) == [str(s) for s in stride]
    assert field.offset == offset
    assert (field.status, field.reason) == ("exact", "")


def test_volumes_and_signals() -> None:
    assert last("2@8x16x24 > conv 4 3x1x5/1x2x1 p1x0x2").size == (3, 1, 5)
    assert strides(last("<1,2,100> > conv 4 9/2 p4")) == ["2"]


# Everything at once ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "name"),
    [("gap", "gap1"), ("adaptiveavgpool 1", "adaptiveavgpool1"), ("mean 2,3", "mean1"),
     ("fc 5", "fc1"), ("flatten > fc 5", "fc1"), ("flatten 2 > softmax -1 > sum -1", "softmax1")],
)  # fmt: skip
def test_what_sees_everything_is_global(layer: str, name: str) -> None:
    field = last(f"3@20 > conv 4 3 p1 > {layer}")
    assert (field.status, field.size) == ("global", (20, 20))
    assert field.reason == f"{name} sees the whole input"


def test_a_window_over_the_whole_image_is_just_a_window() -> None:
    assert last("1@7 > avgpool 7").status == "exact"


def test_squeeze_and_excite_keeps_its_local_field() -> None:
    listing = (
        "x : 8@16\na = conv 8 3 p1 (x)\ns = gap (a)\nf = flatten (s)\nr = fc 2 (f)\n"
        "e = fc 8 (r)\nh = sigmoid (e)\ng = reshape 1,8,1,1 (h)\nm = mul (a g)\n"
        "b = conv 8 3 p1 (m)\nreturn b"
    )
    found = fields(parse(listing))
    assert (found["g"].status, found["g"].size) == ("global", (16, 16))
    assert (found["m"].status, found["m"].size, found["m"].is_global) == ("exact", (3, 3), True)
    assert (found["b"].status, found["b"].size, found["b"].is_global) == ("exact", (5, 5), True)
    assert found["b"].reason == "s sees the whole input"
    assert found["a"].to_dict() == {
        "size": [3, 3], "stride": ["1", "1"], "offset": ["-1", "-1"], "status": "exact",
    }  # fmt: skip
    assert found["b"].to_dict() == {
        "size": [5, 5], "stride": ["1", "1"], "offset": ["-2", "-2"], "status": "exact",
        "global": True, "reason": "s sees the whole input",
    }  # fmt: skip


@pytest.mark.parametrize("norm", ["instancenorm", "groupnorm 2", "layernorm 2"])
def test_normalization_over_positions_is_global_beside_a_local_field(norm: str) -> None:
    field = last(f"4@16 > conv 4 3 p1 > {norm}")
    assert (field.status, field.size, field.everywhere) == ("exact", (3, 3), (True, True))
    assert field.reason.endswith("norm1 sees the whole input")


def test_a_mean_along_one_axis_is_global_along_that_axis() -> None:
    field = last("4@16 > conv 4 3 p1 > softmax 3 > conv 4 3 p1")
    assert (field.status, field.size, field.everywhere) == ("exact", (5, 5), (False, True))


@pytest.mark.parametrize(
    "layers", ["bn", "lrn 5", "softmax 1", "relu", "transpose 0,2,3,1 > layernorm 1",
               "split 2,2", "pad 1", "( - + - )", "[ - | - ]"]
)  # fmt: skip
def test_what_stays_at_its_position_changes_no_field(layers: str) -> None:
    field = last(f"4@16 > conv 4 3 p1 > {layers}")
    assert (field.status, field.size) == ("exact", (3, 3))


def test_attention_over_positions_is_global() -> None:
    listing = (
        "x : 4@8\na = conv 4 3 p1 (x)\nt = flatten 2 (a)\nk = transpose 0,2,1 (t)\n"
        "s = matmul (k t)\np = softmax -1 (s)\nv = matmul (p k)\nreturn v"
    )
    found = fields(parse(listing))
    assert found["t"].status == "exact"
    assert (found["v"].status, found["v"].size) == ("global", (8, 8))


# Honest limits --------------------------------------------------------------------


def test_branches_of_different_strides_are_an_upper_bound() -> None:
    listing = "x : 1@8\na = maxpool 2/2 (x)\nb = slice 2:0:4:1 3:0:4:1 (x)\nc = add (a b)\nreturn c"
    field = fields(parse(listing))["c"]
    assert (field.status, field.size) == ("upper-bound", (8, 8))
    assert field.reason == "c joins branches of strides 2 and 1"
    assert seen(parse(listing), "c")[0].intervals == ((0, 1), (1, 3), (2, 5), (3, 7))


def test_a_part_of_channels_that_see_differently_sees_what_it_sees() -> None:
    listing = "x : 2@8\na = conv 2 3 p1 (x)\nc = concat (a x)\ns = split 2,2 (c)\nreturn s = s:1"
    found = fields(parse(listing))
    assert [found[value].size for value in ("c", "s", "s:1")] == [(3, 3), (3, 3), (1, 1)]
    assert {field.status for field in found.values()} == {"exact"}
    listing = listing.replace("s = split", "d = conv 4 1 (c)\ns = split").replace(
        "(c)\nr", "(d)\nr"
    )
    dense = fields(parse(listing))["s:1"]
    assert (dense.status, dense.size) == ("exact", (3, 3))


def test_shuffled_channels_see_what_their_sources_see() -> None:
    """Channels a0 a1 x0 x1 are shuffled to a0 x0 a1 x1; groups of two see both."""
    shuffle = "reshape 1,2,2,8,8 > transpose 0,2,1,3,4 > reshape 1,4,8,8"
    mixed = f"2@8 > [ conv 2 3 p1 | - ] > {shuffle}"
    assert last(f"{mixed} > slice 1:0:4:2").size == (3, 3)
    assert last(f"{mixed} > slice 1:1:4:2").size == (1, 1)
    assert last(f"{mixed} > conv 4 1 g4 > slice 1:1:2:1").size == (1, 1)
    assert last(f"{mixed} > conv 4 1 g2 > slice 1:1:2:1").size == (3, 3)
    assert last("2@8 > [ conv 2 3 p1 | - ] > conv 4 1 g2 > slice 1:3:4:1").size == (1, 1)
    assert last(f"{mixed} > maxpool 2/2 > slice 1:1:4:2").size == (2, 2)
    assert last(f"{mixed} > slice 1:1:4:2").status == "exact"


def test_more_different_channels_than_are_followed_are_an_upper_bound() -> None:
    def parts(count: int) -> Field:
        branches = " | ".join(f"conv 1 1x{2 * i + 1} p0x{i}" for i in range(count))
        return last(f"1@200 > [ {branches} ] > slice 1:0:1:1")

    assert (parts(64).status, parts(64).size) == ("exact", (1, 1))
    beyond = parts(65)
    assert (beyond.status, beyond.size) == ("upper-bound", (1, 129))
    assert beyond.reason == "slice1 takes a part of channels that see different pixels"


def test_rows_joined_to_one_image_are_an_upper_bound() -> None:
    field = last("1@8 > conv 1 3 p1 > [ - | - ] > slice 1:0:1:1")
    assert field.status == "exact"
    listing = "x : 1@8\na = conv 1 3 p1 (x)\nb = concat axis=2 (a x)\nreturn b"
    field = fields(parse(listing))["b"]
    assert (field.status, field.size) == ("upper-bound", (8, 3))


def test_after_an_unknown_operator_nothing_is_known() -> None:
    graph = parse("1@8 > unsupported Foo 1@8 > conv 1 3 p1 > gap")
    assert {fields(graph)[node.name].status for node in graph.nodes} == {"unknown"}
    with pytest.raises(UnsupportedOperatorError, match=r"conv1: unsupported1: Foo is not supp"):
        seen(graph, "conv1")


def test_periods_that_are_too_long_are_an_upper_bound() -> None:
    field = last("<1,1,5000> > resize 4999 linear align_corners > resize 5001 linear align_corners")
    assert field.status == "upper-bound"


# Several inputs -------------------------------------------------------------------

TWO = "a : 1@8\nb : 1@16\np = conv 1 3 p1 (a)\nq = maxpool 2/2 (b)\nc = add (p q)\nreturn c"


def test_each_value_is_seen_from_the_first_image_that_reaches_it() -> None:
    found = fields(parse(TWO))
    assert found["p"].size == (3, 3)
    assert strides(found["q"]) == ["2", "2"]
    assert found["c"].size == (3, 3)


def test_one_input_can_be_asked_for() -> None:
    found = fields(parse(TWO), "b")
    assert found["c"].size == (2, 2)
    assert found["p"].size == (0, 0)
    assert found["p"].reason == "it does not depend on the input"


def test_an_input_that_is_not_there_is_an_error() -> None:
    with pytest.raises(GraphError, match="no input 'c' with image axes; it has a, b"):
        fields(parse(TWO), "c")
    with pytest.raises(GraphError, match="'p' does not depend on input 'b'"):
        seen(parse(TWO), "p", "b")
    with pytest.raises(GraphError, match="no input has image axes"):
        seen(parse("<1,4> > fc 2"), "fc1")


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("1@8 > ( relu + - )", "add1: the network has branches"),
        ("1@8 > gap", "gap1: GlobalPool is no window"),
        ("1@8 > deconv 1 2/2", "deconv1: Conv is no window"),
    ],
)
def test_a_chain_is_a_chain(notation: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        chain(parse(notation))


def test_a_phase_that_sees_nothing_is_no_hole_in_the_size() -> None:
    axis = last("1@4 > deconv 1 1/3").axes[0]
    assert axis == Axis(phases=((0, 0), None, None), step=1)
    assert axis.size == 1


def test_rows_joined_to_a_line_are_found_again_when_they_are_cut() -> None:
    for size in (16, 224, 8192):  # the last is too long to be written down as a rule
        notation = f"4@{size} > conv 4 3/2 p1 > flatten 2 > reshape 1,4,{size // 2},{size // 2}"
        field = last(f"{notation} > conv 4 3 p1")
        assert (field.status, field.size, field.offset) == ("exact", (7, 7), (-3, -3))


def test_every_operator_has_a_row_in_the_table() -> None:
    kinds = {
        kind
        for kind in vars(ops).values()
        if isinstance(kind, type) and issubclass(kind, ops.Operator) and kind is not ops.Operator
    }
    default = moves.dispatch(ops.Operator)
    assert {k for k in kinds if moves.dispatch(k) is default} == {ops.Unsupported}
