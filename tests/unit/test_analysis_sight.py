"""Units, pixels, borders and smallest inputs: what :func:`convsmith.analysis.sight` answers."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from convsmith.analysis import fields, sight
from convsmith.analysis.field import Sight, smallest_input, supports
from convsmith.errors import GraphError, UnsupportedOperatorError, UsageError
from convsmith.graph import Graph, GraphBuilder, parse
from convsmith.graph.operators import DeformConv, Einsum, Gather, GridSample
from convsmith.sources.zoo import network


def seen(notation: str) -> Sight:
    return sight(parse(notation))


# Units and pixels -----------------------------------------------------------------


def test_a_unit_in_a_corner_is_clipped() -> None:
    found = seen("1@32 > conv 1 7/2 p3 > maxpool 3/2 p1")
    corner = found.at("maxpool1", (0, 0))
    assert corner.unclipped == ((-5, 5), (-5, 5))
    assert corner.clipped == ((0, 5), (0, 5))
    assert corner.is_clipped
    middle = found.at("maxpool1", (4, 4))
    assert middle.unclipped == middle.clipped == ((11, 21), (11, 21))
    assert not middle.is_clipped


def test_clipping_knows_the_borders_of_layers_between() -> None:
    """The padding of conv2 lies inside of the image: what stands there is not looked at."""
    unit = seen("1@9 > slice 2:3::1 > conv 1 3x1 p1x0").at("conv1", (0, 0))
    assert unit.unclipped == ((2, 4), (0, 0))
    assert unit.clipped == ((3, 4), (0, 0))


def test_a_cross_is_no_rectangle() -> None:
    mask = seen("1@5 > [ conv 1 1x3 p0x1 | conv 1 3x1 p1x0 ] > conv 1 1").mask("conv3", (2, 2))
    assert mask.astype(int).tolist() == [
        [0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0],
    ]  # fmt: skip


def test_channels_may_see_different_pixels() -> None:
    found = seen("1@7 > [ conv 1 1 | conv 1 3 p1 ]")
    counts = [found.mask("concat1", (3, 3), channel=channel).sum() for channel in (0, 1)]
    assert counts == [1, 9]
    assert found.mask("concat1", (3, 3)).sum() == 9


def test_a_gate_sees_everything_and_the_local_path_does_not() -> None:
    found = seen("2@8 > conv 2 3 p1 > ( [ gap > conv 2 1 ] + - )")
    unit = found.at("add1", (4, 4))
    assert unit.clipped == ((3, 5), (3, 5))
    assert unit.everywhere == (True, True)
    assert found.mask("add1", (4, 4)).all()
    assert found.mask("add1", (4, 4), local=True).sum() == 9
    assert found.reaches("add1", (0, 0)).mask.all()
    assert found.reaches("add1", (0, 0), local=True).mask.sum() == 4


def test_a_classifier_sees_everything() -> None:
    found = seen("2@8 > conv 2 3/2 p1 > flatten > fc 3")
    assert found.field("fc1").status == "global"
    assert found.mask("fc1", ()).all()
    assert found.reaches("fc1", (7, 7)).mask.all()


def test_a_pixel_and_its_units_agree() -> None:
    found = seen("1@11 > conv 2 3/2 p1 d2 > [ conv 1 1 | maxpool 3/1 p1 ] > deconv 2 3/2")
    shape = found.graph.shape("deconv1")[2:]
    units = np.array([found.mask("deconv1", place) for place in np.ndindex(*shape)])
    for pixel in np.ndindex(*found.image):
        reach = found.reaches("deconv1", pixel)
        assert (reach.mask.ravel() == units[(slice(None), *pixel)]).all()


def test_volumes_and_signals() -> None:
    unit = seen("1@9x9x9 > conv 1 3x1x5 p1x0x2").at("conv1", (4, 4, 0))
    assert unit.clipped == ((3, 5), (4, 4), (0, 2))
    assert seen("<1,2,100> > conv 4 9/2 p4").reaches("conv1", (50,)).ranges == ((23, 27),)


def test_memory_is_bounded_by_what_is_seen() -> None:
    found = seen("3@4096 > conv 64 3 p1 > conv 64 3/2 p1 > conv 64 3 p1")
    tracemalloc.start()
    unit = found.at("conv3", (1000, 1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert unit.clipped == unit.unclipped == ((1996, 2004), (1996, 2004))
    assert peak < 1 << 20  # one activation has 4 GiB
    assert seen("1@1000000x1000000 > conv 1 3 p1").at("conv1", (0, 9)).clipped == ((0, 1), (8, 10))


def test_what_is_too_large_to_list_is_refused() -> None:
    with pytest.raises(UsageError, match="more than 268,435,456"):
        seen("1@1000000x1000000 > conv 1 3 p1").mask("conv1", (5, 5))
    assert seen("1@1000000x1000000 > conv 1 3 p1").field("conv1").size == (3, 3)
    with pytest.raises(UsageError, match="pixels wide"):
        supports(parse("<1,1,100000000> > conv 1 3 d10000000"), "conv1")


def test_support_names_the_pixels_between_the_holes() -> None:
    rows, _ = seen("1@64 > conv 1 3 d2 p2 > conv 1 3 d4 p4").support("conv2")
    assert rows.at(10) == (4, 6, 8, 10, 12, 14, 16)
    assert (rows.count, rows.holes) == (7, 6)
    rows, _ = seen("1@64 > conv 1 3 p1 d2 > up 2").support("up1")
    assert rows.at(8) == rows.at(9) == (3, 5, 7)


# Both directions ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "unet", "googlenet", "efficientnet_b0"])
def test_top_down_and_bottom_up_agree_on_real_networks(name: str) -> None:
    graph = network(name)
    found = sight(graph)
    local = [n.name for n in graph.nodes if found.field(n.name).status == "exact"]
    layer = [name for name in local if len(graph.shape(name)) == 4][-1]
    below = found.top_down(layer)[graph.inputs[0].name]
    above = found.field(layer)
    assert (below.axes, below.everywhere) == (above.axes, above.everywhere)


def test_top_down_is_the_field_of_the_rest_of_the_network() -> None:
    whole = seen("1@40 > conv 2 5/2 p1 > maxpool 3/1 > conv 1 3/2 p1 > deconv 1 4/2 p1")
    rest = parse("2@17x17 > conv 1 3/2 p1 > deconv 1 4/2 p1")
    assert whole.top_down("deconv1")["maxpool1"].axes == fields(rest)["deconv1"].axes


# Everything about a network -------------------------------------------------------


def test_misaligned_branches_are_named_with_both_centres() -> None:
    found = seen("1@16 > [ conv 1 2 psame | conv 1 3 p1 ]").misaligned
    assert [(item.layer, item.axis) for item in found] == [("concat1", 0), ("concat1", 1)]
    assert dict(found[0].centres) == {"conv1": Fraction(1, 2), "conv2": Fraction(0)}
    assert found[0].shift == Fraction(1, 2)


@pytest.mark.parametrize(
    "notation",
    [
        "4@16 > ( conv 4 3 p1 > conv 4 3 p1 + - )",
        "4@16 > [ - | maxpool 2/2 > up 2 ]",  # the mean over both phases is where it should be
        "4@16 > [ conv 4 1/2 | conv 4 3/2 p1 | avgpool 3/2 p1 ]",
        "4@16 > conv 4 3 p1 > ( [ gap > conv 4 1 ] + - )",
    ],
)
def test_aligned_branches_are_not_named(notation: str) -> None:
    assert seen(notation).misaligned == ()


def test_real_networks_are_aligned() -> None:
    for name in ("resnet50", "googlenet", "unet", "densenet121", "mobilenet_v2"):
        assert sight(network(name)).misaligned == (), name


def test_where_the_field_covers_the_input() -> None:
    found = sight(network("resnet50")).coverage
    assert found.local == "layer3.4.conv2"
    assert found.everywhere == "avgpool"
    assert sight(network("vgg16", shape=(1, 3, 64, 96))).coverage.axes == (
        "features.19", "features.23",
    )  # fmt: skip


def test_layers_behind_the_border_add_nothing() -> None:
    found = sight(network("vgg16", shape=(1, 3, 32, 32)))
    # Fields: features.12 sees 32, features.14 sees 40, features.16 sees 44.
    assert found.field("features.12").size == (32, 32)
    assert found.unproductive[:2] == ("features.16", "features.17")
    assert sight(network("vgg16")).unproductive == ()
    # Shortcuts keep most of a residual network productive: up to layer3.1 the narrowest path
    # sees 11 pixels, and one window more, 16 pixels apart, 43.
    assert sight(network("resnet18", shape=(1, 3, 32, 32))).unproductive == (
        "layer3.1.conv2", "layer4.0.conv2", "layer4.1.conv2",
    )  # fmt: skip


def test_smallest_inputs() -> None:
    graph = network("inception_v3")
    assert smallest_input(graph, "Mixed_7c.concat").size == (75, 75)  # as its paper's code says
    assert smallest_input(network("vgg16"), "features.30").size == (32, 32)
    pixels = smallest_input(parse("1@64 > conv 1 5 > conv 1 5 p2"), unclipped=True)
    assert pixels.size == (9, 9)
    limited = smallest_input(parse("3@32 > conv 8 5 > maxpool 2/2 > flatten > fc 10"))
    assert limited.size == (32, 32)
    assert "flatten" in limited.limited_by[0] or "fc1" in limited.limited_by[0]


@pytest.mark.parametrize(
    "notation",
    ["1@40 > conv 1 4/2 psame > conv 1 3/2 psame", "1@40 > conv 1 7/2 p3 > conv 1 3 p1 > conv 1 3"],
)
def test_the_smallest_unclipped_input_is_the_smallest(notation: str) -> None:
    graph = parse(notation)
    layer = graph.outputs[0].value
    (size, _) = smallest_input(graph, layer, unclipped=True).size

    def whole(extent: int) -> bool:
        try:
            resized = graph.with_inputs({"x": (1, 1, extent, 40)})
            count = resized.shape(layer)[2]
        except ValueError:
            return False
        found = sight(resized)
        return any(not _rows_clipped(found, layer, index) for index in range(count))

    assert [extent for extent in range(1, size + 1) if _fits(graph, extent) and whole(extent)] == [
        size
    ]


def _rows_clipped(found: Sight, layer: str, row: int) -> bool:
    unit = found.at(layer, (row, 3))
    return unit.unclipped[0] != unit.clipped[0]


def _fits(graph: Graph, extent: int) -> bool:
    try:
        return graph.with_inputs({"x": (1, 1, extent, 40)}).shape(graph.outputs[0].value)[2] > 0
    except Exception:  # noqa: BLE001 - every error says that it does not fit
        return False


def test_the_expected_gaussian() -> None:
    (rows, _) = seen("1@64 > conv 1 3/2 p1 > conv 1 5 p2").gaussian("conv2")
    assert rows.centre == 0
    assert rows.variance == pytest.approx((9 - 1) / 12 + 4 * (25 - 1) / 12)
    assert rows.size == pytest.approx(4 * rows.sigma)
    (rows, _) = seen("1@64 > conv 1 3 d3 p3 > maxpool 2/2").gaussian("maxpool1")
    assert rows.centre == 0.5
    assert rows.variance == pytest.approx(9 * 8 / 12 + 3 / 12)
    assert seen("1@64 > conv 1 3 > gap").gaussian("gap1")[0].sigma == np.inf


# What a value decides -------------------------------------------------------------


def deformable() -> Graph:
    builder = GraphBuilder()
    x = builder.input("x", (1, 2, 16, 16))
    offsets = builder.input("o", (1, 18, 16, 16))
    op = DeformConv(
        channels=2, kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)
    )
    return builder.build(builder.add(op, x, offsets, name="d"))


def test_a_deformable_convolution_has_no_bound_of_its_own() -> None:
    field = sight(deformable(), "x").field("d")
    assert (field.status, field.size) == ("upper-bound", (None, None))
    assert field.reason == "d reads where its offsets say"
    assert field.to_dict()["size"] == [None, None]


def test_a_deformable_convolution_is_bounded_by_its_offsets() -> None:
    found = sight(deformable(), "x", offsets={"d": 2})
    field = found.field("d")
    assert (field.status, field.size, field.offset) == ("upper-bound", (7, 7), (-3, -3))
    unit = found.at("d", (8, 8))
    assert unit.clipped == ((5, 11), (5, 11))
    assert found.reaches("d", (8, 8)).ranges == ((5, 11), (5, 11))
    assert sight(deformable(), "o").field("d").size == (1, 1)


def test_samples_of_a_grid_may_come_from_anywhere() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 2, 8, 8))
    grid = builder.input("g", (1, 4, 4, 2))
    graph = builder.build(builder.add(GridSample(), x, grid, name="s"))
    found = sight(graph, "x")
    assert found.field("s").reason == "s samples where its grid says"
    assert found.mask("s", (0, 0)).all()
    assert not found.at("s", (0, 0)).exact


def test_what_is_gathered_from_channels_stays_in_its_place() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 4, 8, 8))
    places = builder.input("i", (3,))
    graph = builder.build(builder.add(Gather(axis=1), x, places, name="t"))
    field = sight(graph, "x").field("t")
    assert (field.status, field.size) == ("exact", (1, 1))


def test_einsum_keeps_what_its_letters_keep() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 4, 8, 8))
    y = builder.add(Einsum(equation="bchw,bcvw->bcvw"), x, x, name="e")
    found = sight(builder.build(y))
    assert found.field("e").everywhere == (True, False)


# Wrong questions ------------------------------------------------------------------


def test_wrong_questions_are_answered_with_errors() -> None:
    found = seen("1@8 > conv 1 3 p1 > unsupported Foo 1@8 > relu")
    with pytest.raises(GraphError, match="no value 'conv9'"):
        found.at("conv9", (0, 0))
    with pytest.raises(UsageError, match=r"conv1: there is no position \(8, 0\) in 8x8"):
        found.at("conv1", (8, 0))
    with pytest.raises(UsageError, match=r"x: there is no position \(1,\) in 8x8"):
        found.reaches("conv1", (1,))
    with pytest.raises(UsageError, match="conv1: conv1 has no channel 1"):
        found.mask("conv1", (0, 0), channel=1)
    with pytest.raises(UnsupportedOperatorError, match="Foo is not supported"):
        found.mask("relu1", (0, 0))
    with pytest.raises(UsageError, match="its field is not known"):
        found.smallest_input("relu1", unclipped=True)
    with pytest.raises(GraphError, match="no value 'y'"):
        found.smallest_input("y")
