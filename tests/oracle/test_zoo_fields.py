"""What the networks of the zoo see: against published numbers, a walk upwards, and gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.torch_zoo import build, one_thread
from tests.torch_zoo_mobile import SqueezeExcitation
from torch import Tensor, nn

from convsmith.analysis import fields
from convsmith.graph import Graph, Node
from convsmith.graph.operators import (
    AdaptivePool,
    Conv,
    GlobalPool,
    Linear,
    Pool,
    Reduce,
    Slice,
)
from convsmith.sources.zoo import NETWORKS, network

ENDS = (AdaptivePool, GlobalPool, Reduce)


def last_feature(graph: Graph) -> str:
    """The value that is averaged for the classifier, or the output where there is none."""
    flat = (node.name for node in graph.nodes if isinstance(node.op, Linear))
    first = next((name for name in flat if len(graph.shape(name)) == 2), graph.outputs[0].value)
    names = [node.name for node in graph.nodes]
    before = graph.nodes[: names.index(first)]
    ends = [node for node in before if isinstance(node.op, ENDS)]
    return ends[-1].inputs[0] if ends else first


def described(graph: Graph, value: str) -> tuple[int | None, object, int | None]:
    """Size, stride and padding along the rows."""
    field = fields(graph)[value]
    return field.size[0], field.stride[0], field.padding[0]


# Araujo, Norris & Sim, 2019, table 1: size, effective stride, effective padding ------------


def same(wanted: Callable[[Node], bool], name: str) -> Graph:
    """The network with TensorFlow's SAME padding in some layers."""
    graph = network(name)
    nodes = tuple(
        replace(node, op=replace(node.op, same="upper"))
        if isinstance(node.op, Conv | Pool) and wanted(node)
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def unpadded(layer: str, name: str) -> Graph:
    """The network without padding in a layer, for an image that makes the same sizes."""
    graph = network(name, shape=(1, 3, 227, 227))
    nodes = tuple(
        replace(node, op=replace(node.op, padding=((0, 0),) * 2))
        if isinstance(node.op, Conv) and node.name == layer
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def published(name: str) -> Graph:
    """The network as the table's authors had it, in TensorFlow.

    Where sizes are even, a stride of 2 and SAME put the padding behind only: in their ResNet in
    the pool, in their MobileNet in every layer. Their AlexNet's first layer has none.
    """
    match name:
        case "alexnet":
            return unpadded("features.0", name)
        case "resnet50_v1":
            return same(lambda node: node.name == "maxpool", name)
        case "mobilenet_v1":
            return same(lambda node: True, name)
    return network(name)


PUBLISHED = {
    "alexnet": (195, 32, 64),
    "inception_v3": (1311, 32, 618),
    "mobilenet_v1": (315, 32, 126),
    "resnet50_v1": (483, 32, 239),
    "vgg16": (212, 32, 90),
}

# The same with PyTorch's symmetric padding, and networks that the table does not have.
SYMMETRIC = {
    "resnet50_v1": (483, 32, 241),
    "resnet50": (427, 32, 213),
    "mobilenet_v1": (315, 32, 157),
    "alexnet": (195, 32, 66),
    "vdsr": (41, 1, 20),
    "srcnn": (17, 1, 8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_fields_are_the_published_ones(name: str) -> None:
    graph = published(name)
    assert described(graph, last_feature(graph)) == PUBLISHED[name]


@pytest.mark.parametrize("name", SYMMETRIC)
def test_fields_with_symmetric_padding(name: str) -> None:
    graph = network(name)
    assert described(graph, last_feature(graph)) == SYMMETRIC[name]


STATED = {
    name: int(found.group(1))
    for name, make in NETWORKS.items()
    if (found := re.search(r"sees\s+(\d+) x \1 pixels", make.__doc__ or ""))
}


@pytest.mark.parametrize("name", STATED)
def test_a_field_stated_in_a_docstring_is_true(name: str) -> None:
    graph = network(name)
    assert described(graph, last_feature(graph))[0] == STATED[name]


def test_docstrings_state_fields() -> None:
    assert {"resnet50", "resnet50_v1", "vgg16", "inception_v3", "efficientnet_b0"} <= set(STATED)


# From one output row up to the rows of the input that it needs -----------------------------


def needed(graph: Graph, value: str, row: int) -> tuple[int, int]:
    """The first and last row of the input, or of the padding around it, that an output row needs.

    What goes through averages of the whole image does not count.
    """
    wanted = {value: (row, row)}
    for node in reversed(graph.nodes):
        ranges = [wanted[made] for made in node.outputs if made in wanted]
        if not ranges or isinstance(node.op, ENDS):
            continue
        low, high = above(node, min(r[0] for r in ranges), max(r[1] for r in ranges))
        for used in node.inputs:
            before = wanted.get(used, (low, high))
            wanted[used] = (min(before[0], low), max(before[1], high))
    return wanted[graph.inputs[0].name]


def above(node: Node, low: int, high: int) -> tuple[int, int]:
    """The rows that a layer needs to make these rows."""
    match node.op:
        case Conv(transposed=True) as op:
            (stride, _), (kernel, _), ((pad, _), _) = op.stride, op.kernel, op.padding
            return -(-(low + pad - kernel + 1) // stride), (high + pad) // stride
        case Conv() | Pool() as op:
            (stride, _), (kernel, _), ((pad, _), _) = op.stride, op.kernel, op.padding
            return low * stride - pad, high * stride - pad + kernel - 1
        case Slice(ranges=ranges):
            start = sum(begin for axis, begin, _, _ in ranges if axis == 2)
            return low + start, high + start
    return low, high


@pytest.mark.parametrize("name", NETWORKS)
def test_a_field_is_what_a_walk_upwards_finds(name: str) -> None:
    graph = network(name)
    convolutions = [node.name for node in graph.nodes if isinstance(node.op, Conv)]
    spatial = [c for c in convolutions if graph.shape(c)[2] > 1]
    for value in {*spatial[::7], *spatial[-2:], last_feature(graph)}:
        rows = [needed(graph, value, row) for row in range(33)]
        size = max(high - low + 1 for low, high in rows)
        stride = (rows[32][0] - rows[0][0]) / 32
        assert described(graph, value) == (size, stride, -rows[0][0]), value


@pytest.mark.parametrize("name", NETWORKS)
def test_only_gates_and_the_classifier_see_everything(name: str) -> None:
    graph = network(name)
    found = fields(graph)
    gated = any(isinstance(node.op, GlobalPool) and node.name != "avgpool" for node in graph.nodes)
    gated &= not name.startswith("squeezenet")  # whose last pool has another name
    assert found[last_feature(graph)].is_global == gated
    assert {field.status for field in found.values()} <= {"exact", "global"}


# By gradients: which rows change one output of the torch twin -------------------------------

# The module whose output is the last feature.
LAST = {
    "convnext_tiny": "features",
    "densenet121": "features",
    "googlenet": "inception5b",
    "mobilenet_v3_large": "features",
    "resnet18": "layer4",
    "shufflenet_v2_x1_0": "conv5",
    "squeezenet1_0": "features",
}


def positive(module: nn.Module) -> nn.Module:
    """The network such that nothing cancels out: no maxima, and weights that are averages."""
    for parent in list(module.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.MaxPool2d):
                window = (part.kernel_size, part.stride, part.padding)
                pool = nn.AvgPool2d(*window, ceil_mode=part.ceil_mode)
                setattr(parent, name, pool)
            if isinstance(part, SqueezeExcitation):
                part.avgpool.register_forward_hook(lambda _, __, output: output.detach())
    for tensor in module.buffers():
        torch.nn.init.ones_(tensor)
    for tensor in module.parameters():
        tensor.requires_grad_(False)
        torch.nn.init.uniform_(tensor, 0.5, 1.5)
        if tensor.ndim > 1:
            tensor.div_(tensor[0].numel())
    return module


@pytest.mark.parametrize("name", LAST)
def test_the_rows_that_gradients_reach_are_the_field(name: str) -> None:
    graph = network(name)
    size, stride, padding = described(graph, last_feature(graph))
    assert size is not None
    assert isinstance(padding, int)
    assert stride in (16, 32)
    step = 16 if stride == 16 else 32
    row = -(-padding // step)
    first = row * step - padding
    torch.manual_seed(0)
    with torch.device("meta"):
        module = build(name)
    module = positive(module.to_empty(device="cpu").double())
    features: list[Tensor] = []
    module.get_submodule(LAST[name]).register_forward_hook(
        lambda _, __, output: features.append(output)
    )
    x = torch.rand(1, 3, first + size + 70, 32, dtype=torch.float64, requires_grad=True)
    with one_thread():
        module(x)
        (gradient,) = torch.autograd.grad(features[0][:, :, row].sum(), x)
    reached = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (int(reached.min()), int(reached.max())) == (first, first + size - 1)
