"""The choice of one candidate per layer: the least loss at a cost, or the least cost at a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from convsmith.errors import BudgetError
from convsmith.rewrite.candidates import Candidate, Layer

__all__ = ["Currency", "cheapest", "choose", "cost_of", "worthwhile"]

Array = npt.NDArray[Any]
Currency = Literal["macs", "params", "milliseconds"]

UNITS: dict[Currency, str] = {
    "macs": "multiply-accumulates",
    "params": "parameters",
    "milliseconds": "milliseconds",
}


def cost_of(candidate: Candidate, currency: Currency) -> float:
    """What a candidate costs."""
    return float(getattr(candidate, currency))


def worthwhile(layer: Layer, currency: Currency) -> Layer:
    """The layer without candidates that another one beats in loss at no higher cost.

    Candidates that cost as much as the layer itself go too: slower ones, where time is measured.
    """
    kept: list[Candidate] = []
    own = cost_of(layer.kept, currency)
    for one in sorted(layer.candidates[1:], key=lambda c: (cost_of(c, currency), c.loss)):
        if cost_of(one, currency) >= own:
            break
        if not kept or one.loss < kept[-1].loss:
            kept.append(one)
    return replace(layer, candidates=(layer.kept, *kept))


def choose(
    layers: Sequence[Layer], currency: Currency, budget: float, fixed: float
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

    >>> keep = Candidate(form="keep", macs=9, params=9, error=0.0, loss=0.0)
    >>> thin = Candidate(form="spatial", widths=(1,), macs=4, params=4, error=0.1, loss=0.1)
    >>> choose([Layer(name="conv1", candidates=(keep, thin))], "macs", 5, fixed=1)["conv1"].widths
    (1,)
    """
    dense = fixed + sum(cost_of(layer.kept, currency) for layer in layers)
    if dense <= budget:
        return {layer.name: layer.kept for layer in layers}
    layers = [worthwhile(layer, currency) for layer in layers]
    least = fixed + sum(min(cost_of(c, currency) for c in layer.candidates) for layer in layers)
    if least > budget:
        raise BudgetError(
            f"the budget of {_amount(budget, currency)} {UNITS[currency]} cannot be met: the"
            f" cheapest rewrite needs {_amount(least, currency)} ({least / dense:.1%} of the"
            " original)",
            remedy="allow more, or try more forms (strategy='thorough')",
        )
    pairs, costs, losses, member = _columns(layers, currency)
    taken = _knapsack(losses, costs, member, budget - fixed)
    return {name: candidate for (name, candidate), t in zip(pairs, taken, strict=True) if t}


def _amount(cost: float, currency: Currency) -> str:
    """A cost for reading: counts to the last one."""
    return f"{cost:,.4g}" if currency == "milliseconds" else f"{cost:,.0f}"


def cheapest(layers: Sequence[Layer], currency: Currency, most: float) -> dict[str, Candidate]:
    """Picks one candidate per layer: least total cost at a predicted loss of at most ``most``.

    >>> keep = Candidate(form="keep", macs=9, params=9, error=0.0, loss=0.0)
    >>> thin = Candidate(form="spatial", widths=(1,), macs=4, params=4, error=0.1, loss=0.1)
    >>> layer = Layer(name="conv1", candidates=(keep, thin))
    >>> [cheapest([layer], "macs", most)["conv1"].form for most in (0.05, 0.1)]
    ['keep', 'spatial']
    """
    # Without what loses too much by itself, so that the solver's tolerance is one of the bound.
    within = [
        replace(layer, candidates=tuple(c for c in layer.candidates if c.loss <= most))
        for layer in (worthwhile(layer, currency) for layer in layers)
    ]
    pairs, costs, losses, member = _columns(within, currency)
    if not len(pairs):
        return {}
    unit = max(float(costs.max()), 1e-300)
    taken = _knapsack(costs / unit, losses, member, most)
    return {name: candidate for (name, candidate), t in zip(pairs, taken, strict=True) if t}


def _columns(
    layers: Sequence[Layer], currency: Currency
) -> tuple[list[tuple[str, Candidate]], Array, Array, Array]:
    """Every candidate of every layer as a column of the problem."""
    pairs = [(layer.name, candidate) for layer in layers for candidate in layer.candidates]
    costs = np.array([cost_of(candidate, currency) for _, candidate in pairs])
    losses = np.array([candidate.loss for _, candidate in pairs])
    member = np.zeros((len(layers), len(pairs)))
    column = 0
    for row, layer in enumerate(layers):
        member[row, column : column + len(layer.candidates)] = 1
        column += len(layer.candidates)
    return pairs, costs, losses, member


def _knapsack(losses: Array, costs: Array, member: Array, budget: float) -> Array:
    """Which of the candidates to take: one per row of ``member``, at a cost within the budget.

    The solver's gap is absolute, so the problem is solved once to learn the size of the optimum,
    and again in that unit. Its tolerance too: a choice that is over the budget by less than a
    millionth of the dearest candidate is solved for again with that much less to spend.
    """
    dearest = max(float(costs.max()), 1e-300)

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
