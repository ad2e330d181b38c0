"""Sums by layer, module and operator."""

from __future__ import annotations

import pytest

from convsmith.analysis import Analysis, analyze
from convsmith.analysis.modules import DEEPEST, module_path, parts
from convsmith.errors import UsageError
from convsmith.graph import Graph, GraphBuilder, Node, Provenance, parse
from convsmith.graph.operators import Activation, Conv, Elementwise

RELU = Activation(kind="relu")


def conv(channels: int) -> Conv:
    return Conv(
        channels=channels, kernel=(1, 1), stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)
    )


def network(names: dict[str, str]) -> Graph:
    """Convolutions, additions of their own inputs and ReLUs, by the last part of their names."""
    builder = GraphBuilder()
    x = builder.input("x", (1, 4, 2, 2))
    for name, path in names.items():
        last = name.replace("/", ".").lower().rpartition(".")[2]
        provenance = Provenance(path=path)
        if last.startswith("conv"):
            x = builder.add(conv(4), x, name=name, provenance=provenance)
        elif last.startswith("add"):
            x = builder.add(Elementwise(kind="add"), x, x, name=name, provenance=provenance)
        else:
            x = builder.add(RELU, x, name=name, provenance=provenance)
    return builder.build(("y", x))


TORCH = {
    "stem.conv": "stem.conv",
    "stem.relu": "stem.relu",
    "block.0.conv1": "block.0.conv1",
    "block.0.relu": "block.0.relu",
    "block.0.conv2": "block.0.conv2",
    "block.0.add": "block.0",
    "block.0.relu_1": "block.0.relu",
    "head.conv": "head.conv",
}
ONNX = {
    "/stem/conv/Conv": "/stem/conv/Conv",
    "/stem/relu/Relu": "/stem/relu/Relu",
    "/block/block.0/conv1/Conv": "/block/block.0/conv1/Conv",
    "/block/block.0/relu/Relu": "/block/block.0/relu/Relu",
    "/block/block.0/conv2/Conv": "/block/block.0/conv2/Conv",
    "/block/block.0/Add": "/block/block.0/Add",
    "/block/block.0/relu/Relu_1": "/block/block.0/relu/Relu_1",
    "/head/conv/Conv": "/head/conv/Conv",
}


def shown(analysis: Analysis, depth: int | None = None) -> list[tuple[str, int, int]]:
    return [(group.name, group.level, group.layers) for group in analysis.by_module(depth).groups]


def test_the_tree_of_a_torch_module() -> None:
    assert shown(analyze(network(TORCH))) == [
        ("stem", 1, 2),
        ("stem.conv", 2, 1),
        ("stem.relu", 2, 1),
        ("block", 1, 5),
        ("block.0", 2, 5),
        ("block.0.conv1", 3, 1),
        ("block.0.relu", 3, 2),  # called twice
        ("block.0.conv2", 3, 1),
        ("block.0.add", 3, 1),  # a function, in the module that calls it
        ("head", 1, 1),  # nothing but one layer
    ]


def test_the_tree_of_an_onnx_file_with_scopes() -> None:
    torch, onnx = (shown(analyze(network(names))) for names in (TORCH, ONNX))
    assert [item for item in onnx if "Relu" not in item[0]] == [
        (name.replace("add", "Add"), level, layers) for name, level, layers in torch
    ]
    assert [item for item in onnx if "Relu" in item[0]] == [
        ("block.0.relu.Relu", 4, 1),
        ("block.0.relu.Relu_1", 4, 1),
    ]


def test_a_depth_limit_leaves_the_sums_of_what_is_above() -> None:
    analysis = analyze(network(TORCH))
    assert shown(analysis, 1) == [("stem", 1, 2), ("block", 1, 5), ("head", 1, 1)]
    whole = {group.name: group for group in analysis.by_module().groups}
    for depth in (1, 2, 3, 9):
        view = analysis.by_module(depth)
        assert [whole[group.name] for group in view.groups] == list(view.groups)
        assert max(group.level for group in view.groups) == min(depth, 3)


def test_outermost_modules_add_up_to_the_network() -> None:
    analysis = analyze(network(TORCH))
    for key in ("macs", "mults", "adds", "others", "flops", "params", "weight_bytes"):
        groups = analysis.by_module(1).groups
        assert sum(getattr(group, key) for group in groups) == getattr(analysis.total, key)
        assert sum(analysis.by_module(1).share(group, key) for group in groups) == pytest.approx(1)


def test_a_depth_of_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="a depth of 0 shows no module; give 1 or more"):
        analyze(parse("3@8 > relu")).by_module(0)


def test_a_shared_tensor_counts_once_in_every_module_that_uses_it() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 4, 2, 2))
    for name in ("a.one", "a.two", "b.three"):
        if name == "a.one":
            x = builder.add(conv(4), x, name=name)
        else:
            x = builder.add(conv(4), x, name=name, parameters=("a.one.weight", "a.one.bias"))
    analysis = analyze(builder.build(("y", x)))
    params = {group.name: group.params for group in analysis.by_module().groups}
    assert params == {"a": 20, "a.one": 20, "a.two": 20, "b": 20}
    assert analysis.by_operator().groups[0].params == analysis.total.params == 20
    assert analysis.by_module(1).groups[0].weight_bytes == 80


