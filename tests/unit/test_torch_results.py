"""Calls that are recorded without running them are recorded as torch would have run them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from tests.torch_zoo import build, input_shape
from torch import nn

from convsmith.errors import ConvsmithError
from convsmith.graph import Graph
from convsmith.sources.torch import read_module, recorder


def slowly(module: nn.Module, shape: object, patch: pytest.MonkeyPatch) -> Graph:
    """The graph with every call run by torch."""
    with patch.context() as patched:
        patched.setattr(recorder, "is_certain", lambda *_: False)
        return read_module(module, shape)


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b0", "densenet121", "inception_v3", "convnext_tiny", "unet"]
)
def test_networks_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        module = build(name)
    shape = input_shape(name)
    quick = read_module(module, shape)
    slow = slowly(module, shape, monkeypatch)
    assert quick == slow
    assert quick.shapes == slow.shapes


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


WEIGHT = torch.ones(6, 4, 3, 3)

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plain": lambda x: F.conv2d(x, WEIGHT, padding=1),
    "stride and dilation": lambda x: F.conv2d(x, WEIGHT, stride=(2, 1), dilation=2, padding=2),
    "channels last": lambda x: F.conv2d(x.to(memory_format=torch.channels_last), WEIGHT),
    "one image": lambda x: F.conv2d(x[0], WEIGHT),
    "words": lambda x: F.conv2d(x, WEIGHT, padding="same"),
    "turned": lambda x: F.relu(x.transpose(2, 3)).flatten(1),
    "in place": lambda x: F.relu_(x + 1).add_(2.0),
    "broadcast": lambda x: x * x.mean((2, 3), keepdim=True) + x[:, :1],
    "joined": lambda x: torch.cat([x, F.silu(x), x[:, :2]], 1),
    "joined from behind": lambda x: torch.cat([x, x], -1),
    "doubles": lambda x: x.double() + x,
    "scaled": lambda x: torch.add(x, x, alpha=2),
    "pooled": lambda x: F.max_pool2d(F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), 2),
    "adapted": lambda x: F.adaptive_avg_pool2d(x, (3, 1)),
    "linear": lambda x: F.linear(x, torch.ones(5, x.shape[-1])),
    "view of a result": lambda x: F.relu(x).view(x.shape[0], -1),
    "wrong channels": lambda x: F.conv2d(x[:, :3], WEIGHT),
    "too small": lambda x: F.conv2d(x[:, :, :2, :2], WEIGHT),
    "too much padding": lambda x: F.max_pool2d(x, 2, padding=2),
    "no stride": lambda x: F.conv2d(x, WEIGHT, stride=0),
    "does not broadcast": lambda x: x + x[:, :3],
    "grows in place": lambda x: x[:, :1].clone().add_(x),
    "does not join": lambda x: torch.cat([x, x[:, :, :3]], 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_the_same_and_fail_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, shape = Function(FUNCTIONS[name]), (2, 4, 9, 8)
    try:
        slow: object = slowly(module, shape, monkeypatch)
    except ConvsmithError as error:
        slow = str(error)
    try:
        quick: object = read_module(module, shape)
    except ConvsmithError as error:
        quick = str(error)
    assert quick == slow
    fails = ("wrong", "too ", "no stride", "does not", "grows")
    assert isinstance(slow, str) == name.startswith(fails)
