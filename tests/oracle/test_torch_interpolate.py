"""Interpolation read from torch computes what torch computes, short cuts of kernels included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from convsmith.graph.evaluate import evaluate
from convsmith.sources import load

FACTORS = (0.5, 0.75, 1.0, 1.2, 1.25, 1.5, 2.0, 2.2, 2.4, 3.0, 3.3)
MODES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "nearest-exact": {"mode": "nearest-exact"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear-corners": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "bicubic-corners": {"mode": "bicubic", "align_corners": True},
}


class _Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.filterwarnings("ignore:The default behavior for interpolate:UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_every_factor_gives_the_values_of_torch(mode: str, size: int) -> None:
    x = torch.randn(1, 2, size, size + 1, generator=torch.Generator().manual_seed(size))
    for factor in FACTORS:
        options: dict[str, Any] = {**MODES[mode], "scale_factor": factor}

        def function(x: Tensor, options: dict[str, Any] = options) -> Tensor:
            return functional.interpolate(x, **options)

        graph = load(_Apply(function), tuple(x.shape))
        values = evaluate(graph, {graph.inputs[0].name: x.numpy()})
        expected = function(x).numpy()
        np.testing.assert_allclose(
            values[graph.outputs[0].value], expected, atol=1e-5, err_msg=f"{mode} {factor}"
        )
