"""Whatever stands in a file, reading ends soon, with a network or with an error that helps."""

from __future__ import annotations

import time
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper, parser

from convsmith.analysis import analyze
from convsmith.errors import ConvsmithError
from convsmith.graph import Graph
from convsmith.sources.onnx import read_onnx
from convsmith.sources.onnx.skimming import skim

TEXTS = (
    """network (float[1, 2, 8, 8] x) => (float[1, 3, 4, 4] y) {
        a = Conv<pads = [1,1,1,1]>(x, w, b)
        r = Relu(a)
        y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
    }""",
    """network (float[1, 2, 8, 8] x) => (float[1, 2, 1, 1] y) {
        s = Shape(x)
        i = Constant<value = int64[1] {2}>()
        g = Gather(s, i)
        k = Concat<axis = 0>(i, g)
        a, c = Split<axis = 1>(x)
        d = Mul(a, c)
        e = Resize<mode = "linear">(d, , , size)
        y = ReduceMean<axes = [2,3]>(e)
    }""",
    """network (float[1, 2, 8, 8] x) => (float[4, 1] y) {
        f = Flatten(x)
        m = Gemm<transB = 1>(f, wide)
        t = Transpose<perm = [1,0]>(m)
        y = Softmax(t)
    }""",
)
WEIGHTS: dict[str, npt.NDArray[np.generic]] = {
    "w": np.ones((3, 2, 3, 3), np.float32),
    "b": np.ones(3, np.float32),
    "wide": np.ones((16, 128), np.float32),  # large enough to be stepped over
    "size": np.array([1, 1, 16, 16], np.int64),
}
# Numbers that sizes, counts and places are replaced by.
NUMBERS = st.sampled_from([-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 2**31, 2**40, 2**63 - 1])
TYPES = ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize", "Reshape", "Gather", "Slice",
         "Expand", "Tile", "Range", "Pad", "Concat", "Split", "Squeeze", "Unsqueeze", "Flatten",
         "Gemm", "MatMul", "Add", "Einsum", "Transpose", "ConstantOfShape", "Cast", "Loop", "Nope",
         "GlobalAveragePool", "BatchNormalization", "Softmax", "DepthToSpace", "ReduceSum",
         "Upsample", "LRN", "TopK", "Where", "GridSample", "Col2Im"]  # fmt: skip


@cache
def models() -> tuple[bytes, ...]:
    made = []
    for text in TEXTS:
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]> {text}')
        for name, data in WEIGHTS.items():
            model.graph.initializer.append(numpy_helper.from_array(data, name))
        made.append(model.SerializeToString())
    return tuple(made)


def outcome(content: bytes, path: Path, *, weights: bool = True) -> Graph | ConvsmithError:
    path.write_bytes(content)
    try:
        graph = read_onnx(path, weights=weights)
        analyze(graph)
    except ConvsmithError as error:
        return error
    return graph


def check(content: bytes, folder: Path) -> None:
    """It is read, or refused, and without its weights it is the same network."""
    whole = outcome(content, folder / "fuzz.onnx")
    quick = outcome(content, folder / "fuzz.onnx", weights=False)
    assert isinstance(whole, Graph) == isinstance(quick, Graph), (whole, quick)
    if isinstance(whole, Graph):
        assert whole == quick


FUZZING = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# Bytes --------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file of which some bytes were changed, cut out, doubled or put in."""
    content = bytearray(draw(st.sampled_from(models())))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0 if content:
                content[at] = draw(st.integers(0, 255))
            case 1:
                del content[at : at + draw(st.integers(1, 40))]
            case 2:
                content[at:at] = content[at : at + draw(st.integers(1, 200))]
            case 3:
                content[at:at] = draw(st.binary(max_size=12))
            case _:
                del content[at:]
    return bytes(content)


@given(content=damaged() | st.binary(max_size=200).map(lambda b: b"\x08\x08" + b))
@FUZZING
def test_damaged_bytes(content: bytes, tmp_path: Path) -> None:
    check(content, tmp_path)


