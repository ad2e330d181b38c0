"""Gradients of every operator that has a rule, against torch, and of whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.random_weights import random_network, with_data
from torch import Tensor, nn

import convsmith as cs
from convsmith.errors import UnsupportedOperatorError
from convsmith.graph import Graph, parse
from convsmith.graph import evaluate as evaluating
from convsmith.graph.adjoint import Run, adjoint, gradients
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Elementwise, Reduce

Array = npt.NDArray[Any]
TOLERANCE = 1e-9

F = nn.functional


def by_network(net: Graph, x: Array, given: Array) -> Array:
    """The gradient of ``sum(given * output)`` with respect to the only input."""
    values = evaluate(net, {"x": x})
    (output,) = net.outputs
    made = gradients(net, values, {output.value: given}, {"x"})["x"]
    assert made.shape == x.shape
    return made


def by_torch(function: Callable[[Tensor], Tensor], x: Array, given: Array) -> Array:
    leaf = torch.from_numpy(x).requires_grad_()
    made = function(leaf)
    assert tuple(made.shape) == given.shape
    made.backward(torch.from_numpy(given))
    assert leaf.grad is not None
    return np.asarray(leaf.grad.numpy())


def t(net: Graph, name: str) -> Tensor:
    return torch.from_numpy(np.array(net.constants[name].data))


def conv(stride: int, padding: tuple[int, ...], dilation: int = 1, groups: int = 1) -> Any:
    def run(net: Graph, x: Tensor) -> Tensor:
        return F.conv2d(
            F.pad(x, padding), t(net, "conv1.weight"), t(net, "conv1.bias"), stride, 0, dilation,
            groups,
        )  # fmt: skip

    return run


def deconv(stride: int, padding: int, groups: int = 1, crop: Any = None) -> Any:
    def run(net: Graph, x: Tensor) -> Tensor:
        made = F.conv_transpose2d(
            x, t(net, "deconv1.weight"), t(net, "deconv1.bias"), stride, padding, 0, groups
        )
        return made if crop is None else made[crop]

    return run


def plain(function: Callable[[Tensor], Tensor]) -> Any:
    return lambda net, x: function(x)


CASES: dict[str, tuple[str, Callable[[Graph, Tensor], Tensor]]] = {
    "conv": ("3@9 > conv 4 3", conv(1, (0, 0, 0, 0))),
    "conv, stride that leaves a border unread": ("3@9x10 > conv 4 4/3", conv(3, (0, 0, 0, 0))),
    "conv, padding larger than the reach": ("3@5 > conv 4 3/2 p4", conv(2, (4, 4, 4, 4))),
    "conv, uneven padding": ("3@9 > conv 4 3/2 p2,1,0,3", conv(2, (1, 3, 2, 0))),
    "conv, dilated": ("3@11 > conv 4 3/2 d2 p1", conv(2, (1, 1, 1, 1), 2)),
    "conv, groups": ("6@9 > conv 4 3/2 p1 g2", conv(2, (1, 1, 1, 1), 1, 2)),
    "conv, depthwise": (
        "4@9 > dw 5/2 p2",
        lambda net, x: F.conv2d(x, t(net, "dw1.weight"), t(net, "dw1.bias"), 2, 2, 1, 4),
    ),
    "conv, SAME": ("3@8 > conv 4 3/2 psame", conv(2, (0, 1, 0, 1))),
    "conv, SAME lower": ("3@8 > conv 4 3/2 psame-lower", conv(2, (1, 0, 1, 0))),
    "deconv": ("3@5 > deconv 4 3/2 p1", deconv(2, 1)),
    "deconv, groups": ("4@5 > deconv 6 4/3 g2", deconv(3, 0, 2)),
    "deconv, uneven": (
        "3@5 > deconv 4 4/2 p2,1,0,3",
        deconv(2, 0, 1, (..., slice(2, None), slice(1, -3))),
    ),
    "linear": (
        "3@4 > flatten > fc 5",
        lambda net, x: F.linear(x.flatten(1), t(net, "fc1.weight"), t(net, "fc1.bias")),
    ),
    "relu": ("3@6 > relu", plain(torch.relu)),
    "max pool, overlapping": ("2@9 > maxpool 3/2", plain(lambda x: F.max_pool2d(x, 3, 2))),
    "max pool, padded": ("2@9 > maxpool 3/2 p1", plain(lambda x: F.max_pool2d(x, 3, 2, 1))),
    "max pool, ceil": (
        "2@8 > maxpool 3/2 ceil",
        plain(lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)),
    ),
    "average pool": ("2@9 > avgpool 3/2", plain(lambda x: F.avg_pool2d(x, 3, 2))),
    "global average": ("2@9 > gap", plain(lambda x: x.mean((2, 3), keepdim=True))),
    "transpose and crop by flatten": ("2@3 > flatten", plain(lambda x: x.flatten(1))),
    "softmax": ("5@1 > flatten > softmax", plain(lambda x: x.flatten(1).softmax(1))),
    "batch norm": (
        "3@5 > bn",
        lambda net, x: F.batch_norm(
            x,
            t(net, "bn1.mean"),
            t(net, "bn1.variance"),
            t(net, "bn1.weight"),
            t(net, "bn1.bias"),
            eps=1e-5,
        ),
    ),
    "skip": ("3@5 > ( relu + - )", plain(lambda x: x.relu() + x)),
    "concatenation": (
        "3@5 > [ relu | - | maxpool 3/1 p1 ]",
        plain(lambda x: torch.cat([x.relu(), x, F.max_pool2d(x, 3, 1, 1)], 1)),
    ),
}


@pytest.mark.parametrize("block", [1 << 20, 1], ids=["together", "one by one"])
@pytest.mark.parametrize("kind", CASES)
def test_gradients_are_those_of_torch(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "BLOCK_BYTES", block)
    notation, function = CASES[kind]
    net = random_network(notation, dtype="float64")
    random = np.random.default_rng(0)
    x = random.normal(size=(2, *net.inputs[0].shape[1:]))
    given = random.normal(size=evaluate(net, {"x": x})[net.outputs[0].value].shape)
    wanted = by_torch(lambda leaf: function(net, leaf), x, given)
    np.testing.assert_allclose(by_network(net, x, given), wanted, rtol=TOLERANCE, atol=TOLERANCE)


class Everything(nn.Module):
    """Operators as torch's own reader makes them."""

    def __init__(self, body: Callable[[Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return self.body(x)


def module(function: Callable[[Tensor], Tensor], *parts: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    made = Everything(function, *parts).double().eval()
    for name, tensor in made.state_dict().items():
        if name.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_()
    return made


def same(x: Tensor) -> Tensor:
    return x


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "average pool, padding counted": (
        module(same, nn.AvgPool2d(3, 2, 1, count_include_pad=True)), (2, 9, 9)),
    "average pool, padding left out": (
        module(same, nn.AvgPool2d(3, 2, 1, count_include_pad=False)), (2, 9, 9)),
    "average pool, ceil": (
        module(same, nn.AvgPool2d(3, 2, 1, ceil_mode=True)), (2, 8, 8)),
    "max pool, dilated": (module(same, nn.MaxPool2d(3, 1, 1, 2)), (2, 9, 9)),
    "max pool, 1-D": (module(lambda x: x.unsqueeze(-1), nn.MaxPool1d(3, 2)), (2, 9)),
    "3-D": (module(same, nn.Conv3d(2, 3, (3, 2, 1), (2, 1, 1), (1, 0, 0))), (2, 5, 4, 3)),
    "1-D transposed, with extra outputs": (
        module(same, nn.ConvTranspose1d(2, 3, 3, 3, 1, output_padding=2)), (2, 5)),
    "group norm": (module(same, nn.GroupNorm(2, 4)), (4, 5, 5)),
    "instance norm": (module(same, nn.InstanceNorm2d(3, affine=True)), (3, 5, 5)),
    "layer norm": (module(same, nn.LayerNorm((5, 4))), (3, 5, 4)),
    "nearest": (module(same, nn.Upsample(scale_factor=2)), (2, 4, 5)),
    "bilinear": (module(same, nn.Upsample(scale_factor=2, mode="bilinear")), (2, 4, 5)),
    "bilinear, corners": (
        module(same, nn.Upsample((7, 9), mode="bilinear", align_corners=True)), (2, 4, 5)),
    "smaller": (module(same, nn.Upsample((3, 2), mode="bilinear")), (2, 7, 5)),
    "sigmoid": (module(torch.sigmoid), (2, 3, 3)),
    "tanh": (module(torch.tanh), (2, 3, 3)),
    "silu": (module(F.silu), (2, 3, 3)),
    "gelu": (module(F.gelu), (2, 3, 3)),
    "hardswish": (module(F.hardswish), (2, 3, 3)),
    "prelu": (module(same, nn.PReLU(2)), (2, 3, 3)),
    "leaky relu": (module(lambda x: F.leaky_relu(x, 0.1)), (2, 3, 3)),
    "exp": (module(torch.exp), (2, 3, 3)),
    "log softmax": (module(lambda x: x.flatten(1).log_softmax(1)), (2, 3)),
    "product, broadcast": (module(lambda x: x * x.mean((2, 3), keepdim=True)), (2, 3, 3)),
    "quotient": (module(lambda x: x / (x.square().mean(1, keepdim=True) + 2)), (2, 3, 3)),
    "difference": (module(lambda x: x - x[:, :1]), (2, 3, 3)),
    "largest": (module(lambda x: torch.maximum(x, x.flip(2))), (2, 3, 4)),
    "smallest": (module(lambda x: torch.minimum(x.relu(), -x)), (2, 3, 4)),
    "global maximum": (module(same, nn.AdaptiveMaxPool2d(1)), (2, 3, 4)),
    "mean": (module(lambda x: x.mean((1, 3))), (2, 3, 4)),
    "sum": (module(lambda x: x.sum(2, keepdim=True)), (2, 3, 4)),
    "slices": (module(lambda x: x[:, :, 1::2, :-1]), (2, 6, 4)),
    "zero padding": (module(lambda x: F.pad(x, (1, 2, 0, 3))), (2, 3, 3)),
    "reflection": (module(lambda x: F.pad(x, (1, 2, 2, 0), mode="reflect")), (2, 4, 4)),
    "replication": (module(lambda x: F.pad(x, (1, 2, 2, 0), mode="replicate")), (2, 4, 4)),
    "permutation": (module(lambda x: x.permute(0, 2, 3, 1).reshape(-1, 12)[:, ::2]), (2, 3, 6)),
    "pixel shuffle": (module(same, nn.PixelShuffle(2)), (8, 3, 3)),
    "chunks": (module(lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid()), (4, 3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODULES)
def test_gradients_of_modules_are_those_of_torch(kind: str) -> None:
    made, sizes = MODULES[kind]
    net = cs.load(made, torch.zeros(2, *sizes, dtype=torch.float64))
    random = np.random.default_rng(1)
    x = random.normal(size=(2, *sizes))
    values = evaluate(net, {net.inputs[0].name: x})
    y = values[net.outputs[0].value]
    given = random.normal(size=y.shape)
    found = gradients(net, values, {net.outputs[0].value: given}, {net.inputs[0].name})
    wanted = by_torch(made, x, given)
    smooth = kind in {"sigmoid", "tanh", "silu", "gelu", "hardswish", "exp", "chunks", "prelu",
                      "leaky relu", "quotient"}  # fmt: skip
    np.testing.assert_allclose(
        found[net.inputs[0].name], wanted, rtol=1e-6 if smooth else TOLERANCE,
        atol=1e-8 if smooth else TOLERANCE,
    )  # fmt: skip


class Whole(nn.Module):
    """A small residual network with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.one = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.two = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.seen = x = x + self.two(self.one(x).relu())
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def test_gradients_inside_a_network_are_those_of_torch() -> None:
    torch.manual_seed(0)
    made = Whole().double().eval()
    net = cs.load(made, torch.zeros(1, 3, 12, 12, dtype=torch.float64))
    x = np.random.default_rng(0).normal(size=(3, 3, 12, 12))
    kept: dict[str, Tensor] = {}
    for name in ("stem.0", "one", "two"):

        def keep(_: nn.Module, __: Any, y: Tensor, name: str = name) -> None:
            y.retain_grad()
            kept[name] = y

        made.get_submodule(name).register_forward_hook(keep)
    given = np.random.default_rng(1).normal(size=(3, 5))
    made(torch.from_numpy(x)).backward(torch.from_numpy(given))
    values = evaluate(net, {net.inputs[0].name: x})
    found = gradients(net, values, {net.outputs[0].value: given}, set(kept))
    assert found.keys() == kept.keys()
    for name, value in kept.items():
        assert value.grad is not None
        np.testing.assert_allclose(found[name], value.grad.numpy(), rtol=1e-9, atol=1e-12)


# What has no rule --------------------------------------------------------------------------


def test_what_lies_in_front_of_an_unknown_operator_is_left_out() -> None:
    net = parse("4@6 > conv 4 3 p1 > unsupported Magic 4@6 > conv 4 3 p1 > relu")
    random = np.random.default_rng(0)
    values: dict[str, Array] = {
        name: random.normal(size=shape) for name, shape in net.shapes.items() if shape is not None
    }
    weights = {name: random.normal(size=c.shape) for name, c in net.constants.items()}
    net = with_data(net, **{name.replace(".", "__"): array for name, array in weights.items()})
    last = net.outputs[0].value
    found = gradients(net, values, {last: np.ones_like(values[last])}, {"conv1", "conv2"})
    assert list(found) == ["conv2"]


def test_another_way_past_an_unknown_operator_does_not_make_up_for_it() -> None:
    """Half of a gradient is no gradient."""
    net = random_network(
        "4@6 > conv 4 3 p1 > ( avgpool 3/1 p1 ceil + relu ) > relu", dtype="float64"
    )
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6))
    values = evaluate(net, {"x": x})
    last = net.outputs[0].value
    given = {last: np.ones_like(values[last])}
    assert set(gradients(net, values, given, {"conv1"})) == {"conv1"}
    with pytest.MonkeyPatch.context() as patch:

        def refuse(op: Any, *rest: Any) -> Any:
            if type(op).__name__ == "Pool":
                raise UnsupportedOperatorError("none")
            return adjoint(op, *rest)

        patch.setattr("convsmith.graph.adjoint.adjoint", refuse)
        assert gradients(net, values, given, {"conv1"}) == {}


UNKNOWN = [Reduce(kind="max", axes=(1,)), Elementwise(kind="pow")]


@pytest.mark.parametrize("op", UNKNOWN, ids=lambda op: op.kind)
def test_an_unknown_operator_is_named(op: Any) -> None:
    x = np.ones((2, 3))
    inputs = [x] if isinstance(op, Reduce) else [x, x]
    with pytest.raises(UnsupportedOperatorError, match=f"operator '{op.kind}' has no gradient"):
        adjoint(op, Run(given=[x], inputs=inputs, parameters=[], outputs=[x]))


def test_values_that_nothing_depends_on_have_no_gradient() -> None:
    net = random_network("4@6 > conv 4 3 p1 > relu", dtype="float64")
    values = evaluate(net, {"x": np.ones((1, 4, 6, 6))})
    assert gradients(net, values, {}, {"conv1"}) == {}
