"""The choice among candidates equals the best of all combinations."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsmith.errors import BudgetError
from convsmith.rewrite.candidates import Candidate, Layer
from convsmith.rewrite.choosing import Currency, cheapest, choose, worthwhile
from convsmith.rewrite.forms import KEEP


def candidate(rank: int, cost: int, loss: float, milliseconds: float = 0.0) -> Candidate:
    """``rank`` 0 is the layer itself."""
    return Candidate(
        form="spatial" if rank else KEEP,
        widths=(rank,) if rank else (),
        macs=cost,
        params=2 * cost,
        error=loss,
        loss=loss,
        milliseconds=milliseconds,
    )


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


LAYERS = [Layer(name="conv1", candidates=(candidate(0, 900, 0), candidate(4, 300, 0.1, 0.25)))]

IMPOSSIBLE: list[tuple[Currency, str, str]] = [
    ("macs", "multiply-accumulates", "400 (40.0% of the original)"),
    ("params", "parameters", "700 (36.8% of the original)"),
]


@pytest.mark.parametrize(("currency", "unit", "needs"), IMPOSSIBLE)
def test_a_budget_that_cannot_be_met_says_what_could(
    currency: Currency, unit: str, needs: str
) -> None:
    with pytest.raises(BudgetError) as raised:
        choose(LAYERS, currency, 120, 100)
    assert str(raised.value) == (
        f"the budget of 120 {unit} cannot be met: the cheapest rewrite needs {needs};"
        " allow more, or try more forms (strategy='thorough')."
    )


def test_large_counts_are_written_out() -> None:
    large = [Layer(name="conv1", candidates=(candidate(0, 4_106_240_001, 0),))]
    with pytest.raises(BudgetError, match=r"the budget of 2,053,120,000 multiply-accumulates can"):
        choose(large, "macs", 2_053_120_000, 0)


@given(instances(), st.floats(-10, 2))
def test_the_cheapest_within_a_loss_is_the_cheapest_of_all(
    layers: list[Layer], exponent: float
) -> None:
    """The other way round: the bound is on the loss."""
    most = 10**exponent
    inside = most * (1 - 1e-5)  # the solver's tolerance
    wanted = min(
        sum(c.macs for c in combination)
        for combination in itertools.product(*(layer.candidates for layer in layers))
        if math.fsum(c.loss for c in combination) <= inside
    )
    chosen = cheapest(layers, "macs", most)
    assert list(chosen) == [layer.name for layer in layers]
    assert math.fsum(c.loss for c in chosen.values()) <= most
    assert sum(c.macs for c in chosen.values()) <= wanted * (1 + 1e-9)


@given(instances(), st.data())
def test_a_candidate_that_is_not_faster_is_never_taken(
    layers: list[Layer], data: st.DataObject
) -> None:
    """Whatever its multiplications promise: time is what is paid with."""
    times = st.floats(0.1, 10)
    timed = [
        replace(
            layer,
            candidates=tuple(replace(c, milliseconds=data.draw(times)) for c in layer.candidates),
        )
        for layer in layers
    ]
    own = {layer.name: layer.kept.milliseconds for layer in timed}
    for layer in timed:
        assert all(
            c.milliseconds < own[layer.name]
            for c in worthwhile(layer, "milliseconds").candidates[1:]
        )
    budget = 0.9 * sum(own.values())
    least = sum(min(c.milliseconds for c in layer.candidates) for layer in timed)
    if least > budget * (1 + 1e-9):
        with pytest.raises(BudgetError, match="milliseconds cannot be met"):
            choose(timed, "milliseconds", budget, 0)
        return
    chosen = choose(timed, "milliseconds", budget, 0)
    assert math.fsum(c.milliseconds for c in chosen.values()) <= budget * (1 + 1e-9)
    for name, taken in chosen.items():
        assert taken.form == KEEP or taken.milliseconds < own[name]


def test_a_budget_for_everything_keeps_everything_even_where_a_rewrite_is_free() -> None:
    free = [Layer(name="conv1", candidates=(candidate(0, 9, 0), candidate(1, 3, 0)))]
    assert choose(free, "macs", 9, 0)["conv1"].form == KEEP


def test_no_layers_are_no_problem_until_the_rest_costs_too_much() -> None:
    assert choose([], "macs", 10, 10) == {}
    with pytest.raises(BudgetError, match=r"the cheapest rewrite needs 10 \(100\.0% of the origin"):
        choose([], "macs", 9, 10)
