"""Names, constants, inputs, outputs and errors of networks read from torch modules."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor, nn

from convsmith.errors import ConvsmithError, SourceError, UsageError
from convsmith.graph.operators import (
    Activation,
    Conv,
    DepthToSpace,
    Einsum,
    Elementwise,
    Flatten,
    Flip,
    GlobalPool,
    Identity,
    Reshape,
    Resize,
    Slice,
    Unsupported,
)
from convsmith.sources.torch import read_module


class Function(nn.Module):
    """A module that is one function of its input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        return F.relu(F.relu(self.bn1(self.conv1(x))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())

    def forward(self, image: Tensor) -> Any:
        return self.layer1(image) * 2.0


def test_names_are_module_paths_and_constants_are_state_dict_keys() -> None:
    net = Net()
    graph = read_module(net, (1, 4, 8, 8))
    assert [node.name for node in graph.nodes] == [
        *(
            f"layer1.{i}.{name}"
            for i in (0, 1)
            for name in ("conv1", "bn1", "relu", "add", "relu_1")
        ),
        "mul",
    ]
    assert set(graph.constants) - {"mul.operand"} == {
        name for name in net.state_dict() if not name.endswith("num_batches_tracked")
    }
    node = graph.by_name["layer1.0.relu_1"]
    assert (node.provenance.path, node.provenance.origin) == ("layer1.0", "aten.relu")
    assert (graph.source, graph.origin) == ("Net", None)
    assert graph.inputs[0].name == "image"
    assert [(o.name, o.value) for o in graph.outputs] == [("output", "mul")]


def test_only_parameters_are_learnable() -> None:
    net = Net()
    graph = read_module(net, (1, 4, 8, 8))
    learnable = {name for name, constant in graph.constants.items() if constant.learnable}
    assert learnable == {name for name, _ in net.named_parameters()}
    assert graph.constants["mul.operand"].data == 2.0


def test_weights_share_memory_with_the_module() -> None:
    conv = nn.Conv2d(3, 4, 3)
    data = read_module(conv, (1, 3, 8, 8)).constants["weight"].data
    assert data is not None
    assert np.shares_memory(data, conv.weight.detach().numpy())


def test_a_module_on_the_meta_device_has_shapes_alone() -> None:
    graph = read_module(nn.Conv2d(3, 4, 3, device="meta"), (1, 3, 8, 8))
    assert graph.constants["weight"].data is None
    assert graph.shape("conv2d") == (1, 4, 6, 6)


@pytest.mark.parametrize(
    ("dtype", "name", "weight"),
    [
        (torch.float64, "float64", "float64"),
        (torch.float16, "float16", "float16"),
        (torch.bfloat16, "float32", "float32"),
    ],
)
def test_element_types(dtype: torch.dtype, name: str, weight: str) -> None:
    conv = nn.Conv2d(3, 4, 3, dtype=dtype)
    graph = read_module(conv, (1, 3, 8, 8))
    constant = graph.constants["weight"]
    assert (graph.inputs[0].dtype, constant.dtype) == (name, weight)
    np.testing.assert_array_equal(constant.data, conv.weight.detach().double().numpy())


def test_a_module_used_twice_has_its_weights_once() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    graph = read_module(nn.Sequential(OrderedDict(a=conv, b=conv)), (1, 4, 8, 8))
    assert [node.name for node in graph.nodes] == ["a", "a_1"]
    assert set(graph.constants) == {"a.weight", "a.bias"}


def test_tied_weights_are_named_by_their_first_path() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    graph = read_module(nn.Sequential(first, second), (1, 4))
    assert [node.name for node in graph.nodes] == ["0", "1"]
    assert [node.parameters for node in graph.nodes] == [("0.weight",), ("0.weight",)]


@pytest.mark.parametrize(
    "norm",
    [
        pytest.param(
            nn.utils.weight_norm,
            marks=pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`"),
        ),
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_a_computed_weight_is_one_learnable_constant(norm: Any) -> None:
    conv = norm(nn.Conv2d(3, 4, 3)).eval()
    graph = read_module(nn.Sequential(conv), (1, 3, 8, 8))
    assert [node.name for node in graph.nodes] == ["0"]
    assert graph.constants["0.weight"].learnable
    data = graph.constants["0.weight"].data
    assert data is not None
    np.testing.assert_allclose(data.astype(np.float64), conv.weight.detach().numpy(), rtol=1e-6)


@dataclass
class Result:
    logits: Tensor
    loss: Tensor | None
    hidden: tuple[Tensor, Tensor]


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: x.relu(), ["output"]),
        (lambda x: (x.relu(), x.exp()), ["output", "output_1"]),
        (lambda x: (x.relu(), [x.exp(), x.abs()]), ["output", "output_1", "output_2"]),
        (lambda x: {"out": x.relu(), "aux": x.exp(), "n": 3}, ["out", "aux"]),
        (lambda x: Result(x.relu(), None, (x.exp(), x.abs())), ["logits", "hidden", "hidden_1"]),
        (lambda x: Pair(x.relu(), x.exp()), ["low", "high"]),
        (lambda x: x, ["output"]),
    ],
)
def test_outputs_are_named_by_where_they_stand(function: Any, names: list[str]) -> None:
    graph = read_module(Function(function), (1, 3))
    assert [output.name for output in graph.outputs] == names


class TwoInputs(nn.Module):
    def forward(self, left: Tensor, right: Tensor | None = None, scale: int = 1) -> Any:
        return (left if right is None else left + right) * scale


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ((1, 3), ["left"]),
        (((1, 3), (1, 3)), ["left", "right"]),
        ({"right": (1, 3), "left": (1, 3)}, ["right", "left"]),
        ("left=1,3;right=1,3", ["left", "right"]),
        (torch.zeros(1, 3), ["left"]),
        ((torch.zeros(1, 3), torch.zeros(1, 3)), ["left", "right"]),
        ({"left": torch.zeros(1, 3), "scale": 3}, ["left"]),
    ],
)
def test_inputs_are_named_by_the_parameters_of_forward(inputs: Any, names: list[str]) -> None:
    graph = read_module(TwoInputs(), inputs)
    assert [value.name for value in graph.inputs] == names
    assert all(value.shape == (1, 3) for value in graph.inputs)


@pytest.mark.parametrize(
    ("function", "operators"),
    [
        (lambda x: F.adaptive_avg_pool2d(x, 1), [GlobalPool(kind="average")]),
        (lambda x: x.view(x.size(0), -1), [Flatten()]),
        (lambda x: x.reshape(1, 2, 2, 8, 8), [Reshape(shape=(-1, 2, 2, 8, 8))]),
        (lambda x: x[:, :, ::2, 1:], [
            Slice(ranges=((2, 0, None, 2),)), Slice(ranges=((3, 1, None, 1),)),
        ]),
        (lambda x: F.interpolate(x, scale_factor=1.3), [Resize(scale=(Fraction(13, 10),) * 2)]),
        (lambda x: F.interpolate(x, size=(5, 9), mode="bilinear"), [
            Resize(size=(5, 9), mode="linear", alignment="half_pixel")
        ]),
        (lambda x: F.hardtanh(x, 0, 3), [Activation(kind="clip", low=0.0, high=3.0)]),
        (lambda x: F.dropout(x), [Identity(kind="dropout")]),
        (lambda x: x.double(), [Identity(kind="cast")]),
        (lambda x: x.float().contiguous().detach(), []),
        (lambda x: 1 - x, [Elementwise(kind="sub")]),
        (lambda x: x.flip(2), [Flip(axes=(2,))]),
        (lambda x: F.pixel_shuffle(x, 2), [DepthToSpace(block=(2, 2))]),
        (lambda x: torch.einsum("...ij->...ji", x), [Einsum(equation="abij->abji")]),
        (lambda x: F.relu(x.renorm(2, 1, 1.0)), [
            Unsupported(kind="aten.renorm", shapes=((1, 4, 8, 8),)), Activation(kind="relu"),
        ]),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1], None),
    ],
)  # fmt: skip
def test_calls_become_operators(function: Any, operators: list[Any] | None) -> None:
    graph = read_module(Function(function), (1, 4, 8, 8))
    if operators is not None:
        assert [node.op for node in graph.nodes] == operators
    expected = function(torch.zeros(1, 4, 8, 8))
    assert graph.shape(graph.outputs[0].value) == tuple(expected.shape)


def test_same_padding_stays_a_rule() -> None:
    graph = read_module(nn.Conv2d(2, 3, 4, padding="same"), (1, 2, 10, 10))
    op = graph.nodes[0].op
    assert isinstance(op, Conv)
    assert op.same == "upper"
    assert graph.shape("conv2d") == (1, 3, 10, 10)


def test_an_unknown_operator_keeps_its_weights() -> None:
    graph = read_module(nn.LSTM(4, 5, 2), (7, 1, 4))
    (node,) = graph.nodes
    assert isinstance(node.op, Unsupported)
    assert node.op.kind == "aten.lstm"
    counted = sum(graph.constants[n].size for n in node.inputs if n in graph.constants)
    assert counted == sum(p.numel() for p in nn.LSTM(4, 5, 2).parameters()) + 2 * 2 * 5


class Inner(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.sub = Function(function)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.sub(self.conv(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x if x.sum() > 0 else -x, "sub: forward reads the elements of a tensor"),
        (lambda x: x * x.mean().item(), "sub: forward reads the elements of a tensor"),
        (lambda x: x[x > 0], "sub: nobody can tell the shape of what aten.index makes"),
        (lambda x: torch.from_numpy(x.numpy()), "sub: forward needs the elements of a tensor"),
        (lambda x: x * x.mean().tolist(), "sub: forward needs the elements of a tensor"),
    ],
)
def test_what_depends_on_data_is_refused(function: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read_module(Inner(function), (1, 3, 8, 8))
    assert caught.value.remedy == "what it does depends on data; give an ONNX export"


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((1, 4, 8, 8), SourceError, r"conv: aten.conv2d of 1x4x8x8, 4x3x3x3, 4: .*x 1x4x8x8"),
        ((1, 3, 2, 2), SourceError, "conv: .*Kernel size can't be greater than actual input size"),
        (None, UsageError, "Inner: a torch module does not know the size of its input"),
        (((1, 3), (1, 3)), UsageError, r"Inner: forward\(x.*does not take these inputs: too many"),
        ({"y": (1, 3, 8, 8)}, UsageError, "missing a required argument: 'x'"),
        ("1,three", UsageError, "cannot read the input size '1,three'"),
    ],
)
def test_wrong_inputs_are_explained(inputs: Any, error: type[ConvsmithError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_module(Inner(torch.relu), inputs)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Function(lambda x: x.nope()), "function|forward raises AttributeError: .*nope.*run the"),
        (nn.Embedding(10, 4), "give example tensors of the type that it needs"),
        (Function(lambda x: 3), "Function: forward returns no tensor"),
    ],
)
def test_modules_that_cannot_be_read(module: nn.Module, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_module(module, (1, 3))


def test_an_error_that_forward_mends_is_no_error() -> None:
    def careful(x: Tensor) -> Any:
        try:
            return inner(x.flatten())
        except RuntimeError:
            return x.relu()

    inner = nn.Conv2d(3, 4, 3)
    graph = read_module(Function(careful), (1, 3, 8, 8))
    assert graph.nodes[-1].op == Activation(kind="relu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_scripted_and_lazy_modules_are_refused() -> None:
    with pytest.raises(SourceError, match=r"compiled by torch.jit; give the module as it was"):
        read_module(torch.jit.script(nn.ReLU()), (1, 3))
    with pytest.raises(SourceError, match=r"compiled by torch.jit; give the module as it was"):
        read_module(torch.jit.trace(nn.ReLU(), torch.zeros(1, 3)), (1, 3))
    with pytest.raises(SourceError, match="'weight' has no shape yet; run the module once"):
        read_module(nn.LazyConv2d(4, 3), (1, 3, 8, 8))


def test_autocast_changes_nothing() -> None:
    conv = nn.Conv2d(3, 4, 3)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.conv(x)

    graph = read_module(Mixed(), (1, 3, 8, 8))
    np.testing.assert_array_equal(
        graph.parameter(graph.nodes[0], "weight").data,
        conv.weight.detach().numpy(),
    )


def test_the_default_device_may_be_meta() -> None:
    module = Function(lambda x: x + torch.tensor([1.0, 2.0, 3.0]))
    with torch.device("meta"):
        graph = read_module(module, (1, 3))
    np.testing.assert_array_equal(graph.constants["add.operand"].data, [1.0, 2.0, 3.0])


def test_wrappers_are_looked_through() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3))
    expected = read_module(inner, (1, 3, 8, 8))
    assert read_module(nn.DataParallel(inner), (1, 3, 8, 8)) == expected
