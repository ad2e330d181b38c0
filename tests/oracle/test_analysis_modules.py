"""Sums by module, against torch: its own parameters and FlopCounterMode's count of every module."""

from __future__ import annotations

import pytest
import torch
from tests.networks import VDSR, ResNet20
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convsmith.analysis import analyze
from convsmith.sources import load


@pytest.mark.parametrize(
    ("module", "shape"), [(ResNet20(), (2, 3, 32, 32)), (VDSR(), (1, 1, 20, 24))]
)
def test_parameters_and_products_of_every_module(module: nn.Module, shape: tuple[int, ...]) -> None:
    module.eval()
    groups = {group.name: group for group in analyze(load(module, shape)).by_module().groups}
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(torch.zeros(shape))
    top = type(module).__name__
    products = {
        path.removeprefix(f"{top}."): sum(count.values()) // 2
        for path, count in counter.get_flop_counts().items()
        if path not in ("Global", top)
    }
    checked = 0
    for path, part in module.named_modules():
        if path in groups:
            assert groups[path].params == sum(p.numel() for p in part.parameters())
            assert groups[path].macs == products.get(path, 0)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("view", "apply"),
    [
        (True, lambda x: x.flatten(1)),
        (True, lambda x: x.reshape(2, -1)),
        (True, lambda x: nn.functional.dropout(x, training=False)),
        (True, lambda x: nn.Identity()(x)),
        (False, lambda x: x.transpose(1, 2).contiguous()),
        (False, lambda x: torch.relu(x)),
    ],
)
def test_what_counts_as_a_view_is_one_in_torch(view: bool, apply: nn.Module) -> None:
    class Applied(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = apply(x)
            return y

    x = torch.zeros(2, 3, 4, 5)
    stored = x.untyped_storage().data_ptr()
    assert (apply(x).untyped_storage().data_ptr() == stored) == view
    analysis = analyze(load(Applied(), (2, 3, 4, 5)))
    once = 4 * x.numel()
    assert analysis.total.peak_activation_bytes == (once if view else 2 * once)