# Structure ----------------------------------------------------------------------------


@st.composite
def twisted(draw: st.DrawFn) -> bytes:
    """A file that is well encoded, but says something odd."""
    model = onnx.ModelProto.FromString(draw(st.sampled_from(models())))
    graph = model.graph
    names = sorted({"", *WEIGHTS, *(n for node in graph.node for n in (*node.input, *node.output))})
    for _ in range(draw(st.integers(1, 5))):
        node = draw(st.sampled_from(list(graph.node)))
        tensor = draw(st.sampled_from(list(graph.initializer)))
        match draw(st.integers(0, 9)):
            case 0:
                node.op_type = draw(st.sampled_from(TYPES))
            case 1 if node.input:
                place = draw(st.integers(0, len(node.input) - 1))
                node.input[place] = draw(st.sampled_from(names))
            case 2:
                node.input.append(draw(st.sampled_from(names)))
            case 3 if node.attribute:
                attribute = draw(st.sampled_from(list(node.attribute)))
                if attribute.ints:
                    attribute.ints[0] = draw(NUMBERS)
                else:
                    attribute.i = draw(NUMBERS)
            case 4:
                name = draw(
                    st.sampled_from(["axis", "group", "ceil_mode", "dilations", "auto_pad"])
                )
                value = draw(
                    NUMBERS | st.lists(NUMBERS, min_size=1, max_size=3) | st.just("SAME_UPPER")
                )
                node.attribute.append(helper.make_attribute(name, value))
            case 5 if tensor.dims:
                tensor.dims[draw(st.integers(0, len(tensor.dims) - 1))] = draw(NUMBERS)
            case 6:
                tensor.data_type = draw(st.integers(0, 25))
            case 7:
                dims = graph.input[0].type.tensor_type.shape.dim
                dims[draw(st.integers(0, len(dims) - 1))].dim_value = draw(NUMBERS)
            case 8:
                graph.node.append(node)
            case _ if len(graph.node) > 1:
                graph.node.remove(node)
    return bytes(model.SerializeToString())


@given(content=twisted())
@FUZZING
def test_odd_structures(content: bytes, tmp_path: Path) -> None:
    check(content, tmp_path)


# Made to hurt -------------------------------------------------------------------------


def chain(op: str, count: int) -> onnx.ModelProto:
    times = 2 if op in ("Add", "Concat") else 1
    nodes = [helper.make_node(op, [f"v{i}"] * times, [f"v{i + 1}"]) for i in range(count)]
    for node in nodes if op == "Concat" else ():
        node.attribute.append(helper.make_attribute("axis", 1))
    return model_of(nodes, f"v{count}")


def model_of(
    nodes: list[onnx.NodeProto], output: str, shape: tuple[int, ...] = (1, 2, 4, 4)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "hurt",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def constants(sizes: list[int], op: str) -> onnx.ModelProto:
    model = model_of(
        [helper.make_node(op, ["sizes"], ["c"]), helper.make_node("Relu", ["v0"], ["y"])], "y"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    return model


def nested(depth: int) -> onnx.ModelProto:
    inner = helper.make_graph([helper.make_node("Relu", ["v0"], ["r"])], "in", [], [])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["r"])
        node.attribute.append(
            AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=inner)
        )
        inner = helper.make_graph([node], "in", [], [])
    return model_of([*inner.node, helper.make_node("Relu", ["v0"], ["y"])], "y")


