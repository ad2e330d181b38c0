"""Tucker-2 as users of tensorly-torch compress a network: VBMF ranks, then HOOI, no data.

The ranks are those of empirical variational Bayesian matrix factorization on the two channel
unfoldings (Kim et al. 2016, *Compression of deep CNNs for fast and low power mobile
applications*), all scaled by one factor to the budget. The decomposition is
``tltorch.FactorizedConv.from_conv``; its factors are compared as the three convolutions
(``1 x 1``, ``k x k``, ``1 x 1``) that they amount to.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.rewriting.chains import Chain, Layer, Step, largest, tucker_cost
from scipy.optimize import minimize_scalar

__all__ = ["chains_at", "decomposed", "missing", "ranks", "vbmf_rank"]

Array = npt.NDArray[Any]


def missing() -> str:
    """Why it cannot run here; empty when it can."""
    return "" if importlib.util.find_spec("tltorch") else "tensorly-torch is not installed"


def vbmf_rank(matrix: Array) -> int:
    """The rank of the global analytic solution of empirical VB matrix factorization.

    Nakajima, Sugiyama, Babacan & Tomioka 2013 (JMLR 14): singular values above a threshold
    count, and the noise variance in it is the one that minimizes the free energy.
    """
    rows, columns = sorted(matrix.shape)
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    alpha = rows / columns
    tau_bar = 2.5129 * np.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)

    def free_energy(variance: float) -> float:
        x = squares / (columns * variance)
        small, large = x[x <= x_bar], x[x > x_bar]
        shifted = large - (1 + alpha)
        tau = (shifted + np.sqrt(shifted**2 - 4 * alpha)) / 2
        return float(
            np.sum(small - np.log(small))
            + np.sum(large - tau + np.log((tau + 1) / large) + alpha * np.log(tau / alpha + 1))
        )

    head = min(int(np.ceil(rows / (1 + alpha))) - 1, rows - 1)
    upper = squares.sum() / (rows * columns)
    lower = max(squares[head] / (columns * x_bar), squares[head:].mean() / columns)
    noise = minimize_scalar(
        free_energy, bounds=(min(lower, upper) * (1 - 1e-9), upper), method="bounded"
    ).x
    return int((squares > columns * noise * x_bar).sum())


@cache
def ranks(layer: Layer) -> tuple[int, int]:
    """VBMF's ranks of the output and the input channels, at least 1."""
    outside, inside = layer.weight.shape[:2]
    return (
        max(1, vbmf_rank(layer.weight.reshape(outside, -1))),
        max(1, vbmf_rank(layer.weight.swapaxes(0, 1).reshape(inside, -1))),
    )


def decomposed(layer: Layer, outer: int, inner: int) -> Chain:
    """The three convolutions of tensorly-torch's factorization."""
    import torch
    from torch import nn

    outside, inside, height, width = layer.weight.shape
    conv = nn.Conv2d(inside, outside, (height, width), layer.stride, layer.padding, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(layer.weight))
    tltorch = importlib.import_module("tltorch")
    with warnings.catch_warnings():  # it asks for more singular vectors than small windows have
        warnings.filterwarnings("ignore", module="tensorly")
        made = tltorch.FactorizedConv.from_conv(
            conv,
            rank=(outer, inner, height, width),
            factorization="tucker",
            implementation="factorized",
        )
    core = made.weight.core.detach().double().numpy()
    first, second, *axes = (factor.detach().double().numpy() for factor in made.weight.factors)
    core = np.einsum("oihw,yh,xw->oiyx", core, *axes)
    return (
        Step(weight=np.ascontiguousarray(second.T)[:, :, None, None]),
        Step(weight=core, stride=layer.stride, padding=layer.padding),
        Step(weight=np.ascontiguousarray(first)[:, :, None, None], bias=layer.bias),
    )


def chains_at(found: tuple[Layer, ...], budget: float) -> dict[str, Chain]:
    """VBMF's ranks times the largest factor whose multiplications fit the budget.

    Raises:
        Unreachable: If none does.
    """
    vbmf = {layer.name: ranks(layer) for layer in found}

    def scaled(factor: float) -> dict[str, tuple[int, int]]:
        chosen = {}
        for layer in found:
            outer, inner = (
                min(max(1, round(factor * rank)), full)
                for rank, full in zip(vbmf[layer.name], layer.weight.shape[:2], strict=True)
            )
            if tucker_cost(layer, outer, inner) < layer.macs:
                chosen[layer.name] = (outer, inner)
        return chosen

    def cost(factor: float) -> float:
        chosen = scaled(factor)
        return sum(
            tucker_cost(layer, *chosen[layer.name]) if layer.name in chosen else layer.macs
            for layer in found
        )

    top = max(max(layer.weight.shape[:2]) for layer in found)
    chosen = scaled(largest(cost, budget, float(top)))
    return {
        layer.name: decomposed(layer, *chosen[layer.name])
        for layer in found
        if layer.name in chosen
    }
