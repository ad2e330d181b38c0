"""The choice among candidates equals the best of all combinations."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsmith.errors import BudgetError
from convsmith.rewrite.choosing import KEEP, Candidate, Currency, Layer, choose


def candidate(rank: int, cost: int, loss: float) -> Candidate:
    form = "spatial" if rank else KEEP
    return Candidate(form=form, rank=rank, macs=cost, params=2 * cost, error=loss, loss=loss)


@st.composite
def instances(draw: st.DrawFn) -> list[Layer]:
    """A few layers; losses spread over many orders of magnitude, as measured ones do."""
    made = []
    for index in range(draw(st.integers(1, 5))):
        dense = draw(st.integers(1, 1000))
        others = [
            candidate(rank, draw(st.integers(0, dense)), 10 ** draw(st.floats(-9, 1)))
            for rank in range(1, draw(st.integers(1, 6)))
        ]
        made.append(Layer(name=f"conv{index}", candidates=(candidate(0, dense, 0.0), *others)))
    return made


def best(layers: list[Layer], budget: float, fixed: int) -> float | None:
    """The least loss within the budget, by trying everything."""
    losses = [
        math.fsum(c.loss for c in combination)
        for combination in itertools.product(*(layer.candidates for layer in layers))
        if fixed + sum(c.macs for c in combination) <= budget
    ]
    return min(losses, default=None)


@given(instances(), st.floats(0, 1.1), st.integers(0, 500))
def test_the_choice_is_the_best_of_all(layers: list[Layer], share: float, fixed: int) -> None:
    dense = fixed + sum(layer.candidates[0].macs for layer in layers)
    budget = share * dense
    wanted = best(layers, budget, fixed)
    if wanted is None:
        with pytest.raises(BudgetError):
            choose(layers, "macs", budget, fixed)
        return
    chosen = choose(layers, "macs", budget, fixed)
    assert list(chosen) == [layer.name for layer in layers]
    assert fixed + sum(c.macs for c in chosen.values()) <= budget
    assert math.fsum(c.loss for c in chosen.values()) == pytest.approx(wanted, rel=1e-5, abs=1e-14)


@given(instances(), st.data())
def test_a_budget_that_is_met_to_the_last_one_is_used(
    layers: list[Layer], data: st.DataObject
) -> None:
    picked = [data.draw(st.sampled_from(layer.candidates)) for layer in layers]
    budget = sum(c.macs for c in picked)
    chosen = choose(layers, "macs", budget, 0)
    assert sum(c.macs for c in chosen.values()) <= budget
    assert math.fsum(c.loss for c in chosen.values()) <= math.fsum(c.loss for c in picked) * 1.00001


@given(st.integers(10**9, 10**12))
def test_large_costs_stay_within_the_budget_to_the_last_one(cost: int) -> None:
    layers = [
        Layer(name=name, candidates=(candidate(0, cost, 0), candidate(1, cost // 2, 0.1)))
        for name in ("one", "two")
    ]
    chosen = choose(layers, "macs", 2 * cost - 1, 0)
    assert sum(c.macs for c in chosen.values()) == cost + cost // 2


LAYERS = [Layer(name="conv1", candidates=(candidate(0, 900, 0), candidate(4, 300, 0.1)))]


@pytest.mark.parametrize(("currency", "text"), [("macs", "400"), ("params", "700")])
def test_a_budget_that_cannot_be_met_says_what_could(currency: Currency, text: str) -> None:
    share = {"macs": "40.0%", "params": "36.8%"}[currency]
    with pytest.raises(BudgetError) as raised:
        choose(LAYERS, currency, 120.5, 100)
    assert str(raised.value) == (
        f"the budget of 120 {currency} cannot be met: the cheapest rewrite needs {text}"
        f" ({share} of the original); allow more, or shrink what this form cannot replace."
    )


def test_a_budget_for_everything_keeps_everything_even_where_a_rewrite_is_free() -> None:
    free = [Layer(name="conv1", candidates=(candidate(0, 9, 0), candidate(1, 3, 0)))]
    assert choose(free, "macs", 9, 0)["conv1"].form == KEEP


def test_no_layers_are_no_problem_until_the_rest_costs_too_much() -> None:
    assert choose([], "macs", 10, 10) == {}
    with pytest.raises(BudgetError, match=r"the cheapest rewrite needs 10 \(100\.0% of the origin"):
        choose([], "macs", 9, 10)
