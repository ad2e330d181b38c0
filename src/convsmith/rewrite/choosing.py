"""Candidates for every layer, and the choice of one per layer under a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from convsmith.errors import BudgetError
from convsmith.graph import Graph, Node
from convsmith.graph.operators import Conv, Norm
from convsmith.parallel import spread
from convsmith.results import Progress
from convsmith.rewrite.forms import spatial
from convsmith.rewrite.statistics import Moments

__all__ = [
    "KEEP",
    "Candidate",
    "Currency",
    "Layer",
    "choose",
    "dense_macs",
    "output_scale",
    "pair_costs",
    "tabulate",
]

Array = npt.NDArray[Any]
Currency = Literal["macs", "params"]
KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One way to run a layer.

    Attributes:
        form: ``keep`` or the name of a form.
        rank: Width between the two convolutions; 0 for ``keep``.
        macs: Exact multiply-accumulates.
        params: Weights and biases.
        error: Mean squared error of the layer's outputs over their variance, as fitted.
        loss: What it is predicted to do to the network's output.
        factors: The fitted weights; ``None`` for ``keep``.
    """

    form: str
    rank: int
    macs: int
    params: int
    error: float
    loss: float
    factors: spatial.Factors | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A layer and everything that can stand for it, the layer itself first."""

    name: str
    candidates: tuple[Candidate, ...]


def dense_macs(net: Graph, node: Node) -> int:
    """Multiply-accumulates of a convolution as it is."""
    weight = net.parameter(node, "weight")
    return math.prod(net.shape(node.name)) * (weight.size // weight.shape[0])


def pair_costs(net: Graph, node: Node, rank: int, order: spatial.Order) -> tuple[int, int]:
    """Multiply-accumulates and parameters of the pair that could stand for a layer."""
    op, x = node.op, net.shape(node.inputs[0])
    assert isinstance(op, Conv)
    params = spatial.params(op, rank, order, x[1])
    learnable = net.parameter(node, "weight").learnable
    return spatial.macs(op, rank, order, x), params if learnable else 0


def _rank_grid(op: Conv, x: tuple[int, ...], dense: int) -> range:
    """About a dozen ranks worth trying, aligned, all cheaper than the layer itself."""
    per_rank = min(spatial.macs(op, 1, order, x) for order in spatial.ORDERS)
    full = max(spatial.full_rank(op, order, x[1]) for order in spatial.ORDERS)
    most = min((dense - 1) // per_rank, full)
    step = 4 if most <= 64 else 8 if most <= 128 else 16 * -(-most // 256)
    return range(min(step, most), most + 1, step) if most else range(0)


def tabulate(
    net: Graph,
    moments: Mapping[str, Moments],
    layers: Sequence[Node],
    *,
    ranks: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[Layer]:
    """Fits the form to every layer at every rank of its grid.

    Args:
        net: The network.
        moments: Statistics per layer; a layer without any is fitted as if its inputs were
            independent and of equal size, which is the plain SVD of its weights.
        layers: Its replaceable convolutions.
        ranks: These ranks instead of the grid.
        progress: Called after each layer.
    """
    done: list[str] = []

    def one(node: Node) -> Layer:
        made = _fit_all(net, node, moments.get(node.name), ranks)
        done.append(node.name)
        if progress is not None:
            progress("fitting candidates", len(done), len(layers))
        return Layer(name=node.name, candidates=made)

    return spread(one, layers)


def _fit_all(
    net: Graph, node: Node, moments: Moments | None, ranks: Sequence[int] | None
) -> tuple[Candidate, ...]:
    op, x = node.op, net.shape(node.inputs[0])
    assert isinstance(op, Conv)
    weight = np.asarray(net.parameter(node, "weight").data, dtype=np.float64)
    dense = dense_macs(net, node)
    params = sum(c.size for name in node.parameters if (c := net.constants[name]).learnable)
    made = [Candidate(form=KEEP, rank=0, macs=dense, params=params, error=0.0, loss=0.0)]
    scale = output_scale(net, node)
    covariance = np.eye(weight[0].size) if moments is None else moments.covariance
    scaled = weight * scale[:, None, None, None]
    best: dict[int, Candidate] = {}
    for order in spatial.ORDERS:
        problem = spatial.own_outputs(scaled, covariance, order)
        first = spatial.start(problem)
        for rank in _rank_grid(op, x, dense) if ranks is None else ranks:
            cost, size = pair_costs(net, node, rank, order)
            if cost >= dense or rank > spatial.full_rank(op, order, x[1]):
                continue
            factors = spatial.fit(problem, first[:rank], rounds=2)
            error = factors.error / problem.energy if problem.energy > 0 else 0.0
            if rank in best and best[rank].error <= error:
                continue
            best[rank] = Candidate(
                form=spatial.NAME,
                rank=rank,
                macs=cost,
                params=size,
                error=error,
                loss=error,
                factors=replace(factors, second=factors.second / scale[:, None]),
            )
    return (*made, *(best[rank] for rank in sorted(best)))


def output_scale(net: Graph, node: Node) -> Array:
    """How much the batch norm right behind a layer magnifies each channel; ones without it.

    Errors count as they are after it.
    """
    op = node.op
    assert isinstance(op, Conv)
    norm = batch_norm_behind(net, node)
    if norm is None:
        return np.ones(op.channels)
    scale = np.abs(norm_gain(net, norm))
    if not scale.any():
        return np.ones(op.channels)
    return np.asarray(np.maximum(scale, 1e-3 * scale.max()))


def batch_norm_behind(net: Graph, node: Node) -> Node | None:
    """The batch norm that is the only user of a layer's output, if there is one."""
    users = net.consumers.get(node.name, ())
    if len(users) != 1 or node.name in {output.value for output in net.outputs}:
        return None
    only = users[0]
    return only if isinstance(only.op, Norm) and only.op.kind == "batch" else None


