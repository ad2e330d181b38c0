"""Files that are not what they claim to be: a clear error, no traceback, no memory taken."""

from __future__ import annotations

import io
import pickle
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from convsmith.errors import ConvsmithError, SourceError
from convsmith.graph import Graph
from convsmith.sources.onnx import read_onnx


def network(opset: int = 13) -> onnx.ModelProto:
    model = parser.parse_model(f"""
    <ir_version: 8, opset_import: ["": {opset}]>
    network (float[1, 2, 8, 8] x) => (float[1, 3, 4, 4] y) {{
        [conv] a = Conv<pads = [1,1,1,1]>(x, w, b)
        [act] r = Relu(a)
        [pool] y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
    }}""")
    for name, shape in (("w", (3, 2, 3, 3)), ("b", (3,))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return model


def read(model: onnx.ModelProto | bytes, folder: Path) -> Graph:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return read_onnx(path)


def message(model: onnx.ModelProto | bytes, folder: Path) -> str:
    """The error of a file, without its path."""
    with pytest.raises(SourceError) as error:
        read(model, folder)
    assert error.value.exit_code == 2
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__
    text = str(error.value)
    assert text.startswith(f"{folder / 'model.onnx'}: ")
    return text.removeprefix(f"{folder / 'model.onnx'}: ")


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("data.pkl", b"")
    return file.getvalue()


# Not ONNX -----------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        read_onnx(tmp_path / "no.onnx")
    assert str(error.value) == f"{tmp_path / 'no.onnx'}: no such file; check the path."


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"this is a folder; give the \.onnx file"):
        read_onnx(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty; export or download it again."),
        (b"hello, this is text\n", "not an ONNX file, but text; give an .onnx file."),
        (
            archive(),
            (
                "not an ONNX file, but a zip archive (perhaps a PyTorch checkpoint);"
                " give an .onnx file."
            ),
        ),
        (
            pickle.dumps({"state": list(range(99))}),
            (
                "not an ONNX file, but a Python pickle (perhaps a PyTorch checkpoint);"
                " give an .onnx file."
            ),
        ),
        (
            b"\x89HDF\r\n\x1a\n" + bytes(99),
            "not an ONNX file, but an HDF5 file (perhaps a Keras model); give an .onnx file.",
        ),
        (bytes(range(255, 0, -1)), "not an ONNX file; give an .onnx file."),
    ],
    ids=["empty", "text", "zip", "pickle", "hdf5", "bytes"],
)
def test_what_is_not_onnx(content: bytes, expected: str, tmp_path: Path) -> None:
    assert message(content, tmp_path) == expected


