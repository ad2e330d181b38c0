"""What is done otherwise for wide windows, where steps are computed in float32: against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import linalg
from tests.random_weights import random_network

from convsmith.graph.evaluate import evaluate
from convsmith.parallel import limited_threads
from convsmith.rewrite import calibrate, candidates, fitting, rebuilding
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.candidates import replaceable, tabulate
from convsmith.rewrite.fitting import Problem, alternate, compose, product, solved
from convsmith.rewrite.following import Weighting
from convsmith.rewrite.forms import FORMS, named
from convsmith.rewrite.forms.channel import output_directions
from convsmith.rewrite.rebuilding import Fitted, correct_means, rebuild

Array = npt.NDArray[Any]


def layer(outs: int, ins: int, taps: int = 3, *, size: float = 1.0, seed: int = 0) -> Problem:
    """Weights, and correlated inputs of some size whose variances span a factor of 10,000."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(outs, ins, taps, taps)) + random.normal(size=(outs, ins, 1, 1))
    width = weight[0].size
    inputs = random.normal(size=(width, 2 * width)) @ np.diag(np.geomspace(1, 10, 2 * width))
    inputs[1:] += inputs[:-1]
    scale = np.geomspace(10, 0.1, width)[random.permutation(width), None]
    inputs *= scale * size
    return Problem.of_layer(weight, inputs @ inputs.T / inputs.shape[1])


