"""Graphs that do not come from ONNX, written as ONNX: ONNX Runtime computes what the graph says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from convsmith.graph import Constant, Graph, parse
from convsmith.graph.evaluate import evaluate
from convsmith.sources.onnx import read_onnx, write_onnx

NETWORKS = [
    "3@9x10 > conv 8 3/2 psame d2",
    "3@9x10 > conv 8 3/2 ceil",
    "3@9x10 > conv 8 3/2 p1 ceil > relu6",
    "3@9x10 > deconv 4 3/2 p1 o1 > lrn 3",
    "3@9x10 > hardsigmoid > hardswish > mish",
    "3@9x10 > gelu > gelutanh > silu",
    "3@9x10 > celu > elu > selu > leakyrelu",
    "3@9x10 > prelu > softplus > softsign > tanh",
    "3@9x10 > clip low=-0.1 > clip high=0.4 > sigmoid",
    "4@8 > layernorm 2 > groupnorm 2 > instancenorm noaffine > bn noaffine",
    "4@8 > layernorm 3 noaffine",
    "4@8 > adaptiveavgpool 4 > adaptivemaxpool 2x1 > adaptiveavgpool 1",
    "3@9x10 > avgpool 3/2 p1 ceil > maxpool 2/2 ceil",
    "3@9x10 > avgpool 3/2 p1 ceil nopadcount",
    "3@9x10 > avgpool 2 d2 > flatten > fc 7 nobias",
    "3@9x10 > maxpool 1x2/2x3 p0x1 ceil",
    "3@9x10 > maxpool 3/2 psame-lower d2",
    "3@9x10 > avgpool 3/2 psame",
    "3@9x10 > fc 4 > fc 3 nobias",
    "3@9x10 > up 2 bilinear half_pixel > resize 5x7 nearest",
    "3@9x10 > pad 1 wrap > pad 2 edge > pad 1 reflect > pad 2 value=0.5",
    "3@9x10 > square > rsqrt > log > exp > neg > abs > sqrt > floor > erf",
    "3@9 > flatten 2,3 > transpose 0,2,1 > softmax 2 > logsoftmax 1",
    "3@9 > mean 2,3 keep > expand 1,3,5,5 > max 1 > prod 1",
    "3@9 > slice 1:0:2:1 2:1::2 > flatten 0,1",
    "3@8 > identity > dropout > cast",
    "3@8 > relu > ( conv 3 3 p1 + - + relu )",
    "3@8 > [ conv 2 1 | - | maxpool 3/1 p1 ] > gap",
    "4@6x6x6 > pad 1 > unfold 2/2 > fold 8 2/2 > mean 1 keep",
    "3@9x10 > unfold 3x2/2 p1 d2",
    "3@9x10 > lrn 4 > lrn 4 lower > rmsnorm 3 eps=0.001 > rmsnorm 1 noaffine",
    "4@8 > depthtospace 2 > spacetodepth 4 > spacetodepth 2 dcr > depthtospace 2 dcr",
    "4@6x6x6 > spacetodepth 3x2x1 > depthtospace 1x2x3 dcr",
    "3@9x10 > flip 1,3 > cumsum 2 exclusive > cumsum 3 reverse",
    "3@9x10 > adaptiveavgpool 4x7 > adaptivemaxpool 3x5",
    "3@9x10 > sin > cos > tan > atan > sinh > cosh > ceil > round > sign",
    "3@9x10 > logsumexp 2,3 keep > argmax 1",
    "3@9x10 > argmin 1,3 keep > cast",
    "3@9x10 > cast int64 > cast",
    '3@9x10 > einsum "abcd->adb" > topk 4 axis=1 smallest',
    "4@6x6x6 > conv 5 3 p1 > gmp > reshape 1,5",
]


def with_weights(text: str) -> Graph:
    graph = parse(text)
    generator = np.random.default_rng(0)
    constants: dict[str, Constant] = {
        name: replace(held, data=generator.uniform(0.2, 1, held.shape).astype(np.float32))
        for name, held in graph.constants.items()
    }
    return replace(graph, constants=constants)


@pytest.mark.parametrize("text", NETWORKS)
def test_a_network_computes_the_same_as_onnx(text: str, tmp_path: Path) -> None:
    graph = with_weights(text)
    x = np.random.default_rng(1).uniform(-1, 1, graph.inputs[0].shape).astype(np.float32)
    path = tmp_path / "network.onnx"
    write_onnx(graph, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    have = session.run(None, {"x": x})[0]
    want = evaluate(graph, {"x": x})[graph.outputs[0].value]
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
    again = read_onnx(path)
    assert again.shape(again.outputs[0].value) == want.shape
    assert {node.name for node in graph.nodes} <= {node.name for node in again.nodes}


def test_the_oldest_opset_that_has_it_all_is_used(tmp_path: Path) -> None:
    for text, opset in (("3@8 > conv 4 3 > relu", 18), ("3@8 > gelu", 20), ("4@8 > bn", 18)):
        write_onnx(with_weights(text), tmp_path / "a.onnx", overwrite=True)
        assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == opset
