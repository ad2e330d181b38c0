"""The torch twins of the zoo, exported to ONNX and read back: the same networks.

More than half of them: the others take hundreds of megabytes or differ in their depths alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.torch_zoo import build, one_thread
from torch import nn
from torch.onnx import TrainingMode

from convsmith.analysis import analyze, fields
from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Conv, Linear
from convsmith.sources.onnx import read_onnx
from convsmith.sources.zoo import network

# The exporter runs the network: most are small here, and none is square; three are as published.
SIZES = {
    "googlenet": (1, 3, 224, 224),
    "inception_v3": (1, 3, 107, 139),
    "mobilenet_v2": (1, 3, 224, 224),
    "resnet50": (1, 3, 224, 224),
    "srcnn": (1, 1, 40, 56),
    "unet": (1, 1, 188, 204),
    "vdsr": (1, 1, 40, 56),
}

NETWORKS = (
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet1_0",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "resnet50",
    "resnet50_v1",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "srcnn",
    "unet",
    "vdsr",
)


def export(name: str, path: Path, *, shape: Shape, folded: bool = False) -> nn.Module:
    """Writes the twin of a network, with weights that differ from tensor to tensor.

    The exporter stores equal tensors once, and folds batch normalization into convolutions if
    it may.
    """
    with torch.device("meta"):
        module = build(name)
    module.to_empty(device="cpu")
    with torch.no_grad():
        for number, tensor in enumerate((*module.parameters(), *module.buffers()), start=1):
            tensor.fill_(number)
    with one_thread():
        torch.onnx.export(
            module,
            (torch.zeros(shape),),
            path,
            dynamo=False,
            training=TrainingMode.EVAL if folded else TrainingMode.PRESERVE,
            do_constant_folding=folded,
        )
    return module


def layers(graph: Graph) -> list[tuple[Conv | Linear, Shape]]:
    """The convolutions and linear layers in order, with what they are applied to."""
    return [
        (node.op, graph.shape(node.inputs[0]))
        for node in graph.nodes
        if isinstance(node.op, Conv | Linear)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_what_its_twin_is_exported_as(name: str, tmp_path: Path) -> None:
    shape = SIZES.get(name, (1, 3, 64, 96))
    module = export(name, tmp_path / "twin.onnx", shape=shape)
    have, want = read_onnx(tmp_path / "twin.onnx"), network(name, shape=shape)
    assert have.shape(have.outputs[0].value) == want.shape(want.outputs[0].value)
    total, expected = analyze(have).total, analyze(want).total
    assert total.params == expected.params == sum(w.numel() for w in module.parameters())
    assert total.macs == expected.macs
    exported, stored = layers(have), layers(want)
    if name == "convnext_tiny":  # the biases of its linear layers become additions
        exported, stored = (
            [layer for layer in found if isinstance(layer[0], Conv)] for found in (exported, stored)
        )
    assert exported == stored
    seen = [
        [found[node.name].axes for node in graph.nodes if isinstance(node.op, Conv)]
        for graph, found in ((have, fields(have)), (want, fields(want)))
    ]
    assert seen[0] == seen[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0"])
def test_with_normalization_folded_it_computes_as_much(name: str, tmp_path: Path) -> None:
    export(name, tmp_path / "twin.onnx", shape=(1, 3, 64, 64), folded=True)
    have, want = read_onnx(tmp_path / "twin.onnx"), network(name, shape=(1, 3, 64, 64))
    assert analyze(have).total.macs == analyze(want).total.macs
    assert [(replace(op, bias=True), shape) for op, shape in layers(have)] == [
        (replace(op, bias=True), shape) for op, shape in layers(want)
    ]
    assert any(op.bias and isinstance(op, Conv) for op, _ in layers(have))
