"""Chains of convolutions in place of single ones, in modules of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from convsmith.errors import PlanError
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Padding
from convsmith.sources.torch import read_module, replace_modules


def step(
    weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None = None, **options: Any
) -> ConvStep:
    """A convolution of stride 1 without padding, unless the options say otherwise."""
    rank = weight.ndim - 2
    fields: dict[str, Any] = {
        "channels": weight.shape[0],
        "kernel": weight.shape[2:],
        "stride": (1,) * rank,
        "padding": ((0, 0),) * rank,
        "dilation": (1,) * rank,
        "bias": bias is not None,
    }
    return ConvStep(op=Conv(**{**fields, **options}), weight=weight, bias=bias)


def split(conv: nn.Conv2d) -> list[ConvStep]:
    """The exact replacement by a dense layer over all taps and a sum: full rank, any stride."""
    weight = conv.weight.detach().numpy().astype(np.float64)
    out, inside, height, width = weight.shape
    assert conv.groups == 1
    u, s, vt = np.linalg.svd(
        weight.transpose(1, 2, 0, 3).reshape(inside * height, out * width), full_matrices=False
    )
    rank = len(s)
    vertical = u.T.reshape(rank, inside, height, 1)
    horizontal = (s[:, None] * vt).reshape(rank, out, 1, width).transpose(1, 0, 2, 3)
    sides = conv.padding
    assert not isinstance(sides, str)
    return [
        step(vertical, stride=(conv.stride[0], 1), padding=((sides[0],) * 2, (0, 0))),
        step(
            np.ascontiguousarray(horizontal),
            None if conv.bias is None else conv.bias.detach().numpy(),
            stride=(1, conv.stride[1]),
            padding=((0, 0), (sides[1],) * 2),
        ),
    ]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
        self.shared = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.again = self.shared
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.again(torch.relu(self.shared(self.body(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def first(net: Net) -> nn.Conv2d:
    conv = net.body[0]
    assert isinstance(conv, nn.Conv2d)
    return conv


def test_the_chain_computes_the_composition(net: Net, x: Tensor) -> None:
    result = replace_modules(net, {"body.0": split(first(net)), "shared": split(net.shared)})
    torch.testing.assert_close(result(x), net(x), rtol=1e-4, atol=1e-5)
    assert isinstance(result.get_submodule("body.0"), nn.Sequential)
    assert isinstance(net.body[0], nn.Conv2d)


def test_a_shared_convolution_is_replaced_once_and_stays_shared(net: Net, x: Tensor) -> None:
    steps = split(net.shared)
    for replacements in ({"shared": steps}, {"again": steps}, {"shared": steps, "again": steps}):
        result = replace_modules(net, replacements)
        assert isinstance(result.shared, nn.Sequential)
        assert result.shared is result.again
        torch.testing.assert_close(result(x), net(x), rtol=1e-4, atol=1e-5)


def test_two_replacements_for_one_convolution_are_refused(net: Net) -> None:
    other = split(nn.Conv2d(4, 4, 3, padding=1, bias=False))
    with pytest.raises(PlanError, match="again: it is the same layer as 'shared'"):
        replace_modules(net, {"shared": split(net.shared), "again": other})


def test_the_users_module_is_untouched_unless_inplace(net: Net, x: Tensor) -> None:
    before = {name: t.clone() for name, t in net.state_dict().items()}
    replacements = {"body.0": split(first(net))}
    result = replace_modules(net, replacements)
    assert result is not net
    assert {name: t.tolist() for name, t in net.state_dict().items()} == {
        name: t.tolist() for name, t in before.items()
    }
    expected = net(x)
    assert replace_modules(net, replacements, inplace=True) is net
    assert isinstance(net.body[0], nn.Sequential)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_random_numbers_go_on_as_before(net: Net) -> None:
    before = torch.get_rng_state()
    replace_modules(net, {"body.0": split(first(net))})
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_are_kept(net: Net, x: Tensor) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def watch(name: str) -> Any:
        return lambda layer, inputs, output: seen.append((name, tuple(output.shape)))

    net.body.register_forward_hook(watch("body"))
    net.body[0].register_forward_hook(watch("conv"))
    net.body[1].register_forward_hook(watch("relu"))
    replace_modules(net, {"body.0": split(first(net))})(x)
    assert seen == [(name, (2, 4, 5, 5)) for name in ("conv", "relu", "body")]


def test_type_mode_and_training_flags_are_those_of_the_replaced_layer(net: Net) -> None:
    net.double()
    net.body.eval()
    first(net).weight.requires_grad_(False)
    result = replace_modules(net, {"body.0": split(first(net))})
    chain = result.get_submodule("body.0")
    assert not any(layer.training for layer in chain.modules())
    assert all(p.dtype == torch.float64 for p in chain.parameters())
    assert {n: p.requires_grad for n, p in chain.named_parameters()} == {
        "0.weight": False,
        "1.weight": False,
        "1.bias": True,
    }
    assert result.training


def test_the_state_dict_goes_round(net: Net, x: Tensor) -> None:
    result = replace_modules(net, {"body.0": split(first(net))})
    blank = replace_modules(Net(), {"body.0": split(first(Net()))})
    blank.load_state_dict(result.state_dict())
    torch.testing.assert_close(blank(x), result(x))


def test_gradients_reach_every_step(net: Net, x: Tensor) -> None:
    result = replace_modules(net, {"body.0": split(first(net)), "shared": split(net.shared)})
    before = result(x).square().sum()
    before.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in result.parameters())
    with torch.no_grad():
        for parameter in result.parameters():
            assert parameter.grad is not None
            parameter.sub_(1e-3 * parameter.grad)
    assert result(x).square().sum() < before


def test_the_weights_are_copies(net: Net) -> None:
    steps = split(first(net))
    kept = steps[0].weight.copy()
    result = replace_modules(net.double(), {"body.0": steps})
    with torch.no_grad():
        result.get_parameter("body.0.0.weight").zero_()
    np.testing.assert_array_equal(steps[0].weight, kept)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("padding", [(1, 0), (0, 2), (1, 1)])
def test_sides_that_differ_are_padded_by_a_module(rank: int, padding: tuple[int, int]) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](2, 3, 2, bias=False)
    weight = conv.weight.detach().numpy()
    sides: Padding = (padding, *((0, 1),) * (rank - 1))
    result = replace_modules(conv, {"": [step(weight, padding=sides)]})
    x = torch.randn(1, 2, *(5,) * rank)
    flat = [side for pair in reversed(sides) for side in pair]
    torch.testing.assert_close(result(x), conv(nn.functional.pad(x, flat)))


@pytest.mark.parametrize("rule", ["upper", "lower"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_is_resolved(rule: str, dilation: int) -> None:
    conv = nn.Conv2d(2, 3, 4, bias=False, dilation=dilation, padding="same")
    weight = conv.weight.detach().numpy()
    result = replace_modules(conv, {"": [step(weight, same=rule, dilation=(dilation, dilation))]})
    x = torch.randn(1, 2, 9, 9)
    total = 3 * dilation
    low = total // 2 if rule == "upper" else total - total // 2
    sides = [low, total - low] * 2
    expected = nn.functional.conv2d(nn.functional.pad(x, sides), conv.weight, dilation=dilation)
    torch.testing.assert_close(result(x), expected)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_borders_stay(mode: Any) -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode)
    graph = read_module(conv, (1, 2, 6, 6))
    node = next(node for node in graph.nodes if isinstance(node.op, Conv))
    data = [graph.constants[name].data for name in node.parameters]
    assert isinstance(node.op, Conv)
    assert data[0] is not None
    result = replace_modules(conv, {"": [ConvStep(op=node.op, weight=data[0], bias=data[1])]})
    x = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(result(x), conv(x))


def test_what_is_read_from_the_result_names_every_step(net: Net) -> None:
    result = replace_modules(net, {"body.0": split(first(net))})
    names = [node.name for node in read_module(result, (1, 3, 9, 9)).nodes]
    assert names[:3] == ["body.0.0", "body.0.1", "body.1"]


IMAGE = np.ones((4, 3, 3, 3))
BIASED = ConvStep(op=step(IMAGE, np.ones(4)).op, weight=IMAGE)


@pytest.mark.parametrize(
    ("path", "steps", "message"),
    [
        ("body.7", [step(IMAGE)], "body.7: Net has no module of this path; apply the plan to"),
        ("body.1", [step(IMAGE)], "body.1: it is a ReLU, not a convolution or a linear layer"),
        ("head", [step(IMAGE)], "step 1 has a weight .* needs 0 spatial axes"),
        ("body.0", [], "body.0: its replacement has no layer"),
        ("body.0", [step(np.ones((4, 2, 3, 3)))], r"step 1 has a weight of shape \(4, 2, 3, 3\)"),
        ("body.0", [step(np.ones((4, 3, 3)))], "step 1 has a weight .* needs 2 spatial axes"),
        ("body.0", [step(IMAGE)], r"makes 4 channels with stride \(1, 1\), the layer 4 .*\(2, 2\)"),
        ("body.0", [step(np.ones((5, 3, 3, 3)), stride=(2, 2))], "makes 5 channels"),
        ("body.0", [step(IMAGE, np.ones(3))], "step 1 has a bias that does not fit its 4"),
        ("body.0", [BIASED], "step 1 has a bias that does not fit its 4"),
        ("body.0", [step(IMAGE, rounding="ceil")], "that torch has no plain module for"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    net: Net, path: str, steps: Sequence[ConvStep], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        replace_modules(net, {path: steps})


def test_a_convolution_that_a_plain_list_also_holds_is_refused(net: Net) -> None:
    net.order = [net.shared]  # type: ignore[assignment]
    with pytest.raises(PlanError, match=r"also keeps it in the plain attribute 'order.0'; use nn"):
        replace_modules(net, {"shared": split(net.shared)})
