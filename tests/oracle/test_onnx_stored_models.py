"""Models that the ONNX project keeps as its own tests, with the outputs that it expects.

They come with the onnx package: one for every operator and option (made by its Python code) and
the skeletons of nine well-known networks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from convsmith.errors import ConvsmithError
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Unsupported
from convsmith.sources.onnx import read_onnx, write_onnx

Array = npt.NDArray[np.generic]

LIGHT = sorted(Path(onnx.__file__).parent.glob("backend/test/data/light/*.onnx"))

# What a clear error says about a model that cannot be a graph of tensors.
REFUSED = re.compile(
    r"(input '\w+' is a (sequence|optional), only tensors are supported"
    r"|it uses opset 1, supported are 7 to \d+); .+\.$"
)

# Where ONNX's own shape inference, which is all that is known of an unknown operator, is wrong.
WRONG_INFERENCE = ("test_stft", "test_stft_with_window")

# Where NumPy has no answer (the largest of nothing) or the model changes its types on the way.
# Attention in half precision is rounded between its steps; NumPy's einsum has no bfloat16.
EVALUATED_OTHERWISE = re.compile(
    r"_empty_set|_fp16_expanded|attention_4d\w*_b?f?p?16$|einsum_sum_bfloat16"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A model with its inputs and the outputs that it must give."""

    name: str
    model: onnx.ModelProto
    inputs: list[Array]
    outputs: list[Array]


@pytest.fixture(scope="module")
def operators() -> list[Stored]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from computing what is expected
        cases = collect_testcases(None)
    stored = []
    for case in cases:
        given, expected = case.data_sets[0] if case.data_sets else ([], [])
        both = [*given, *expected]
        if case.model is not None and all(isinstance(a, np.ndarray | np.generic) for a in both):
            stored.append(
                Stored(
                    name=case.name,
                    model=case.model,
                    inputs=[np.asarray(a) for a in given],
                    outputs=[np.asarray(a) for a in expected],
                )
            )
    return stored


def frozen(case: Stored) -> onnx.ModelProto:
    """The model with all inputs but the first as initializers, as they are in a network."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for value, data in list(zip(model.graph.input, case.inputs, strict=True))[1:]:
        model.graph.initializer.append(numpy_helper.from_array(data, value.name))
    del model.graph.input[1:]
    return model


def unsupported(graph: Graph) -> list[str]:
    return [node.op.kind for node in graph.nodes if isinstance(node.op, Unsupported)]


def wrong_shapes(graph: Graph, case: Stored) -> Iterator[str]:
    for output, expected in zip(graph.outputs, case.outputs, strict=True):
        shape = graph.shapes[output.value]
        if shape is None and not unsupported(graph):
            yield f"{case.name}: {output.name} has no shape"
        if shape is not None and shape != expected.shape:
            yield f"{case.name}: {output.name} is {shape}, not {expected.shape}"


def run(path: Path, inputs: dict[str, Array]) -> list[Array] | None:
    """What ONNX Runtime computes; nothing where it does not have an operator or a type."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = {value.name for value in session.get_inputs()}
        return list(session.run(None, {n: a for n, a in inputs.items() if n in names}))
    except Exception:  # noqa: BLE001 - it raises classes of its own
        return None


def evaluated(graph: Graph, case: Stored) -> list[Array]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from numbers that are not a number on purpose
        values = evaluate(graph, {value.name: case.inputs[0] for value in graph.inputs})
    values |= {name: np.asarray(constant.data) for name, constant in graph.constants.items()}
    return [values[output.value] for output in graph.outputs]


def agree(have: list[Array], want: list[Array]) -> bool:
    return all(
        a.shape == b.shape
        and np.allclose(a.astype(np.float64), b.astype(np.float64), 1e-3, 1e-5, equal_nan=True)
        for a, b in zip(have, want, strict=True)
    )


@pytest.mark.parametrize("freeze", [False, True])
def test_every_operator_is_read_with_the_right_shapes(
    freeze: bool, operators: list[Stored], tmp_path: Path
) -> None:
    path, found, understood = tmp_path / "model.onnx", [], 0
    for case in operators:
        model = frozen(case) if freeze and len(case.inputs) > 1 else case.model
        path.write_bytes(model.SerializeToString())
        try:
            graph = read_onnx(path)
        except ConvsmithError as error:
            if not REFUSED.match(str(error).removeprefix(f"{path}: ")):
                found.append(f"{case.name}: {error}")
            continue
        understood += not unsupported(graph)
        if case.name not in WRONG_INFERENCE:
            found += wrong_shapes(graph, case)
    assert not found, "\n".join(found)
    assert understood > (550 if freeze else 350), "the oracle has gone blind"


def test_every_operator_that_is_understood_computes_the_same_after_writing(
    operators: list[Stored], tmp_path: Path
) -> None:
    source, path = tmp_path / "source.onnx", tmp_path / "written.onnx"
    found, compared = [], 0
    for case in operators:
        if not case.inputs:
            continue
        source.write_bytes(frozen(case).SerializeToString())
        try:
            graph = read_onnx(source)
        except ConvsmithError:
            continue
        if unsupported(graph):
            continue
        if not EVALUATED_OTHERWISE.search(case.name) and not agree(
            evaluated(graph, case), case.outputs
        ):
            found.append(f"{case.name}: other numbers as it was read")
        try:
            write_onnx(replace(graph, origin=None), path, overwrite=True)
        except ConvsmithError as error:
            if "mixes float16 and float32" not in str(error):
                found.append(str(error))
            continue
        onnx.checker.check_model(onnx.load(path), full_check=True)
        inputs = {case.model.graph.input[0].name: case.inputs[0]}
        have = run(path, inputs)
        if have is None:
            if run(source, inputs) is not None:
                found.append(f"{case.name}: only its source can be run")
            continue
        compared += 1
        if not agree(have, case.outputs):
            found.append(f"{case.name}: other numbers")
    assert not found, "\n".join(found)
    assert compared > 550, "the oracle has gone blind"


def test_a_wrong_number_would_be_found() -> None:
    assert agree([np.array([1.0, 2.0])], [np.array([1.0, 2.0])])
    assert not agree([np.array([1.0, 2.0])], [np.array([1.0, 2.01])])
    assert not agree([np.array([1.0, 2.0])], [np.array([[1.0, 2.0]])])


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_the_skeleton_of_a_well_known_network_is_read(path: Path) -> None:
    graph = read_onnx(path)
    assert not unsupported(graph)
    expected = onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb"))
    assert graph.shape(graph.outputs[0].value) == tuple(expected.dims)
