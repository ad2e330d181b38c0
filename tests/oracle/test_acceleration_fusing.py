"""``cs.accelerate``: additions behind convolutions, transposed convolutions, inductor."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor, nn

import convsmith as cs
from convsmith.acceleration import PlannedConv
from convsmith.acceleration.planned_transposed import PlannedConvTranspose


class Residual(nn.Module):
    """A block that adds in the way that it is told."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.ReLU(inplace=True)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv2(F.relu(self.conv1(x))))
        match self.way:
            case "module":
                return self.last(y + x)  # type: ignore[no-any-return]
            case "in place":
                y += x
                return F.relu(y)
            case "method":
                return x.add(y).relu()
            case "none":
                return torch.add(x, y)
            case "broadcast":
                return F.relu(y + x.mean((2, 3), keepdim=True))
            case "number":
                return F.relu(y + x.shape[1])
            case "scaled":
                return torch.add(x, y, alpha=2)
            case "read twice":
                return self.last(y + x) * y  # type: ignore[no-any-return]
        raise AssertionError(self.way)


WAYS = {
    **dict.fromkeys(("module", "in place", "method", "none", "broadcast", "number"), True),
    **dict.fromkeys(("scaled", "read twice"), False),
}


def network(way: str) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), Residual(way), nn.Conv2d(6, 4, 1))
    norm = module[1].norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var.uniform_(0.5, 2)
    return module.eval()


def agree(module: nn.Module, made: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(made(*inputs), module(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("way", "fused"), WAYS.items())
def test_additions_behind_convolutions(way: str, fused: bool, monkeypatch: Any) -> None:
    module = network(way)
    made = cs.accelerate(module, (1, 3, 9, 8), tune=False)
    seen: list[bool] = []
    forward = PlannedConv._with_residual

    def noticed(self: PlannedConv, x: Tensor, residual: Tensor) -> Tensor:
        seen.append(True)
        return forward(self, x, residual)

    monkeypatch.setattr(PlannedConv, "_with_residual", noticed)
    agree(module, made, torch.randn(2, 3, 9, 8))
    assert bool(seen) == fused
    agree(module, made, torch.randn(1, 3, 12, 7).contiguous(memory_format=torch.channels_last))
    agree(module.double(), copy.deepcopy(made).double(), torch.randn(1, 3, 9, 8).double())


def test_a_fused_block_has_gradients() -> None:
    module = network("module")
    made = cs.accelerate(module, (1, 3, 9, 8), tune=False)
    x = torch.randn(1, 3, 9, 8)
    wanted = torch.autograd.functional.jacobian(lambda t: module(t).sum((2, 3)), x)
    got = torch.autograd.functional.jacobian(lambda t: made(t).sum((2, 3)), x)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_transposed_convolutions(groups: int, last: bool) -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 6, 4, 2, 1, output_padding=1, groups=groups, bias=groups == 2)
    module = nn.Sequential(up, nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 3, 3)).eval()
    with torch.no_grad():
        module[1].weight.uniform_(0.5, 2)  # type: ignore[operator]
    module[1].running_mean.normal_()  # type: ignore[operator]
    made = cs.accelerate(module, (1, 4, 5, 6), tune=False)
    kinds = [type(part) for part in made.children()]
    assert kinds[:2] == [PlannedConvTranspose, nn.Identity]
    x = torch.randn(2, 4, 7, 3)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    agree(module, made, x)


def test_transposed_convolutions_in_one_and_three_dimensions() -> None:
    torch.manual_seed(0)
    agree_on = [
        (nn.ConvTranspose1d(3, 4, 5, 3, 2), (2, 3, 7)),
        (nn.ConvTranspose3d(3, 2, 3, 2, 1, dilation=2), (1, 3, 3, 4, 5)),
    ]
    for layer, shape in agree_on:
        module = nn.Sequential(layer, nn.SiLU()).eval()
        agree(module, cs.accelerate(module, shape, tune=False), torch.randn(shape))


def test_a_wished_output_size() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    made = PlannedConvTranspose(
        layer.weight.detach(), layer.bias, stride=(2, 2), padding=(1, 1)
    )  # fmt: skip
    x = torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(made(x, [8, 8]), layer(x, [8, 8]), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler: no g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_compiles_what_was_accelerated() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    made = cs.accelerate(module.eval(), (1, 3, 9, 8), tune=False)
    compiled = torch.compile(made, backend="inductor", fullgraph=True)
    x = torch.randn(2, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