def test_by_operator_uses_the_words_of_the_notation() -> None:
    analysis = analyze(
        parse("4@8 > conv 8 3 p1 > relu > dw 3 p1 > relu > conv 8 1 > unsupported Foo 8@8 > relu")
    )
    view = analysis.by_operator()
    assert [(g.name, g.layers, g.macs) for g in view.groups] == [
        ("conv", 2, 64 * 8 * 36 + 64 * 8 * 8),
        ("dw", 1, 64 * 8 * 9),
        ("relu", 3, 0),
        ("Foo", 1, 0),
    ]
    assert [group.unsupported for group in view.groups] == [0, 0, 0, 1]
    assert view.groups[-1].arithmetic_intensity is None
    assert view.unsupported == ("unsupported1",)


def test_values_of_every_rank_have_an_operator() -> None:
    for source in ("<4> > relu", "<2,4> > fc 3", "2@9 > conv 4 3 g2", "3@8 > relu"):
        (group,) = analyze(parse(source)).by_operator().groups
        assert group.layers == 1


def test_by_layer_has_every_layer() -> None:
    analysis = analyze(parse("4@8 > conv 8 3 p1 > relu > flatten"))
    groups = analysis.by_layer().groups
    for row, group in zip(analysis.rows, groups, strict=True):
        keys = ("name", "params", "macs", "mults", "adds", "others", "weight_bytes", "read_bytes")
        assert [getattr(row, key) for key in keys] == [getattr(group, key) for key in keys]
        assert row.arithmetic_intensity == group.arithmetic_intensity


def test_the_intensity_of_a_group_weighs_its_layers() -> None:
    analysis = analyze(parse("4@8 > conv 8 3 p1 > relu"))
    (conv_row, relu) = analysis.rows
    builder = network({"m.conv": "m.conv", "m.relu": "m.relu"})
    (group, *_) = analyze(builder).by_module(1).groups
    rows = analyze(builder).rows
    moved = sum(row.moved_bytes for row in rows)
    assert group.arithmetic_intensity == sum(row.flops for row in rows) / moved
    assert conv_row.moved_bytes == 4 * (8 * 36 + 8 + 256 + 512)
    assert relu.moved_bytes == 4 * 1024


def test_the_json_of_a_view() -> None:
    view = analyze(parse("4@8 > conv 8 1 nobias > relu")).by_module(1)
    data = view.to_dict()
    assert data["schema"] == "convsmith.view/1"
    assert (data["by"], data["depth"], data["convention"]) == ("module", 1, "exact")
    assert data["groups"][0] == {
        "name": "conv1",
        "level": 1,
        "layers": 1,
        "params": 32,
        "macs": 2048,
        "mults": 2048,
        "adds": 1536,
        "others": 0,
        "flops": 3584,
        "weight_bytes": 128,
        "read_bytes": 1024,
        "write_bytes": 2048,
        "arithmetic_intensity": 3584 / 3200,
        "unsupported": 0,
        "share": {"macs": 1.0, "params": 1.0, "flops": 3584 / 4096},
    }


def test_an_empty_network_has_empty_views() -> None:
    analysis = analyze(Graph(inputs=(), nodes=(), outputs=()))
    for view in (analysis.by_layer(), analysis.by_module(), analysis.by_operator()):
        assert view.groups == ()
        assert str(view)


@pytest.mark.parametrize(
    ("name", "path", "module"),
    [
        ("conv1", "", "conv1"),
        ("features.0", "features.0", "features.0"),
        ("add", "", "add"),
        ("encoder.add_1", "encoder", "encoder.add_1"),
        ("encoderx", "encoder", "encoder"),
        ("42", "/features/features.0/features.0.1/Conv", "features.0.1.Conv"),
        ("9", "/downsample/downsample.0/Conv", "downsample.0.Conv"),
        ("model/block1/conv1/Conv2D", "model/block1/conv1/Conv2D", "model.block1.conv1.Conv2D"),
        ("/Conv", "", "Conv"),
        ("//", "//", "//"),
        ("...", "", "..."),
        ("a..b", "", "a..b"),
    ],
)
def test_the_module_of_a_layer(name: str, path: str, module: str) -> None:
    node = Node(name=name, op=RELU, inputs=("x",), provenance=Provenance(path=path))
    assert module_path(node) == module
    assert parts(module)
    assert all(parts(module))


def test_paths_without_end_are_cut() -> None:
    assert len(parts("a." * 100_000 + "b")) <= DEEPEST
    analysis = analyze(network({"a." * 5_000 + f"relu{i}": "" for i in range(3)}))
    assert max(group.level for group in analysis.by_module().groups) <= DEEPEST