def norm_gain(net: Graph, norm: Node) -> Array:
    """The factor per channel that a batch norm applies."""
    assert isinstance(norm.op, Norm)
    variance = np.asarray(net.parameter(norm, "variance").data, dtype=np.float64)
    gain = 1 / np.sqrt(np.maximum(variance, 0) + norm.op.epsilon)
    if norm.op.affine:
        gain = gain * np.asarray(net.parameter(norm, "weight").data, dtype=np.float64)
    return np.asarray(gain)


def choose(
    layers: Sequence[Layer], currency: Currency, budget: float, fixed: int
) -> dict[str, Candidate]:
    """Picks one candidate per layer: least total loss at a cost within the budget.

    A multiple-choice knapsack, solved exactly by HiGHS (Huangfu & Hall 2018). A budget that pays
    for all layers as they are changes none.

    Args:
        layers: The candidates.
        currency: What is paid with.
        budget: What all layers together, and ``fixed``, may cost.
        fixed: What the rest of the network costs.

    Raises:
        BudgetError: If even the cheapest candidates cost more.

    >>> keep = Candidate(form=KEEP, rank=0, macs=9, params=9, error=0.0, loss=0.0)
    >>> thin = Candidate(form="spatial", rank=1, macs=4, params=4, error=0.1, loss=0.1)
    >>> choose([Layer(name="conv1", candidates=(keep, thin))], "macs", 5, fixed=1)["conv1"].rank
    1
    """
    dense = fixed + sum(getattr(layer.candidates[0], currency) for layer in layers)
    if dense <= budget:
        return {layer.name: layer.candidates[0] for layer in layers}
    least = fixed + sum(min(getattr(c, currency) for c in layer.candidates) for layer in layers)
    if least > budget:
        raise BudgetError(
            f"the budget of {budget:,.0f} {currency} cannot be met: the cheapest rewrite"
            f" needs {least:,} ({least / dense:.1%} of the original)",
            remedy="allow more, or shrink what this form cannot replace",
        )
    pairs = [(layer, candidate) for layer in layers for candidate in layer.candidates]
    costs = np.array([getattr(candidate, currency) for _, candidate in pairs])
    losses = np.array([candidate.loss for _, candidate in pairs])
    member = np.zeros((len(layers), len(pairs)))
    column = 0
    for row, layer in enumerate(layers):
        member[row, column : column + len(layer.candidates)] = 1
        column += len(layer.candidates)
    left = math.floor(budget) - fixed
    taken = _knapsack(losses, costs, member, left)
    return {layer.name: candidate for (layer, candidate), t in zip(pairs, taken, strict=True) if t}


def _knapsack(losses: Array, costs: Array, member: Array, budget: int) -> Array:
    """Which of the candidates to take: one per row of ``member``, at a cost within the budget.

    The solver's gap is absolute, so the problem is solved once to learn the size of the optimum,
    and again in that unit. Its tolerance too: a choice that is over the budget by less than a
    millionth of the dearest candidate is solved for again with that much less to spend.
    """
    dearest = int(costs.max())

    def solve(unit: float, limit: float) -> npt.NDArray[np.bool_]:
        result = milp(
            losses / unit,
            constraints=[
                LinearConstraint(member, 1, 1),
                LinearConstraint(costs[None] / dearest, -np.inf, limit / dearest),
            ],
            integrality=np.ones(len(losses), dtype=np.int64),
            bounds=Bounds(0, (losses <= unit * (1 + 1e-9)).astype(np.float64)),
            options={"mip_rel_gap": 0.0, "time_limit": 60.0},
        )
        if result.x is None:
            raise BudgetError(f"no choice was found: {result.message}", remedy="try another budget")
        taken: npt.NDArray[np.bool_] = result.x > 0.5
        if costs[taken].sum() > budget:
            return solve(unit, limit - 1e-6 * dearest)
        return taken

    taken = solve(max(float(losses.max()), 1e-300), budget)
    found = float(losses[taken].sum())
    return solve(found, budget) if found > 0 else taken
