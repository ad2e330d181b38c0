"""What an ONNX file is read as: names, sizes, constants, and what cannot be understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from convsmith.errors import OutputError, ShapeError, SourceError
from convsmith.graph import Graph, Provenance, Shape, parse
from convsmith.graph.operators import Conv, Unsupported
from convsmith.sources.onnx import OnnxOrigin, read_onnx, write_onnx


def weights(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)


def read(
    body: str,
    folder: Path,
    constants: Mapping[str, npt.NDArray[np.generic]] | None = None,
    *,
    inputs: str = "float[1, 2, 8, 8] x",
    opset: int = 13,
    shapes: Mapping[str, Shape] | Shape | None = None,
) -> Graph:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}, "custom": 1]> '
        f"network ({inputs}) => (float[] y) {{ {body} }}"
    )
    for name, data in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(data, name))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return read_onnx(path, shapes=shapes)


def fact(error: pytest.ExceptionInfo[SourceError]) -> str:
    return str(error.value).split("model.onnx: ", 1)[1]


# Names --------------------------------------------------------------------------------


def test_nodes_have_the_names_of_the_file(tmp_path: Path) -> None:
    graph = read(
        "[twin] a = Relu(x) [twin] b = Relu(a) [alone] c = Relu(b) d = Relu(c) [x] y = Relu(d)",
        tmp_path,
    )
    assert [node.name for node in graph.nodes] == ["a", "b", "alone", "d", "x_2"]
    assert [(out.name, out.value) for out in graph.outputs] == [("y", "x_2")]
    assert graph.nodes[2].provenance == Provenance(path="alone", origin="Relu")
    assert graph.source == str(tmp_path / "model.onnx")
    assert isinstance(graph.origin, OnnxOrigin)


def test_parameters_are_named_after_their_node_unless_shared(tmp_path: Path) -> None:
    graph = read(
        "[one] a = Conv(x, k, b) [two] c = Conv<pads=[1,1,1,1]>(a, w) "
        "[three] d = Conv<pads=[1,1,1,1]>(c, w) [sum] y = Add(d, s)",
        tmp_path,
        {
            "k": weights(4, 2, 1, 1),
            "b": weights(4),
            "w": weights(4, 4, 3, 3),
            "s": weights(4, 1, 1),
        },
    )
    assert {name: c.shape for name, c in graph.constants.items()} == {
        "one.weight": (4, 2, 1, 1),
        "one.bias": (4,),
        "w": (4, 4, 3, 3),
        "s": (4, 1, 1),
    }
    assert graph.by_name["two"].parameters == graph.by_name["three"].parameters == ("w",)
    assert graph.by_name["sum"].inputs == ("three", "s")


def test_a_constant_does_not_take_the_name_of_a_node(tmp_path: Path) -> None:
    graph = read("[s] a = Relu(x) [t] y = Add(a, s)", tmp_path, {"s": weights(2, 1, 1)})
    assert graph.by_name["t"].inputs == ("s", "s_2")


def test_what_is_learnable(tmp_path: Path) -> None:
    graph = read(
        "a = Add(x, many) b = Mul(a, one) c = Pow(b, two) y = BatchNormalization(c, g, g, m, v)",
        tmp_path,
        {
            "many": weights(2, 1, 1),
            "one": weights(1),
            "two": np.array(2, np.int64),
            "g": weights(2),
            "m": weights(2),
            "v": weights(2),
        },
    )
    learnable = {name for name, constant in graph.constants.items() if constant.learnable}
    assert learnable == {"many", "g"}


def test_weights_are_not_copied(tmp_path: Path) -> None:
    graph = read("[fc] y = MatMul(x, w)", tmp_path, {"w": weights(8, 5)})
    data = graph.constants["fc.weight"].data
    assert data is not None
    assert data.shape == (5, 8)
    assert not data.flags.owndata
    assert not data.flags.writeable


def test_initializers_that_are_also_inputs_are_weights(tmp_path: Path) -> None:
    graph = read(
        "[c] y = Conv(x, w)",
        tmp_path,
        {"w": weights(3, 2, 1, 1)},
        inputs="float[1, 2, 8, 8] x, float[3, 2, 1, 1] w",
    )
    assert [value.name for value in graph.inputs] == ["x"]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_element_types_are_kept(dtype: str, tmp_path: Path) -> None:
    graph = read("[c] y = Conv(x, w)", tmp_path, {"w": weights(3, 2, 1, 1).astype(dtype)})
    constant = graph.constants["c.weight"]
    assert constant.data is not None
    assert constant.dtype == constant.data.dtype.name == dtype


def test_bfloat16_is_read_as_float32_elements(tmp_path: Path) -> None:
    values = [1.0, 2.5]
    tensor = helper.make_tensor("k", TensorProto.BFLOAT16, (2, 1, 1), values)
    x = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, (1, 2, 4, 4))
    y = helper.make_tensor_value_info("y", TensorProto.BFLOAT16, (1, 2, 4, 4))
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [tensor]),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    graph = read_onnx(path)
    constant = graph.constants["k"]
    assert (graph.inputs[0].dtype, constant.dtype) == ("bfloat16", "bfloat16")
    assert constant.data is not None
    assert constant.data.dtype == np.float32
    assert constant.data.reshape(-1).tolist() == values
    write_onnx(replace(graph, origin=None), tmp_path / "again.onnx")
    written = onnx.load(tmp_path / "again.onnx").graph.initializer[0]
    assert written.data_type == TensorProto.BFLOAT16
    assert numpy_helper.to_array(written).astype(np.float32).reshape(-1).tolist() == values


# Sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "shapes", "expected"),
    [
        ("N, 2, 8, 8", None, (1, 2, 8, 8)),
        ("N, 2, 8, 8", (5, 2, 8, 8), (5, 2, 8, 8)),
        ("N, 2, H, W", {"x": (1, 2, 6, 7)}, (1, 2, 6, 7)),
        ("1, 2, 8, 8", (1, 2, 8, 8), (1, 2, 8, 8)),
        ("", (3, 4), (3, 4)),
    ],
)
def test_sizes_of_inputs(
    declared: str, shapes: Shape | dict[str, Shape] | None, expected: Shape, tmp_path: Path
) -> None:
    graph = read("y = Relu(x)", tmp_path, inputs=f"float[{declared}] x", shapes=shapes)
    assert (
        graph.inputs[0].shape == graph.shape("y_2" if "y_2" in graph.by_name else "y") == expected
    )


@pytest.mark.parametrize(
    ("declared", "shapes", "expected"),
    [
        (
            "N, 3, H, W",
            None,
            "input 'x' has dynamic size (N, 3, H, W); give --input 1,3,224,224.",
        ),
        ("", None, "input 'x' has no size in the file; give one, as in --input 1,3,224,224."),
        (
            "N, 3, H, W",
            (1, 4, 8, 8),
            ("input 'x' has size (N, 3, H, W) in the file, not (1, 4, 8, 8);"
            " give a size that fits."),
        ),
        (
            "1, 3, 8, 8",
            (2, 3, 8, 8),
            ("input 'x' has size (1, 3, 8, 8) in the file, not (2, 3, 8, 8);"
            " leave the size out, or export the model with dynamic sizes."),
        ),
        ("N, 3, H, W", (1, 3, 8), ("input 'x' has size (N, 3, H, W) in the file, not (1, 3, 8);"
         " give a size that fits.")),
        ("N, 3, S, S", (1, 3, 8, 9), "'S' is both 8 and 9 in the given sizes."),
        ("N, 3, H, W", (1, 3, 0, 8), "size (1, 3, 0, 8) of input 'x' must be positive."),
        ("N, 3, H, W", {"z": (1,)}, "the model has no input 'z'; it has x."),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(
    declared: str, shapes: Shape | dict[str, Shape] | None, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as error:
        read("y = Relu(x)", tmp_path, inputs=f"float[{declared}] x", shapes=shapes)
    assert fact(error) == expected


def test_a_symbol_means_the_same_in_every_input(tmp_path: Path) -> None:
    graph = read(
        "y = Add(a, b)", tmp_path, inputs="float[N, S] a, float[N, S] b", shapes={"a": (2, 7)}
    )
    assert graph.inputs[1].shape == (2, 7)


def test_one_size_for_two_dynamic_inputs(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        read("y = Add(a, b)", tmp_path, inputs="float[S] a, float[T] b", shapes=(7,))
    assert fact(error) == (
        "one size is given, the model has 2 inputs (a, b); give the sizes by name."
    )


def test_layers_that_do_not_fit_name_the_file_and_the_layer(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"model\.onnx: conv: kernel 9x9 does not fit input 8x8"):
        read("[conv] y = Conv(x, w)", tmp_path, {"w": weights(3, 2, 9, 9)})


# Arithmetic of shapes -----------------------------------------------------------------


def test_the_arithmetic_of_shapes_disappears(tmp_path: Path) -> None:
    graph = read(
        "s = Shape(x) i = Constant<value_int=0>() n = Gather(s, i) z = Constant<value_ints=[0]>() "
        "u = Unsqueeze(n, z) m = Constant<value_ints=[-1]>() c = Concat<axis=0>(u, m) "
        "[flat] y = Reshape(x, c)",
        tmp_path,
        inputs="float[N, 2, 8, 8] x",
    )
    assert str(graph) == "x : 2@8x8\nflat = flatten (x)\nreturn y = flat"
    assert graph.with_inputs({"x": (3, 2, 8, 8)}).shape("flat") == (3, 128)


def test_weights_behind_casts_and_transposes_stay_weights(tmp_path: Path) -> None:
    graph = read(
        "h = Cast<to=1>(w) t = Transpose<perm=[3,2,0,1]>(h) [c] y = Conv(x, t)",
        tmp_path,
        {"w": weights(1, 1, 2, 3).astype(np.float16)},
    )
    assert [node.name for node in graph.nodes] == ["c"]
    constant = graph.constants["c.weight"]
    assert (constant.shape, constant.dtype, constant.learnable) == ((3, 2, 1, 1), "float32", True)


# What cannot be understood ------------------------------------------------------------


def test_an_unknown_operator_is_kept_by_name_and_the_rest_is_read(tmp_path: Path) -> None:
    graph = read(
        "[t] v, i = Dropout(x) [w] a = custom.Magic(v, i) [conv] b = Conv(a, c) [r] y = Relu(b)",
        tmp_path,
        {"c": weights(4, 2, 1, 1)},
        inputs="float[N, 2, 8, 8] x",
    )
    assert graph.by_name["t"].op == Unsupported(kind="Dropout", shapes=((1, 2, 8, 8),) * 2)
    assert graph.by_name["w"].op == Unsupported(kind="custom::Magic", shapes=(None,))
    assert graph.by_name["w"].inputs == ("t", "t:1")
    assert isinstance(graph.by_name["conv"].op, Conv)
    assert graph.shapes["r"] is None


def test_a_shape_that_the_file_knows_is_used(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13, "custom": 1]> '
        "network (float[1, 2] x) => (float[1, 7] y) <float[1, 7] a> "
        "{ a = custom.Magic(x) y = Relu(a) }"
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert read_onnx(path).shape("y") == (1, 7)


@pytest.mark.parametrize(
    "body",
    [
        "k = Relu(w) y = Conv(x, k)",
        "y, i = MaxPool<kernel_shape=[2,2], storage_order=1>(x) z = Cast<to=1>(i)",
        "y = BatchNormalization<training_mode=1>(x, g, g, g, g)",
        "y = Selu<alpha=2.0>(x)",
        "y = Cast<to=8>(x)",
        "y = Resize<coordinate_transformation_mode=\"tf_crop_and_resize\">(x, r, s)",
        "y = Hardmax(x)",
        "y = Conv<pads=[-1,0,0,0]>(x, w)",
    ],
)  # fmt: skip
def test_what_no_operator_expresses_is_unsupported(body: str, tmp_path: Path) -> None:
    constants = {
        "w": weights(3, 2, 1, 1),
        "g": weights(2),
        "r": weights(8),
        "s": np.array([1, 1, 2, 2], np.float32),
    }
    graph = read(body, tmp_path, constants, opset=15)
    kinds = [node.op.kind for node in graph.nodes if isinstance(node.op, Unsupported)]
    assert kinds


def test_softmax_over_several_axes_is_unsupported_before_opset_13(tmp_path: Path) -> None:
    assert isinstance(read("y = Softmax(x)", tmp_path, opset=11).nodes[0].op, Unsupported)


def test_branches_are_unsupported_and_keep_what_they_capture(tmp_path: Path) -> None:
    graph = read(
        "[r] a = Relu(x) [if] y = If(c) <then_branch = t () => (float[] o) { o = Neg(a) }, "
        "else_branch = e () => (float[] p) { p = Abs(a) }>",
        tmp_path,
        inputs="float[1, 2] x, bool c",
    )
    node = graph.by_name["if"]
    assert (node.inputs, node.op) == (("c", "r"), Unsupported(kind="If", shapes=((1, 2),)))


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17, "local": 1]>
    network (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) { y = local.Twice(x) }
    <opset_import: ["": 17], domain: "local"> Twice (a) => (c) { b = Relu(a) c = Sigmoid(b) }
    """)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert [node.provenance.origin for node in read_onnx(path).nodes] == ["Relu", "Sigmoid"]


