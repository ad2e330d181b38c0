"""Compiled networks against their NumPy definition in float64, torch and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.random_weights import random_network
from tests.torch_zoo import build

import convsmith as cs
from convsmith.conv import plan as planning
from convsmith.conv.spec import LAYOUTS, Layout
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.runtime.kernels import functions
from convsmith.runtime.weights import random_weights

Array = npt.NDArray[Any]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fills all memory with NaN before every run: what is read before it is written shows."""
    monkeypatch.setattr(planning, "workspace_poison", float("nan"))
    cs.set_threads(2)
    yield
    cs.set_threads(None)


def some_inputs(net: Graph, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        value.name: random.standard_normal(value.shape).astype(value.dtype) for value in net.inputs
    }


def truth(net: Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    """The outputs in float64."""
    values = evaluate(net, {name: array.astype(np.float64) for name, array in inputs.items()})
    return {output.name: values[output.value] for output in net.outputs}


def distance(made: Array, wanted: Array) -> float:
    assert made.shape == wanted.shape
    assert made.dtype == np.float32
    size = float(np.abs(wanted).max()) or 1.0
    return float(np.abs(made - wanted).max()) / size


def check(net: Graph, layout: Layout, *, allowed: float = 3e-5, **options: Any) -> cs.Graph:
    inputs = some_inputs(net)
    given = {name: array.copy() for name, array in inputs.items()}
    program = cs.compile(net, tune=False, layout=layout, **options)
    for _ in range(2):  # the second run finds the memory of the first
        made = program.run(inputs)
        for name, wanted in truth(net, inputs).items():
            assert distance(made[name], wanted) < allowed, name
    for name, array in given.items():
        np.testing.assert_array_equal(inputs[name], array)
    return net


NETWORKS = (
    "3@9x7 > conv 8 3 p1 > bn > relu > conv 5 3/2 p1 > maxpool 3/2 p1 > gap > flatten > fc 4",
    "8@6 > ( conv 8 3 p1 > bn + - ) > relu > [ conv 4 1 | - | conv 3 3 p1 > silu ] > gelu",
    "8@7 > ( conv 8 3 p1 > relu + dw 3 p1 > bn ) > relu6 > conv 4 1 > softmax",
    "4@5 > deconv 6 4/2 p1 > bn > relu > deconv 3 3 > deconv 2 1/3 > hardswish",
    "5@6x9 > up 2 > conv 7 3 p1 g1 > avgpool 3/2 p1 > sigmoid > flatten > fc 6 > bn > relu > fc 3",
    "6@17 > maxpool 3/2 ceil > conv 6 1/2 > avgpool 2/2 > tanh",
    "4@9 > ( - + - ) > conv 4 3 d2 p2 > leakyrelu > ( [ - | conv 2 1 ] > conv 4 1 + - )",
    "2@3x5x7 > conv 4 3 p1 > bn > relu > maxpool 2/2 > conv 3 1 > gap",
    "3@40 > conv 6 5/2 p2 > relu > maxpool 3/2 p1 > conv 4 1",
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("notation", NETWORKS)
def test_small_networks_compute_their_definition(notation: str, layout: Layout) -> None:
    check(random_network(notation), layout)


# "clip", "leakyrelu", "elu", "celu" and "hardsigmoid" have numbers of their own, or defaults.
@pytest.mark.parametrize("kind", sorted({*functions.UNARY} - {"clip"}))
def test_functions_are_those_of_numpy(kind: str) -> None:
    """Over the whole range of values, at every vector's tail."""
    from convsmith.graph import GraphBuilder
    from convsmith.graph.operators import ACTIVATIONS as KINDS
    from convsmith.graph.operators import Activation, Unary

    x = np.concatenate([np.linspace(-30, 30, 4001), np.linspace(-0.7, 0.7, 500), [-100, 100, 0]])
    if kind in ("sqrt", "rsqrt", "reciprocal"):
        x = np.abs(x) + 0.01
    builder = GraphBuilder()
    builder.input("x", (x.size,))
    op = Activation(kind=kind) if kind in KINDS else Unary(kind=kind)
    net = builder.build(builder.add(op, "x", name="y"))
    inputs = {"x": x.astype(np.float32)}
    program = cs.compile(net, tune=False)
    assert [step.algorithm for step in program.describe().steps] == ["map"]
    made, wanted = program.run(inputs)["y"], truth(net, inputs)["y"]
    finite = np.abs(wanted) < 3e38
    error = np.abs(made - wanted)[finite] / np.maximum(1, np.abs(wanted[finite]))
    assert error.max() < 4e-7
    assert np.isnan(program.run({"x": np.full(x.size, np.nan, np.float32)})["y"]).all()


WORDS = (
    *("conv 6 3 p1", "conv 4 1", "conv 5 3/2 p1 > bn > relu", "dw 3 p1 > bn > relu6", "relu"),
    *("maxpool 3/1 p1", "avgpool 3/1 p1", "( conv 8 1 > relu > conv 8 3 p1 + conv 8 1 ) > relu"),
    *("[ conv 3 1 | - | maxpool 3/1 p1 ]", "bn > silu", "up 2", "deconv 4 2/2 > relu", "sigmoid"),
    *("( sigmoid + - )", "conv 6 1x3 p0,1,0,1 > hardswish", "conv 4 3 d2 p2", "softmax"),
)


@settings(max_examples=12)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5),
    st.sampled_from(LAYOUTS),
    st.sampled_from(["3@7x6", "2x4@5", "17@4x9"]),
)
def test_random_networks(words: list[str], layout: Layout, size: str) -> None:
    batch, _, image = size.rpartition("x") if size.startswith("2x") else ("", "", size)
    net = random_network(f"{image} > {' > '.join(words)}")
    if batch:
        net = net.with_inputs({"x": (int(batch), *net.inputs[0].shape[1:])})
    check(net, layout, allowed=1e-4)