HURTFUL = {
    "deep": lambda: chain("Relu", 5000),
    "doubled paths": lambda: chain("Add", 3000),
    "doubled channels": lambda: chain("Concat", 200),
    "doubled shapes": lambda: model_of(
        [
            helper.make_node("Shape", ["v0"], ["s0"]),
            *(helper.make_node("Concat", [f"s{i}"] * 2, [f"s{i + 1}"], axis=0) for i in range(60)),
            helper.make_node("Reshape", ["v0", "s60"], ["y"]),
        ],
        "y",
    ),
    "wide": lambda: model_of(
        [
            *(helper.make_node("Relu", ["v0"], [f"r{i}"]) for i in range(3000)),
            helper.make_node("Concat", [f"r{i}" for i in range(3000)], ["y"], axis=1),
        ],
        "y",
    ),
    "many outputs": lambda: model_of(
        [helper.make_node("Split", ["v0"], ["y", *(f"s{i}" for i in range(4999))], axis=1)],
        "y",
        (1, 5000, 1, 1),
    ),
    "doubled sizes": lambda: chain("Concat", 3000),
    "a triangle of 2^28": lambda: model_of(
        [helper.make_node("Trilu", ["v0"], ["y"])],
        "y",
        (1, 1, 2**25, 8),
    ),
    "indices of 2^28 channels": lambda: model_of(
        [helper.make_node("MaxPool", ["v0"], ["y", "i"], kernel_shape=[2, 2])],
        "i",
        (1, 2**28, 8, 8),
    ),
    "nested": lambda: nested(20),
    "a constant of 2^60": lambda: constants([2**20, 2**20, 2**20], "ConstantOfShape"),
    "a negative constant": lambda: constants([-5, 3], "ConstantOfShape"),
    "a large input": lambda: model_of(
        [helper.make_node("Relu", ["v0"], ["y"])], "y", (2**62, 3, 2**62, 9)
    ),
    "an empty input": lambda: model_of(
        [helper.make_node("GlobalMaxPool", ["v0"], ["y"])], "y", (1, 3, 0, 9)
    ),
}


@pytest.mark.parametrize("name", HURTFUL)
def test_what_is_made_to_hurt_takes_little_time_and_memory(name: str, tmp_path: Path) -> None:
    content = HURTFUL[name]().SerializeToString()
    start = time.process_time()
    tracemalloc.start()
    try:
        check(content, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    assert time.process_time() - start < 60  # exponential growth, not a slow machine


# Skimming -----------------------------------------------------------------------------


def test_onnx_is_not_asked_to_follow_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2^40 numbers that nobody knows it would make 2^40 placeholders, in C++, unbounded."""
    asked: list[dict[str, object]] = []
    infer = onnx.shape_inference.infer_shapes

    def infer_shapes(model: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        asked.append(dict(options))
        return infer(model)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", infer_shapes)
    model = model_of(
        [
            helper.make_node("Range", ["a", "b", "c"], ["r"]),
            helper.make_node("Cast", ["r"], ["q"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["v0", "q"], ["y"]),
        ],
        "y",
    )
    for name, number in zip("abc", (0, 2**40, 1), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.array(number, np.int64), name))
    made = outcome(model.SerializeToString(), tmp_path / "net.onnx")
    assert isinstance(made, ConvsmithError)
    assert "do not broadcast" in str(made)
    assert asked
    assert not any(options.get("data_prop") for options in asked)


def test_skimming_leaves_out_the_weights_and_nothing_else(tmp_path: Path) -> None:
    content = models()[2]
    (tmp_path / "net.onnx").write_bytes(content)
    skimmed = skim(tmp_path / "net.onnx")
    assert skimmed is not None
    assert skimmed.skipped == {2: 16 * 128 * 4}
    expected = onnx.ModelProto.FromString(content)
    expected.graph.initializer[2].ClearField("raw_data")
    assert onnx.ModelProto.FromString(skimmed.content) == expected
    assert len(skimmed.content) < len(content) - 8000


def test_a_network_without_weights_counts_the_same(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(models()[2])
    whole = read_onnx(tmp_path / "net.onnx")
    quick = read_onnx(tmp_path / "net.onnx", weights=False)
    assert analyze(whole).to_dict() == analyze(quick).to_dict()
    assert all(constant.data is None for constant in quick.constants.values())
    assert any(constant.data is not None for constant in whole.constants.values())