def test_a_truncated_file(tmp_path: Path) -> None:
    content = network().SerializeToString()
    expected = "the file is truncated or damaged; export or download it again."
    assert message(content[: len(content) // 2], tmp_path) == expected


def test_a_file_that_ends_before_its_graph(tmp_path: Path) -> None:
    assert message(onnx.ModelProto(ir_version=8).SerializeToString(), tmp_path) == (
        "the file holds no graph; it is truncated or damaged; export or download it again."
    )


def test_a_file_without_opset(tmp_path: Path) -> None:
    model = network()
    del model.opset_import[:]
    assert "it names no version of the ONNX operators" in message(model, tmp_path)


@pytest.mark.parametrize(
    ("opset", "remedy"),
    [
        (6, "convert it with onnx.version_converter"),
        (999, "upgrade the onnx package or export with an older opset"),
    ],
)
def test_an_opset_that_is_not_known(opset: int, remedy: str, tmp_path: Path) -> None:
    model = network()
    model.opset_import[0].version = opset
    newest = onnx.defs.onnx_opset_version()
    expected = f"it uses opset {opset}, supported are 7 to {newest}; {remedy}."
    assert message(model, tmp_path) == expected


def test_an_empty_graph(tmp_path: Path) -> None:
    model = network()
    del model.graph.node[:]
    expected = "the model's graph is empty; export or download it again."
    assert message(model, tmp_path) == expected


def test_names_that_are_not_text(tmp_path: Path) -> None:
    content = network().SerializeToString().replace(b"Relu", b"\xff\xfe\xfd\xfc")
    assert "a name in it is not text" in message(content, tmp_path)


def test_sparse_initializers(tmp_path: Path) -> None:
    model = network()
    model.graph.sparse_initializer.add()
    assert "sparse initializers are not supported; store" in message(model, tmp_path)


# Graphs that contradict themselves ----------------------------------------------------


def _unknown_input(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "z"


def _twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "a"
    model.graph.node[2].input[0] = "a"


def _missing_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "z"


def _wrong_attribute(model: onnx.ModelProto) -> None:
    del model.graph.node[2].attribute[0].ints[:]


def _wrong_type(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute[0]
    attribute.CopyFrom(helper.make_attribute("pads", "much"))


def _wrong_bias(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones((1, 3), np.float32), "b"))


def _sequence(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1


def _unknown_element(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 77


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_unknown_input, "conv: its input 'z' is not known yet."),
        (_twice, "act: tensor 'a' is made twice."),
        (_missing_output, "output 'z' is not made by any node."),
        (
            _wrong_attribute,
            "pool: this MaxPool is malformed: kernel_shape (); check the file with onnx.checker.",
        ),
        (
            _wrong_type,
            (
                "conv: this Conv is malformed: attribute 'pads' has the wrong type;"
                " check the file with onnx.checker."
            ),
        ),
        (
            _wrong_bias,
            (
                "conv: this Conv is malformed: a bias of shape (1, 3) for 3 channels;"
                " check the file with onnx.checker."
            ),
        ),
        (
            _sequence,
            (
                "input 'x' is a sequence, only tensors are supported;"
                " export the model with tensor inputs."
            ),
        ),
        (_unknown_element, "element type 77 is not known."),
    ],
)
def test_a_graph_that_contradicts_itself(
    damage: Callable[[onnx.ModelProto], None], expected: str, tmp_path: Path
) -> None:
    model = network()
    damage(model)
    assert message(model, tmp_path) == expected


# Tensors that claim too much ----------------------------------------------------------


@pytest.mark.parametrize("dims", [(2**40, 2**20), (2**31, 3), (1000, 1000, 1000)])
def test_a_huge_header_takes_no_memory(dims: tuple[int, ...], tmp_path: Path) -> None:
    model = network()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    tracemalloc.start()
    try:
        assert re.match(
            r"tensor 'w': shape .* of float32 needs \d+ bytes, the file holds 216 bytes;"
            r" the file is damaged; export or download it again\.",
            message(model, tmp_path),
        )
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_typed_fields_are_checked_too(tmp_path: Path) -> None:
    model = network()
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(2**40,), float_data=[1.0])
    model.graph.initializer[0].CopyFrom(tensor)
    assert "needs 1099511627776 elements, the file holds 1 elements" in message(model, tmp_path)


def test_a_negative_size(tmp_path: Path) -> None:
    model = network()
    model.graph.initializer[0].dims[0] = -3
    assert message(model, tmp_path) == ("tensor 'w': its shape (-3, 2, 3, 3) has a negative size.")


def test_an_empty_tensor_that_no_array_can_be(tmp_path: Path) -> None:
    for dims in ((0, 2**62), (2**40, 2**40, 0)):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
        for raw in (False, True):
            if raw:
                tensor.raw_data = b""
            model = network()
            model.graph.initializer[0].CopyFrom(tensor)
            assert message(model, tmp_path) == f"tensor 'w': no array can have the shape {dims}."


@pytest.mark.parametrize(
    "node",
    [
        "s = Constant<value_ints = [1000000, 1000000]>() c = ConstantOfShape(s) y = Add(x, c)",
        (
            "a = Constant<value_float = 0.0>() b = Constant<value_float = 1e12>() "
            "c = Constant<value_float = 1.0>() d = Range(a, b, c) y = Add(x, d)"
        ),
        (
            "s = Constant<value_ints = [100000, 100000]>() k = Constant<value_floats = [1.0]>() "
            "e = Expand(k, s) y = Add(x, e)"
        ),
        (
            "k = Constant<value_floats = [1.0]>() s = Constant<value_ints = [10000000000]>() "
            "t = Tile(k, s) y = Add(x, t)"
        ),
        (
            "s = Constant<value_ints = [10000, 10000]>() c = ConstantOfShape(s) "
            "d = Add(c, c) e = Reshape(c, s) y = Add(x, d)"
        ),
    ],
)
def test_small_nodes_that_make_much_take_no_memory(node: str, tmp_path: Path) -> None:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> bomb (float[1] x) => (float[] y) {{ {node} }}'
    )
    tracemalloc.start()
    try:
        read(model, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


# External data ------------------------------------------------------------------------


def external(location: str, *, offset: int = 0, length: int = 216) -> onnx.ModelProto:
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return model


def test_external_data_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8) + np.arange(54, dtype=np.float32).tobytes())
    graph = read(external("w.bin", offset=8), tmp_path)
    data = graph.constants["conv.weight"].data
    assert data is not None
    assert data.reshape(-1).tolist() == list(range(54))
    assert not data.flags.writeable


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "C:\\w.bin", "..\\w.bin", "", "a\0b"]
)
def test_external_data_may_not_leave_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(216))
    inside = tmp_path / "inside"
    inside.mkdir()
    assert message(external(location), inside) == (
        f"tensor 'w': external data {location!r} lies outside the model's folder;"
        " put the data file beside the model and name it without a path."
    )


def test_a_link_may_not_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(216))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "w.bin").symlink_to(tmp_path / "w.bin")
    assert "lies outside the model's folder" in message(external("w.bin"), inside)


def test_missing_external_data(tmp_path: Path) -> None:
    assert message(external("w.bin"), tmp_path) == (
        f"tensor 'w': external data file 'w.bin' is missing; put it into {str(tmp_path)!r}."
    )


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 216, "external data file 'w.bin' has 100 bytes, 216 are declared"),
        (90, 216, "external data file 'w.bin' has 100 bytes, 306 are declared"),
        (0, 100, "its external data declares 100 bytes at 0, the shape needs 216"),
        (-4, 216, "its external data declares 216 bytes at -4, the shape needs 216"),
    ],
)
def test_external_data_that_is_too_short(
    offset: int, length: int, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(100))
    assert expected in message(external("w.bin", offset=offset, length=length), tmp_path)


# Anything at all ----------------------------------------------------------------------

FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def either(content: bytes, folder: Path) -> None:
    """Whatever the bytes are: a graph or an error of ours."""
    path = folder / "model.onnx"
    path.write_bytes(content)
    with suppress(ConvsmithError):
        assert read_onnx(path).shapes


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    either(content, tmp_path)


@FUZZ
@given(st.data())
def test_truncated_anywhere(tmp_path: Path, data: st.DataObject) -> None:
    content = network().SerializeToString()
    either(content[: data.draw(st.integers(0, len(content)))], tmp_path)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(network().SerializeToString())
    for position, value in flips:
        content[position % len(content)] = value
    either(bytes(content), tmp_path)
