"""Writing a changed network back into its file: nothing else moves, and ONNX Runtime runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from convsmith.graph import Constant, Graph, Node, Provenance
from convsmith.graph.operators import Activation, Conv, Elementwise, Norm
from convsmith.sources.onnx import read_onnx, write_onnx

Array = npt.NDArray[np.generic]
Numbers = npt.NDArray[np.float32]

SIZES = {"x": (1, 3, 12, 10)}

TEXT = """
<ir_version: 8, opset_import: ["": 13], producer_name: "somebody", metadata_props: ["a": "b"]>
network (float[N, 3, H, W] x) => (float[N, 5, I, J] y) {
    [first] a = Conv<pads = [1,1,1,1], kernel_shape = [3,3]>(x, first_w, first_b)
    [act] r = Relu(a)
    s = Shape(a)
    zero = Constant<value_ints = [0]>()
    two = Constant<value_ints = [2]>()
    four = Constant<value_ints = [4]>()
    [pool] p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
    q = Shape(p)
    nc = Slice(q, zero, two)
    hw = Slice(s, two, four)
    size = Concat<axis = 0>(nc, hw)
    [up] u = Resize<mode = "nearest">(p, , , size)
    [second] c = Conv<kernel_shape = [5,5]>(u, second_w)
    [bn] n = BatchNormalization(c, g, g, g, v)
    [last] y = Relu(n)
}
"""


def weights(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0.1, 1, shape).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model = parser.parse_model(TEXT)
    for name, shape in {
        "first_w": (4, 3, 3, 3),
        "first_b": (4,),
        "second_w": (5, 4, 5, 5),
        "g": (5,),
        "v": (5,),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(weights(*shape), name))
    path = tmp_path / "source.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path, x: Array) -> Numbers:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: Numbers = session.run(None, {"x": x})[0]
    return result


def protos(path: Path) -> dict[str, bytes]:
    """The nodes of a file by name (or output), as bytes."""
    nodes = onnx.load(path).graph.node
    return {node.name or node.output[0]: node.SerializeToString() for node in nodes}


def written(graph: Graph, source: Path) -> Path:
    path = source.with_name("written.onnx")
    write_onnx(graph, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return path


def conv(channels: int, kernel: tuple[int, int], *, bias: bool = False, pad: int = 0) -> Conv:
    return Conv(
        channels=channels,
        kernel=kernel,
        stride=(1, 1),
        padding=((pad, pad), (pad, pad)),
        dilation=(1, 1),
        bias=bias,
    )


def changed(
    graph: Graph,
    new: dict[str, list[Node]],
    constants: dict[str, Array],
    rename: dict[str, str] | None = None,
) -> Graph:
    """Puts new nodes in the place of old ones and renames what others read."""
    nodes = []
    for node in graph.nodes:
        nodes += new.get(node.name, [node])
    names = rename or {}
    fresh = {node.name for many in new.values() for node in many}
    nodes = [
        node
        if node.name in fresh
        else replace(node, inputs=tuple(names.get(name, name) for name in node.inputs))
        for node in nodes
    ]
    outputs = tuple(replace(out, value=names.get(out.value, out.value)) for out in graph.outputs)
    made = {name: Constant.of(data) for name, data in constants.items()}
    return replace(
        graph, nodes=tuple(nodes), outputs=outputs, constants={**graph.constants, **made}
    )


def twins(
    graph: Graph, source: Path, check: Callable[[Path], None] = lambda path: None
) -> set[str]:
    """Writes a graph in both ways; both must compute the same. Returns the nodes that changed."""
    path = written(graph, source)
    export = source.with_name("export.onnx")
    write_onnx(replace(graph, origin=None), export)
    x = np.random.default_rng(3).standard_normal(SIZES["x"]).astype(np.float32)
    np.testing.assert_allclose(run(path, x), run(export, x), rtol=1e-5, atol=1e-5)
    check(path)
    before, after = protos(source), protos(path)
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_an_unchanged_network_is_written_as_it_was(source: Path) -> None:
    path = written(read_onnx(source, shapes=SIZES), source)
    before, after = onnx.load(source), onnx.load(path)
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(
        deterministic=True
    )


def test_sizes_stay_dynamic_and_metadata_stays(source: Path) -> None:
    graph = read_onnx(source, shapes=SIZES).with_inputs({"x": (2, 3, 8, 8)})
    path = written(graph, source)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 3, "H", "W"]
    assert [(p.key, p.value) for p in onnx.load(path).metadata_props] == [("a", "b")]
    assert run(path, weights(3, 3, 14, 16)).shape == run(source, weights(3, 3, 14, 16)).shape


def test_several_convolutions_replace_one(source: Path) -> None:
    graph = read_onnx(source, shapes=SIZES)
    mark = Provenance(replaces="second", origin="low rank")
    column = Node(name="second.column", op=conv(2, (5, 1)), inputs=("up",), parameters=("k1",),
                  provenance=mark)  # fmt: skip
    row = Node(name="second.row", op=conv(5, (1, 5)), inputs=("second.column",),
               parameters=("k2",), provenance=mark)  # fmt: skip
    graph = changed(
        graph,
        {"second": [column, row]},
        {"k1": weights(2, 4, 5, 1), "k2": weights(5, 2, 1, 5)},
        {"second": "second.row"},
    )

    def check(path: Path) -> None:
        model = onnx.load(path)
        assert "second_w" not in {tensor.name for tensor in model.graph.initializer}
        assert next(n for n in model.graph.node if n.name == "second.row").output[0] == "c"
        assert run(path, weights(3, 3, 16, 9)).shape == (3, 5, 12, 5)

    assert twins(graph, source, check) == {"second", "second.column", "second.row"}


def test_parallel_branches_replace_one(source: Path) -> None:
    graph = read_onnx(source, shapes=SIZES)
    mark = Provenance(replaces="first")
    new = [
        Node(name="point", op=conv(4, (1, 1)), inputs=("x",), parameters=("k1",), provenance=mark),
        Node(name="square", op=conv(4, (3, 3), pad=1), inputs=("x",), parameters=("k2",),
             provenance=mark),
        Node(name="sum", op=Elementwise(kind="add"), inputs=("point", "square"), provenance=mark),
    ]  # fmt: skip
    graph = changed(
        graph,
        {"first": new},
        {"k1": weights(4, 3, 1, 1), "k2": weights(4, 3, 3, 3)},
        {"first": "sum"},
    )
    assert twins(graph, source) == {"first", "point", "square", "sum"}


def test_changed_weights_replace_the_initializer(source: Path) -> None:
    graph = read_onnx(source, shapes=SIZES)
    new = {**graph.constants, "first.weight": Constant.of(weights(4, 3, 3, 3, seed=7))}
    graph = replace(graph, constants=new)

    def check(path: Path) -> None:
        names = {tensor.name for tensor in onnx.load(path).graph.initializer}
        assert names == {"first.weight", "first_b", "second_w", "g", "v"} - {"first_b"} | {
            "first.bias"
        }

    assert twins(graph, source, check) == {"first"}


def test_a_folded_batch_norm_disappears(source: Path) -> None:
    graph = read_onnx(source, shapes=SIZES)
    folded = Node(name="second", op=conv(5, (5, 5), bias=True), inputs=("up",),
                  parameters=("k", "b"))  # fmt: skip
    graph = changed(
        graph,
        {"second": [folded], "bn": []},
        {"k": weights(5, 4, 5, 5), "b": weights(5)},
        {"bn": "second"},
    )

    def check(path: Path) -> None:
        assert run(path, weights(2, 3, 16, 9)).shape == (2, 5, 12, 5)

    assert twins(graph, source, check) == {"second", "bn", "last"}


def test_the_last_node_can_be_replaced_too(source: Path) -> None:
    graph = read_onnx(source, shapes=SIZES)
    new = Node(name="end", op=Activation(kind="sigmoid"), inputs=("bn",),
               provenance=Provenance(replaces="last"))  # fmt: skip
    graph = changed(graph, {"last": [new]}, {}, {"last": "end"})
    assert twins(graph, source) == {"last", "end"}


def test_an_output_can_come_from_a_node_that_stays(source: Path) -> None:
    graph = read_onnx(source, shapes=SIZES)
    nodes = tuple(node for node in graph.nodes if node.name != "last")
    graph = replace(graph, nodes=nodes, outputs=(replace(graph.outputs[0], value="bn"),))
    assert twins(graph, source) == {"last", "y"}


def test_a_shape_dependent_change_is_written_from_scratch(source: Path) -> None:
    graph = read_onnx(source, shapes=SIZES)
    new = Node(name="norm", op=Norm(kind="group", groups=1, affine=False), inputs=("pool",),
               provenance=Provenance(replaces="up"))  # fmt: skip
    graph = changed(graph, {"up": [new], "second": []}, {}, {"second": "norm"})
    nodes = tuple(n for n in graph.nodes if n.name not in ("bn",))
    nodes = tuple(replace(n, inputs=("norm",)) if n.name == "last" else n for n in nodes)
    path = written(replace(graph, nodes=nodes), source)
    assert onnx.load(path).opset_import[0].version == 21
    assert onnx.load(path).producer_name == "convsmith"


def test_new_weights_take_the_type_of_the_layer(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 2, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 3, 6, 6])
    kernel = numpy_helper.from_array(weights(3, 2, 3, 3).astype(np.float16), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    model = helper.make_model(
        helper.make_graph([node], "half", [x], [y], [kernel]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    source = tmp_path / "source.onnx"
    source.write_bytes(model.SerializeToString())
    graph = read_onnx(source)
    assert graph.inputs[0].dtype == graph.constants["conv.weight"].dtype == "float16"
    new = {"conv.weight": Constant.of(weights(3, 2, 3, 3, seed=5))}
    path = written(replace(graph, constants=new), source)
    assert onnx.load(path).graph.initializer[0].data_type == TensorProto.FLOAT16
    assert run(path, weights(1, 2, 8, 8).astype(np.float16)).dtype == np.float16


def test_nodes_that_are_several_of_ours_stay_whole(tmp_path: Path) -> None:
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 13]>
    network (float[N, 8, 4, 4] x) => (float[N, 8, 4, 4] y) {
        [shrink] s = Shrink<lambd = 0.5>(x)
        [act] y = Relu(s)
    }""")
    source = tmp_path / "source.onnx"
    source.write_bytes(model.SerializeToString())
    graph = read_onnx(source, shapes=(1, 8, 4, 4))
    assert [node.name for node in graph.nodes] == ["shrink.0.0", "shrink.0", "shrink", "act"]
    act = replace(graph.nodes[-1], op=Activation(kind="tanh"))
    path = written(replace(graph, nodes=(*graph.nodes[:-1], act)), source)
    assert protos(path)["shrink"] == protos(source)["shrink"]
    assert run(path, weights(3, 8, 4, 4)).shape == (3, 8, 4, 4)


@pytest.mark.parametrize("limit", [0, 2**31 - 2**20])
def test_external_data_is_carried_over(
    limit: int, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(source)
    outside = source.with_name("outside")
    outside.mkdir()
    onnx.save(model, outside / "m.onnx", save_as_external_data=True, location="m.bin",
              size_threshold=0)  # fmt: skip
    graph = read_onnx(outside / "m.onnx", shapes=SIZES)
    monkeypatch.setattr("convsmith.sources.onnx.storing.LARGEST_FILE", limit or 3000)
    path = source.with_name("copy.onnx")
    write_onnx(graph, path)
    assert source.with_name("copy.onnx.data").exists() == (limit == 0)
    x = weights(1, 3, 12, 10)
    np.testing.assert_array_equal(run(path, x), run(source, x))
    np.testing.assert_array_equal(
        read_onnx(path, shapes=SIZES).constants["second.weight"].data, weights(5, 4, 5, 5)
    )