# Writing ------------------------------------------------------------------------------


def test_a_network_of_shapes_alone_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        write_onnx(parse("3@8 > conv 4 3"), tmp_path / "model.onnx")
    assert fact(error) == (
        "conv1: 'conv1.weight' has no weights, only shapes;"
        " load the network from a file or a module that has its weights."
    )
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph = parse("3@8 > relu")
    write_onnx(graph, path)
    with pytest.raises(OutputError, match="this file exists; choose another name or pass --force"):
        write_onnx(graph, path)
    write_onnx(graph, path, overwrite=True)


def test_an_unsupported_operator_is_not_written_from_scratch(tmp_path: Path) -> None:
    graph = read("[w] y = custom.Magic(x)", tmp_path)
    write_onnx(graph, tmp_path / "same.onnx")
    with pytest.raises(SourceError, match=r"w: 'unsupported custom::Magic.*' cannot be written"):
        write_onnx(replace(graph, origin=None), tmp_path / "b.onnx")


def test_large_weights_go_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = read("[c] y = Conv(x, w, b)", tmp_path, {"w": weights(64, 2, 3, 3), "b": weights(64)})
    monkeypatch.setattr("convsmith.sources.onnx.storing.LARGEST_FILE", 4000)
    for name, written in (("a", graph), ("b", replace(graph, origin=None))):
        path = tmp_path / f"{name}.onnx"
        write_onnx(written, path)
        assert path.with_name(f"{name}.onnx.data").stat().st_size == 64 * 2 * 9 * 4
        if name == "b":  # the checker wants to see the shape of an output
            onnx.checker.check_model(path, full_check=True)
        again = read_onnx(path)
        for role in ("c.weight", "c.bias"):
            np.testing.assert_array_equal(again.constants[role].data, graph.constants[role].data)
        with pytest.raises(OutputError, match="this file exists"):
            write_onnx(written, path)
        write_onnx(again, path, overwrite=True)
        assert read_onnx(path) == again
