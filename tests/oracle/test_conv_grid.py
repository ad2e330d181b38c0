"""Every algorithm on random convolutions against torch in float64, and against its reference.

``CONVSMITH_CONV_EXAMPLES`` sets how many convolutions each algorithm is tried on at each vector
width; compiling is what takes the time.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tests.random_convolutions import Data, data_for, error_of, specs_for, truth

from convsmith.conv import plan as planning
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.plan import ConvPlan, candidates, plan_with
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import WIDTHS, host

EXAMPLES = int(os.environ.get("CONVSMITH_CONV_EXAMPLES", "6"))

TRIED: dict[tuple[str, int], int] = {}
"""How many convolutions each algorithm took, so that a test that tries nothing is noticed."""


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "workspace_poison", float("nan"))


def sees_everything(plan: ConvPlan, data: Data) -> None:
    """Runs a plan on one thread and on several, alone and on no image; compares all."""
    prepared = plan.prepare(data.weights, data.bias)
    one = prepared(data.x, residual=data.residual, members=1)
    assert error_of(plan, data, one) <= 1, plan
    out = np.full(one.shape, np.nan, np.float32)
    assert prepared(data.x, out, residual=data.residual, members=3) is out
    assert out.tobytes() == one.tobytes(), f"other bits on three threads: {plan}"
    first = None if data.residual is None else data.residual[:1]
    for batch in (0, 1):
        part = None if first is None else first[:batch]
        if len(data.x) >= batch:
            y = prepared(data.x[:batch], residual=part)
            assert y.tobytes() == one[:batch].tobytes(), f"other bits for {batch} images: {plan}"


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_compiled_convolution_is_that_of_torch(algorithm: str, lanes: int) -> None:
    target = host().with_lanes(lanes)

    @settings(
        max_examples=EXAMPLES,
        phases=(Phase.generate, Phase.shrink) if EXAMPLES > 100 else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(spec=specs_for(algorithm), choose=st.data())
    def matches(spec: ConvSpec, choose: st.DataObject) -> None:
        possible = [p for p in candidates(spec, target=target) if p.algorithm == algorithm]
        assume(possible)
        made = choose.draw(st.sampled_from(possible))
        sees_everything(made, data_for(spec))
        TRIED[algorithm, lanes] = TRIED.get((algorithm, lanes), 0) + 1

    matches()
    assert TRIED[algorithm, lanes] >= EXAMPLES // 2


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_the_reference_is_the_convolution(algorithm: str) -> None:
    method = ALGORITHMS[algorithm]

    @settings(
        max_examples=2 * EXAMPLES, phases=(Phase.generate,), suppress_health_check=list(HealthCheck)
    )
    @given(spec=specs_for(algorithm), choose=st.data())
    def matches(spec: ConvSpec, choose: st.DataObject) -> None:
        plain = replace(spec, bias=False, residual=False, activation="none")
        possible = [p for p in candidates(plain) if p.algorithm == algorithm]
        assume(possible and spec.batch)
        made = choose.draw(st.sampled_from(possible))
        data = data_for(plain)
        x, w = data.x.astype(np.float64), data.weights.astype(np.float64)
        error = np.abs(method.reference(plain, x, w, made.tiling) - truth(plain, data)).max()
        size = truth(plain, data, sums=True).max()
        assert error <= 16 * made.error_ratio * 2.0**-53 * size, made

    matches()


def spec_of_tails(**changes: object) -> ConvSpec:
    spec = ConvSpec(
        size=(9, 11), channels=5, filters=7, kernel=(3, 3), padding=((1, 1), (1, 1)), batch=2
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_one_wrong_weight_turns_the_comparison_red(algorithm: str) -> None:
    made, data = plan_with(spec_of_tails(), algorithm), data_for(spec_of_tails())
    assert error_of(made, data, made.prepare(data.weights, data.bias)(data.x)) <= 1
    wrong = data.weights.copy()
    wrong[3, 2, 1, 0] *= 1.001
    assert error_of(made, data, made.prepare(wrong, data.bias)(data.x)) > 1
    shifted = np.roll(data.x, 1, axis=-1)
    assert error_of(made, data, made.prepare(data.weights, data.bias)(shifted)) > 1


def test_what_is_never_written_turns_the_comparison_red() -> None:
    made, data = plan_with(spec_of_tails(), "direct"), data_for(spec_of_tails())
    y = made.prepare(data.weights, data.bias)(data.x)
    y[0, 0, 0, 0] = np.nan
    assert error_of(made, data, y) > 1


def test_a_whole_large_layer() -> None:
    spec = ConvSpec(
        size=(56, 56), channels=64, filters=64, kernel=(3, 3), padding=((1, 1), (1, 1)),
        activation="relu",
    )  # fmt: skip
    data = data_for(spec)
    for made in candidates(spec):
        y = made.prepare(data.weights, data.bias)(data.x)
        assert error_of(made, data, y) <= 1, made
