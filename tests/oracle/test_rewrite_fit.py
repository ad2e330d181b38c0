"""Fitting the spatial form: against brute force, plain SVD and a slow optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize
from tests.random_weights import random_network, with_data

from convsmith.graph.evaluate import evaluate
from convsmith.parallel import one_blas_thread
from convsmith.rewrite import calibrate
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.candidates import replaceable, tabulate, weight_of
from convsmith.rewrite.fitting import Problem
from convsmith.rewrite.following import output_scale
from convsmith.rewrite.forms import FORMS, spatial
from convsmith.rewrite.rebuilding import correct_means, rebuild
from convsmith.rewrite.site import Site

Array = npt.NDArray[Any]

ORDERS = ["vertical-first", "horizontal-first"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a rewrite: the matrices are small."""
    with one_blas_thread():
        yield


def layer(
    seed: int, outs: int = 6, ins: int = 4, kernel: tuple[int, int] = (3, 3)
) -> tuple[Array, Array]:
    """A weight, and a covariance of inputs in which neighbours and channels correlate."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(outs, ins, *kernel)) + random.normal(size=(outs, ins, 1, 1))
    size = weight[0].size
    mixing = random.normal(size=(size, size)) * random.uniform(0.1, 2, size=size)
    return weight, mixing @ mixing.T / size


def distance(weight: Array, other: Array, covariance: Array) -> float:
    """``tr[(W - W') S (W - W')^T]``, by the definition."""
    apart = (weight - other).reshape(len(weight), -1)
    return float(np.trace(apart @ covariance @ apart.T))


def fitted(weight: Array, covariance: Array, order: str, rank: int, rounds: int) -> spatial.Factors:
    laid = spatial.Laid.of(Problem.of_layer(weight, covariance), order)
    return spatial.fit(laid, spatial.start(laid)[:rank], rounds=rounds)


def dense(factors: spatial.Factors, kernel: tuple[int, int], order: str) -> Array:
    """What a pair amounts to: ``sum_r H[o, r, w] V[r, i, h]``, or with both axes exchanged."""
    along = kernel[0] if order == "vertical-first" else kernel[1]
    rows = factors.first.reshape(len(factors.first), -1, along)
    made: Array = np.einsum("wor,rih->oihw", factors.second, rows)
    return made if order == "vertical-first" else made.swapaxes(2, 3)


def truncated_svd(weight: Array, rank: int, order: str) -> Array:
    """The best pair by the weights alone (Jaderberg et al. 2014, scheme 2)."""
    if order == "horizontal-first":
        return truncated_svd(weight.swapaxes(2, 3), rank, "vertical-first").swapaxes(2, 3)
    outs, ins, high, wide = weight.shape
    flat = weight.transpose(1, 2, 0, 3).reshape(ins * high, outs * wide)
    u, s, v = np.linalg.svd(flat, full_matrices=False)
    cut: Array = (u[:, :rank] * s[:rank]) @ v[:rank]
    return cut.reshape(ins, high, outs, wide).transpose(2, 0, 1, 3)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 5)])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_reported_error_is_that_of_the_pair(
    order: str, kernel: tuple[int, int], rank: int
) -> None:
    weight, covariance = layer(1, kernel=kernel)
    factors = fitted(weight, covariance, order, rank, rounds=3)
    assert factors.first.shape[0] == rank
    wanted = distance(weight, dense(factors, kernel, order), covariance)
    assert factors.error == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(4))
def test_rounds_never_make_it_worse_and_weights_alone_are_no_better(order: str, seed: int) -> None:
    weight, covariance = layer(seed)
    errors = [fitted(weight, covariance, order, 3, rounds).error for rounds in (0, 1, 2, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.99 * errors[0]
    assert errors[1] <= distance(weight, truncated_svd(weight, 3, order), covariance)


@pytest.mark.parametrize("order", ORDERS)
def test_with_plain_statistics_the_fit_is_the_truncated_svd(order: str) -> None:
    weight, _ = layer(5)
    for rank in (1, 2, 5):
        factors = fitted(weight, np.eye(weight[0].size), order, rank, rounds=2)
        np.testing.assert_allclose(
            dense(factors, (3, 3), order), truncated_svd(weight, rank, order), atol=1e-4
        )


@pytest.mark.parametrize("order", ORDERS)
def test_both_factors_are_optimal_for_each_other(order: str) -> None:
    """No small step in either factor helps: the normal equations hold."""
    weight, covariance = layer(2)
    laid = spatial.Laid.of(Problem.of_layer(weight, covariance), order)
    factors = spatial.fit(laid, spatial.start(laid)[:3], rounds=2000, iterations=200)
    random = np.random.default_rng(0)

    def error(first: Array, second: Array) -> float:
        moved = replace(factors, first=first, second=second)
        return distance(weight, dense(moved, (3, 3), order), covariance)

    least = error(factors.first, factors.second)
    for size in (1e-2, 1e-1):
        for _ in range(20):
            by_first = size * random.normal(size=factors.first.shape)
            by_second = size * random.normal(size=factors.second.shape)
            assert error(factors.first, factors.second + by_second) > least
            assert error(factors.first + by_first, factors.second) > least
    for scale in (1 - 1e-3, 1 + 1e-3):
        assert error(factors.first, factors.second * scale) > least


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_long_run_of_an_optimizer_finds_little_more(order: str, seed: int) -> None:
    weight, covariance = layer(seed, outs=3, ins=2)
    factors = fitted(weight, covariance, order, 2, rounds=100)
    split = factors.first.size

    def error(x: Array) -> tuple[float, Array]:
        first, second = (
            x[:split].reshape(factors.first.shape),
            x[split:].reshape(factors.second.shape),
        )
        made = dense(replace(factors, first=first, second=second), (3, 3), order)
        apart = (made - weight).reshape(len(weight), -1)
        slope = (2 * apart @ covariance).reshape(weight.shape)
        if order == "horizontal-first":
            slope = slope.swapaxes(2, 3)
        rows = first.reshape(len(first), -1, 3)
        gradient = np.concatenate(
            [
                np.einsum("oihw,wor->rih", slope, second).ravel(),
                np.einsum("oihw,rih->wor", slope, rows).ravel(),
            ]
        )
        return float(np.sum(apart @ covariance * apart)), gradient

    random = np.random.default_rng(seed)
    size = factors.first.size + factors.second.size
    best = min(
        minimize(error, random.normal(size=size), jac=True, method="L-BFGS-B",
                 options={"maxiter": 3000, "maxfun": 6000}).fun
        for _ in range(6)
    )  # fmt: skip
    assert best > 0
    assert factors.error <= 1.1 * best


def test_the_error_of_a_candidate_is_measured_by_running_it() -> None:
    """On the calibration data itself: mean squared error of the outputs over their variance."""
    net = random_network("3@12 > conv 8 3 p1 > relu > conv 8 5 p2", dtype="float64")
    x = np.random.default_rng(3).normal(1, 1, size=(4, 3, 12, 12))
    calibration = calibrate(net, [x])
    for found in tabulate(net, calibration.moments, replaceable(net)):
        node = net.by_name[found.name]
        wanted = evaluate(net, {"x": x})[node.name]
        assert found.kept.macs == Site.of(net, node).cost[0]
        assert {c.form for c in found.candidates} >= {"keep", "spatial", "channel", "tucker"}
        assert len(found.candidates) > 1
        for candidate in found.candidates[1:]:
            chain = correct_means(net, node, candidate, calibration.moments[node.name]).chain
            made = evaluate(replace_layers(net, {node.name: chain}), {"x": x})[node.name]
            variance = wanted.var(axis=(0, 2, 3)).sum()
            error = np.square(made - wanted).mean(axis=(0, 2, 3)).sum() / variance
            assert candidate.error == pytest.approx(error, rel=2e-3, abs=1e-6)
            np.testing.assert_allclose(
                made.mean(axis=(0, 2, 3)), wanted.mean(axis=(0, 2, 3)), atol=1e-9
            )


def test_widths_are_aligned_cheaper_than_the_layer_and_better_the_larger() -> None:
    net = random_network("16@8 > conv 32 3 p1")
    calibration = calibrate(net, [np.random.default_rng(0).normal(size=(4, 16, 8, 8))])
    (found,) = tabulate(net, calibration.moments, replaceable(net), forms=[FORMS["spatial"]])
    assert (found.kept.form, found.kept.widths) == ("keep", ())
    assert all(candidate.macs < found.kept.macs for candidate in found.candidates[1:])
    for variant in ORDERS:
        some = [candidate for candidate in found.candidates if candidate.variant == variant]
        assert [candidate.widths for candidate in some] == [(rank,) for rank in range(4, 32, 4)]
        errors = [candidate.error for candidate in some]
        assert errors == sorted(errors, reverse=True)


def test_errors_count_as_they_are_behind_a_batch_norm() -> None:
    net = random_network("2@8 > conv 4 3 > bn", dtype="float64")
    gain, variance = np.array([2.0, 0, -1, 1e-9]), np.array([4.0, 1, 1, 1])
    net = with_data(net, bn1__weight=gain, bn1__variance=variance)
    scale = output_scale(net, net.by_name["conv1"], 4)
    np.testing.assert_allclose(scale, [1, 1e-3, 1, 1e-3], rtol=1e-4)
    none = with_data(net, bn1__weight=np.zeros(4))
    assert output_scale(none, net.by_name["conv1"], 4).tolist() == [1, 1, 1, 1]


# What could break the numerics -------------------------------------------------------------

HARD = {
    "all-zero filters": lambda weight, covariance: (weight * 0, covariance),
    "one filter alone": lambda weight, covariance: (weight * [[[[1]]], *[[[[0]]]] * 5], covariance),
    "inputs that never change": lambda weight, covariance: (weight, covariance * 0),
    "three images": lambda weight, covariance: (weight, covariance[:, :3] @ covariance[:3]),
    "huge inputs": lambda weight, covariance: (weight, covariance * 1e12),
    "tiny weights": lambda weight, covariance: (weight * 1e-18, covariance),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", HARD)
def test_hard_cases_are_fitted_quietly(kind: str, order: str) -> None:
    weight, covariance = HARD[kind](*layer(7))
    factors = fitted(weight, covariance, order, 4, rounds=10)
    assert np.isfinite(factors.first).all()
    assert np.isfinite(factors.second).all()
    energy = distance(weight, weight * 0, covariance)
    assert distance(weight, dense(factors, (3, 3), order), covariance) <= energy * 0.5 + 1e-25


def test_errors_that_count_jointly_are_those_of_the_kernels() -> None:
    """Also of a form whose last layer cannot mix outputs, where every channel counts by itself."""
    net = random_network("8@10 > conv 8 3 p1", dtype="float64")
    (node,) = replaceable(net)
    random = np.random.default_rng(1)
    x = random.normal(size=(20, 8, 10, 10))
    calibration = calibrate(net, [x])
    factor = random.normal(size=(1, 8, 8))
    curved = factor @ factor.swapaxes(1, 2)
    damping = 0.01 * np.trace(curved[0]) / 8 * np.eye(8)
    site, covariance = Site.of(net, node), calibration.moments[node.name].covariance(0)
    forms = [form for form in FORMS.values() if not form.refusal(site)]
    made = tabulate(net, calibration.moments, [node], curved={node.name: curved}, forms=forms)[0]
    assert {"spatial", "channel", "grouped"} <= {one.form for one in made.candidates}
    for one in made.candidates[1:]:
        form = FORMS[one.form]
        alone = np.diag(curved[0].diagonal())
        counts = damping + (curved[0] if form.mixes(one.variant) else alone)
        flat = site.weight[0].reshape(8, -1)
        apart = flat - weight_of(site, form, one.variant, one.kernels)[0].reshape(8, -1)
        lost, whole = (np.trace(counts @ w @ covariance @ w.T) for w in (apart, flat))
        assert one.error == pytest.approx(lost / whole, rel=1e-3)
    chosen = {
        one.form + one.variant: one for one in made.candidates if one.form in ("grouped", "channel")
    }
    for one in chosen.values():
        fitted = rebuild(net, {node.name: one}, [{"x": x}], curved={node.name: curved})[node.name]
        got = evaluate(replace_layers(net, {node.name: fitted.chain}), {"x": x})[node.name]
        wanted = evaluate(net, {"x": x})[node.name]
        assert np.square(got - wanted).sum() < 0.6 * np.square(wanted).sum()
