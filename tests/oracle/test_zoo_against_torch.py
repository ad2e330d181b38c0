"""The zoo and the torch source, each against the other and against torch's own counter.

Every network is written down twice: as a graph and, from the paper again, as a torch module.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tests.torch_zoo import BUILDERS, build, input_shape
from tests.torch_zoo_signature import signature
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convsmith.analysis import analyze, fields
from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Conv, Linear, Norm, Operator
from convsmith.sources.torch import read_module
from convsmith.sources.zoo import NETWORKS, network

# Sizes that are neither square nor a power of two, where networks accept them.
OTHER_SIZES = {
    "alexnet": (2, 3, 97, 131),
    "inception_v3": (2, 3, 107, 141),
    "srcnn": (2, 1, 31, 45),
    "unet": (2, 1, 204, 236),
    "vdsr": (2, 1, 31, 45),
}


def on_meta(name: str) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(name)


@cache
def twin(name: str) -> Graph:
    """What the torch source reads, at the published size."""
    return read_module(on_meta(name), input_shape(name))


def layers(graph: Graph) -> dict[str, tuple[Operator, Shape]]:
    """The layers that have weights, in order, with what they are applied to."""
    kinds = (Conv, Linear, Norm)
    return {
        node.name: (node.op, graph.shape(node.inputs[0]))
        for node in graph.nodes
        if isinstance(node.op, kinds)
    }


def test_every_network_has_a_twin() -> None:
    assert sorted(BUILDERS) == sorted(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_what_its_twin_is_read_as(name: str) -> None:
    have, want = network(name), twin(name)
    assert have.inputs[0].shape == want.inputs[0].shape
    assert layers(have) == layers(want)
    assert list(layers(have)) == list(layers(want)), "in another order"
    assert signature(have) == signature(want)
    totals = [analyze(graph).total for graph in (have, want)]
    if name == "unet":  # torch crops one axis after the other and holds both results
        totals = [replace(total, peak_activation_bytes=0) for total in totals]
    assert totals[0] == totals[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_at_another_size_a_network_is_what_its_twin_is_read_as(name: str) -> None:
    shape = OTHER_SIZES.get(name, (2, 3, 75, 101))
    assert signature(network(name, shape=shape)) == signature(read_module(on_meta(name), shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_macs_are_those_that_torch_counts(name: str) -> None:
    module = on_meta(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = module(torch.empty(input_shape(name), device="meta"))
    graph = network(name)
    total = analyze(graph).total
    assert total.params == sum(weight.numel() for weight in module.parameters())
    assert 2 * total.macs == counter.get_total_flops()
    assert graph.shape(graph.outputs[0].value) == tuple(output.shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_fields_of_all_layers_are_those_of_the_twin(name: str) -> None:
    graph, other = network(name), twin(name)
    have, want = fields(graph), fields(other)
    for layer in layers(graph):
        assert (layer, have[layer].axes) == (layer, want[layer].axes)
        assert have[layer].status == want[layer].status
    assert have[graph.outputs[0].value].axes == want[other.outputs[0].value].axes


def test_two_networks_that_count_the_same_are_told_apart() -> None:
    assert signature(twin("resnet50")) != signature(twin("resnet50_v1"))
    swapped = on_meta("googlenet")
    branches = swapped.get_submodule("inception4b")._modules
    branches["branch1"], branches["branch4"] = branches["branch4"], branches["branch1"]
    other = read_module(swapped, input_shape("googlenet"))
    assert analyze(other).total.macs == analyze(network("googlenet")).total.macs
    assert signature(other) != signature(network("googlenet"))


# What reading leaves as it was -----------------------------------------------------


def state(module: nn.Module) -> Iterator[Any]:
    """All that a module holds: of tensors, which object it is and how often it was written."""
    for path, part in module.named_modules():
        yield path, id(part), part.training, type(part)
        for key, value in vars(part).items():
            if isinstance(value, dict):
                yield key, [(name, id(held)) for name, held in value.items()]
            else:
                yield key, id(value)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield name, id(tensor), tensor._version, tensor.device, tensor.requires_grad, tensor.grad


@pytest.mark.parametrize(
    ("name", "training"),
    [*((name, False) for name in BUILDERS), ("alexnet", True), ("shufflenet_v2_x1_0", True)],
)
def test_on_a_real_device_it_is_read_as_on_meta_and_left_as_it_was(
    name: str, training: bool
) -> None:
    meta = on_meta(name).train(training)
    real = on_meta(name).to_empty(device="cpu").train(training)
    before = [list(state(module)) for module in (meta, real)]
    chance = torch.get_rng_state(), random.getstate()
    shape = input_shape(name)
    graphs = [read_module(module, shape) for module in (meta, real)]
    assert [list(state(module)) for module in (meta, real)] == before
    assert torch.equal(torch.get_rng_state(), chance[0])
    assert random.getstate() == chance[1]
    assert graphs[0] == graphs[1]
    assert signature(graphs[0]) == signature(network(name))
    held = {name: constant.data for name, constant in graphs[1].constants.items()}
    for key, weight in real.named_parameters():
        data = held[key]
        assert data is not None
        assert data.ctypes.data == weight.data_ptr(), "weights are shared, not copied"
    assert all(constant.data is None for constant in graphs[0].constants.values())
