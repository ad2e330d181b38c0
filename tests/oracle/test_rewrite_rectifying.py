"""Targets that a ReLU cannot tell apart: the closed form against trying all values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import data_of, random_network

from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import calibrate, rebuilding
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.candidates import replaceable, tabulate
from convsmith.rewrite.forms import FORMS
from convsmith.rewrite.rebuilding import rebuild
from convsmith.rewrite.rectifying import RELAXATIONS, Rectifier, rectifier

Array = npt.NDArray[Any]


def tried(wanted: Array, fit: Array, relaxation: float) -> Array:
    """The ``z`` of least ``(r(y) - r(z))^2 + l (z - y')^2`` on a fine grid, element by element."""
    grid = np.linspace(-20, 20, 40001)
    cost = np.square(wanted[:, None] - np.maximum(grid, 0))
    cost += relaxation * np.square(grid - fit[:, None])
    best: Array = grid[cost.argmin(axis=1)]
    return best


@pytest.mark.parametrize("relaxation", sorted(set(RELAXATIONS)))
def test_the_closed_form_is_the_best_of_all_values(relaxation: float) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(300, 3)), random.normal(size=(300, 2))
    weight, bias = random.normal(size=(2, 3)), random.normal(size=2)
    behind = Rectifier(gain=np.array([1.5, -0.5]), offset=np.array([0.2, 0.0]))
    step = behind.step([(x[:100], y[:100]), (x[100:], y[100:])], weight, bias, relaxation)

    fit = behind.gain * (x @ weight.T + bias) + behind.offset
    wanted = np.maximum(behind.gain * y + behind.offset, 0)
    best = np.stack([tried(wanted[:, c], fit[:, c], relaxation) for c in (0, 1)], axis=1)
    change = (best - behind.offset) / behind.gain - y
    assert step.loss == pytest.approx(np.square(wanted - np.maximum(fit, 0)).sum() / 300, rel=1e-5)
    np.testing.assert_allclose(step.mean, change.mean(axis=0), atol=1e-3)
    cross = (change - change.mean(axis=0)).T @ (x - x.mean(axis=0)) / 300
    np.testing.assert_allclose(step.cross, cross, atol=1e-3)


def test_channels_without_gain_are_left_alone() -> None:
    random = np.random.default_rng(0)
    behind = Rectifier(gain=np.array([1.0, 0.0]), offset=np.array([0.0, -1.0]))
    samples = [(random.normal(size=(50, 3)), random.normal(size=(50, 2)))]
    step = behind.step(samples, random.normal(size=(2, 3)), np.zeros(2), 0.1)
    assert step.mean[1] == 0
    assert not step.cross[1].any()
    assert step.cross[0].any()


@pytest.mark.parametrize("norm", ["bn > ", ""])
def test_what_reaches_the_relu_is_what_the_network_computes(norm: str) -> None:
    net = random_network(f"2@6 > conv 4 3 > {norm}relu", dtype="float64")
    behind = rectifier(net, net.by_name["conv1"])
    assert behind is not None
    values = evaluate(net, {"x": np.random.default_rng(1).normal(size=(2, 2, 6, 6))})
    column = (1, -1, 1, 1)
    made = behind.gain.reshape(column) * values["conv1"] + behind.offset.reshape(column)
    if norm:  # its epsilon apart
        np.testing.assert_allclose(made, values["bn1"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.maximum(made, 0), values["relu1"], rtol=1e-9, atol=1e-9)
    assert data_of(net, "conv1.weight").shape == (4, 2, 3, 3)


@pytest.mark.parametrize(
    "notation",
    ["2@6 > conv 4 3 > sigmoid", "2@6 > conv 4 3", "4@6 > ( conv 4 3 p1 + - ) > relu",
     "2@6 > conv 4 3 > [ relu | - ]"],
)  # fmt: skip
def test_only_a_relu_that_alone_reads_the_layer_counts(notation: str) -> None:
    net = random_network(notation)
    assert rectifier(net, net.by_name["conv1"]) is None


def behind_relu(net: Graph, refined: bool) -> float:
    """What the rebuild loses behind the ReLU."""
    x = np.random.default_rng(2).normal(size=(16, 4, 10, 10))
    calibration = calibrate(net, [x])
    layers = tabulate(
        net, calibration.moments, replaceable(net), forms=[FORMS["spatial"]], widths=(3,)
    )
    with pytest.MonkeyPatch.context() as patch:
        if not refined:
            patch.setattr(rebuilding, "rectifier", lambda net, node: None)
        fitted = rebuild(net, {made.name: made.candidates[-1] for made in layers}, [{"x": x}])
    after = replace_layers(net, {name: made.chain for name, made in fitted.items()})
    wanted, got = (evaluate(graph, {"x": x})[net.outputs[0].value] for graph in (net, after))
    return float(np.square(got - wanted).mean())


@pytest.mark.parametrize("norm", ["bn > ", ""])
def test_knowing_the_relu_loses_less_behind_it(norm: str) -> None:
    net = random_network(f"4@10 > conv 12 3 p1 > {norm}relu", dtype="float64", seed=3)
    assert behind_relu(net, refined=True) < 0.97 * behind_relu(net, refined=False)