def lost(problem: Problem, dense: Array) -> float:
    """``tr[(W - W') S (W - W')^T]``, by the definition."""
    apart = (problem.weight - dense).reshape(problem.outs, -1)
    return float(np.einsum("on,nm,om->", apart, problem.covariance, apart, optimize=True))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 100 numbers count as wide, so that the oracle is quick."""
    monkeypatch.setattr(fitting, "WIDE", 100)
    monkeypatch.setattr(fitting, "PANEL", 48)


def test_products_by_panels_are_products(narrow: None) -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(7, 30)), random.normal(size=(30, 200))
    stacked = random.normal(size=(2, 30, 101))
    for threads in (1, 3):
        with limited_threads(threads):
            np.testing.assert_allclose(product(first, second), first @ second, rtol=1e-12)
            np.testing.assert_allclose(product(first, stacked), first @ stacked, rtol=1e-12)
            np.testing.assert_allclose(product(first, second[:, :5]), first @ second[:, :5])
    matrix = second @ second.T
    found = solved(linalg.cho_factor(matrix), second.T)
    np.testing.assert_allclose(found @ matrix, second.T, atol=1e-9)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_the_error_is_that_of_the_definition(narrow: None, size: float) -> None:
    problem = layer(8, 12, size=size)
    assert problem.working is np.float32
    random = np.random.default_rng(1)
    for share in (1.0, 1e-2, 1e-4):
        dense = problem.weight + share * random.normal(size=problem.weight.shape)
        assert problem.error(dense) == pytest.approx(lost(problem, dense), rel=1e-4)
    assert problem.error(problem.weight) <= 1e-9 * problem.energy


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(("outs", "ins", "rank"), [(16, 12, 4), (16, 12, 24), (4, 14, 10)])
@pytest.mark.parametrize("form", ["spatial", "channel"])
def test_float32_fits_as_well_as_float64(
    monkeypatch: pytest.MonkeyPatch, form: str, outs: int, ins: int, rank: int, size: float
) -> None:
    """Ranks below and above the number of outputs: the two ways to apply the operator."""
    for variant in ("vertical-first", "horizontal-first") if form == "spatial" else (
        "window-first", "channels-first",
    ):  # fmt: skip
        found = []
        for wide in (100, 10_000):
            monkeypatch.setattr(fitting, "WIDE", wide)
            problem = layer(outs, ins, size=size)
            width = rank if form == "spatial" else min(rank, outs - 1, ins - 1)
            kernels = FORMS[form].fitter(problem, variant).fit((width,), rounds=4)
            made = FORMS[form].weight(kernels, problem.weight.shape, variant)
            found.append(lost(problem, made) / problem.energy)
        single, double = found
        assert single == pytest.approx(double, rel=1e-2)
        assert 0 < single < 1


def test_the_two_ways_to_apply_the_spatial_operator_agree(narrow: None) -> None:
    """With as many outputs as it takes, one is used; with their energies in one, the other."""
    problem = layer(6, 12)
    more = Problem(
        weight=np.concatenate([problem.weight, np.zeros((60, 12, 3, 3))]),
        covariance=problem.covariance,
        target=np.concatenate([problem.target, np.zeros((60, 108))]),
        energy=problem.energy,
    )
    few, many = (
        FORMS["spatial"].fitter(one, "vertical-first").fit((12,), rounds=2)
        for one in (problem, more)
    )
    shapes = problem.weight.shape, more.weight.shape
    one, two = (
        FORMS["spatial"].weight(kernels, shape, "vertical-first")
        for kernels, shape in zip((few, many), shapes, strict=True)
    )
    assert lost(problem, one) == pytest.approx(lost(problem, two[:6]), rel=1e-2)
    assert np.abs(two[6:]).max() < 1e-5


def test_the_last_kernel_of_a_chain_is_solved_for_exactly() -> None:
    """Against least squares with a design matrix that is written out."""
    problem = layer(4, 5)
    random = np.random.default_rng(3)
    root = np.linalg.cholesky(problem.covariance)
    for front, window in (((3, 5, 1, 1), (3, 3)), ((3, 5, 2, 3), (2, 1)), ((3, 5, 3, 1), (1, 3))):
        first = random.normal(size=front)
        columns = []
        for index in range(3 * window[0] * window[1]):
            unit = np.zeros(3 * window[0] * window[1])
            unit[index] = 1
            made = compose(first, unit.reshape(1, 3, *window))
            columns.append(made.reshape(-1) @ root)
        wanted = (problem.weight.reshape(4, -1) @ root).T
        best = np.linalg.lstsq(np.stack(columns).T, wanted, rcond=None)[0].T
        start = (first, random.normal(size=(4, 3, *window)))
        solution, error = fitting._solve(problem, start, 1, None, 4)
        assert error == pytest.approx(lost(problem, compose(first, solution)), rel=1e-6)
        np.testing.assert_allclose(solution.reshape(4, -1), best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 9])
def test_the_first_kernel_is_seen_the_same_in_both_ways(
    narrow: None, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Few channels by their covariance with the layer's windows, many by what the outputs are."""
    problem = layer(6, 12)
    random = np.random.default_rng(5)
    start = (random.normal(size=(count, 12, 1, 1)), random.normal(size=(6, count, 3, 3)))
    place = fitting._Place(
        shape=start[0].shape, front=None, behind=start[1], problem=problem
    )  # fmt: skip
    short = fitting._narrow(place)
    assert (short is None) == (count == 9)
    if short is not None:
        value = random.normal(size=start[0].shape)
        wanted = place.back(place.forth(value) @ problem.scaled)
        np.testing.assert_allclose(short(value), wanted, rtol=1e-4, atol=1e-4 * wanted.max())
    found = []
    for _ in range(2):
        kernel, _ = fitting._solve(problem, start, 0, None, 8)
        found.append(lost(problem, compose(kernel, start[1])))
        monkeypatch.setattr(fitting, "_narrow", lambda place: None)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_a_chain_improves_from_round_to_round() -> None:
    problem = layer(6, 8)
    random = np.random.default_rng(4)
    start = (random.normal(size=(3, 8, 1, 1)), random.normal(size=(6, 3, 3, 3)))
    errors = [
        lost(problem, compose(*alternate(problem, start, rounds=rounds, enough=0)))
        for rounds in (1, 2, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_outputs_of_few_inputs_have_the_same_principal_components() -> None:
    problem = layer(40, 2)
    assert problem.outs > 18
    found = output_directions(problem)
    np.testing.assert_allclose(found.T @ found, np.eye(40), atol=1e-10)
    flat = problem.weight.reshape(40, -1)
    values, vectors = np.linalg.eigh(flat @ problem.covariance @ flat.T)
    for rank in (1, 5, 17):
        best = vectors[:, ::-1][:, :rank]
        np.testing.assert_allclose(
            found[:, :rank] @ found[:, :rank].T, best @ best.T, atol=1e-6 * values[-1]
        )


def test_fits_of_a_layer_share_its_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_network("3@10 > conv 8 3 p1 > conv 8 3 p1 g2", dtype="float64")
    x = np.random.default_rng(0).normal(size=(6, *net.inputs[0].shape[1:]))
    moments = calibrate(net, [x]).moments
    seen: list[tuple[str, int]] = []
    made = candidates.group_problem

    def counted(site: Any, found: Any, counts: Weighting, group: int) -> Problem:
        seen.append((site.name, group))
        return made(site, found, counts, group)

    monkeypatch.setattr(candidates, "group_problem", counted)
    tables = []
    for threads in (1, 4):
        seen.clear()
        with limited_threads(threads):
            tables.append(tabulate(net, moments, replaceable(net), forms=named(["spatial"])))
        assert seen.count(("conv1", 0)) == 1
    for one, four in zip(*tables, strict=True):
        assert len(one.candidates) > 1
        for mine, its in zip(one.candidates, four.candidates, strict=True):
            assert mine.error == its.error
            assert all(map(np.array_equal, mine.kernels, its.kernels))


@pytest.mark.parametrize(("form", "variant", "rank"), [
    ("spatial", "horizontal-first", 6), ("channel", "window-first", 6),
    ("channel", "channels-first", 4), ("grouped", "mixing-in-front", 2),
])  # fmt: skip
def test_wide_layers_are_rebuilt(
    monkeypatch: pytest.MonkeyPatch, form: str, variant: str, rank: int
) -> None:
    """In fewer rounds: better than as tabulated, as it says, the same on any number of threads."""
    for module in (fitting, rebuilding):
        monkeypatch.setattr(module, "WIDE", 60)
    monkeypatch.setattr(fitting, "PANEL", 48)
    net = random_network("12@12 > conv 12 3 p1 > relu > conv 16 3 p1 > relu > conv 8 3 p1")
    x = np.random.default_rng(0).normal(size=(8, 12, 12, 12)).astype(np.float32)
    calibration = calibrate(net, [x[:5], x[5:]])
    layers = tabulate(
        net, calibration.moments, replaceable(net), forms=named([form]), variant=variant,
        widths=(rank, 12) if form == "grouped" else (rank,),
    )  # fmt: skip
    chosen = {layer.name: layer.candidates[-1] for layer in layers}
    assert all(one.form == form for one in chosen.values())
    made = []
    for threads in (1, 4):
        with limited_threads(threads):
            made.append(rebuild(net, chosen, calibration.samples))
    fitted = made[0]
    for name, one in fitted.items():
        assert one.variant == variant
        for step, other in zip(one.chain, made[1][name].chain, strict=True):
            assert all(map(np.array_equal, step.parameters, other.parameters))
    alone = {
        name: correct_means(net, net.by_name[name], one, calibration.moments[name])
        for name, one in chosen.items()
    }
    last = list(fitted)[-1]  # no ReLU is behind it, so its error is what counts

    def values(fits: dict[str, Fitted]) -> Array:
        chains = {name: fit.chain for name, fit in fits.items()}
        return evaluate(replace_layers(net, chains), {net.inputs[0].name: x})[last]

    wanted = values({})
    lost, lost_alone = (np.square(values(fits) - wanted).sum() for fits in (fitted, alone))
    assert lost < lost_alone
    varying = wanted - wanted.mean(axis=(0, 2, 3), keepdims=True)
    assert fitted[last].error == pytest.approx(lost / np.square(varying).sum(), rel=1e-3)