def test_one_wrong_weight_turns_the_comparison_red() -> None:
    net = random_network(NETWORKS[0])
    inputs = some_inputs(net)
    program = cs.compile(net, tune=False)
    other = random_network(NETWORKS[0], seed=1)
    assert distance(program.run(inputs)["y"], truth(other, inputs)["y"]) > 1e-2


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("shufflenet_v2_x1_0", "channels_first"),
        ("shufflenet_v2_x1_0", "channels_last"),
        ("mobilenet_v3_small", "channels_last"),
        ("squeezenet1_1", "channels_first"),
    ],
)
def test_known_networks(name: str, layout: Layout) -> None:
    """Every layer in a kernel of ours, and the outputs those of the definition."""
    net = random_weights(cs.load(f"zoo:{name}", input=(1, 3, 48, 48)))
    check(net, layout)
    steps = cs.compile(net, tune=False, layout=layout).describe().steps
    assert "numpy" not in {step.algorithm for step in steps}


def test_torch_modules_and_tensors() -> None:
    torch.manual_seed(0)
    module = build("mobilenet_v3_small").eval()
    x = torch.randn(2, 3, 40, 40)
    program = cs.compile(cs.load(module, input=(1, 3, 40, 40)), tune=False, layout="channels_last")
    with torch.inference_mode():
        wanted = module(x)
    made = program(x)
    assert isinstance(made, torch.Tensor)
    torch.testing.assert_close(made, wanted.clone(), rtol=1e-3, atol=1e-5)


def test_onnx_runtime_agrees(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from convsmith.runtime import outputs

    net = random_network("3@20 > conv 8 3/2 p1 > bn > relu > maxpool 3/2 > conv 4 1 > gap")
    cs.save(net, tmp_path / "net.onnx")
    read = cs.load(str(tmp_path / "net.onnx"))
    inputs = some_inputs(read)
    made = cs.compile(read, tune=False).run(inputs)
    for name, wanted in outputs(tmp_path / "net.onnx", inputs).items():
        assert distance(made[name], wanted) < 1e-5
