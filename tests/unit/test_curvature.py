"""How errors in a layer count at the output, against second derivatives by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import data_of, random_network, with_data

from convsmith.graph import Graph
from convsmith.graph.evaluate import apply, evaluate, node_arguments
from convsmith.rewrite import curvature
from convsmith.rewrite.candidates import replaceable
from convsmith.rewrite.curvature import curvatures
from convsmith.rewrite.following import Weighting, weighting_of
from convsmith.rewrite.site import Site

Array = npt.NDArray[Any]

CLASSES = random_network(
    "2@5 > conv 3 3 p1 > bn > relu > conv 4 3/2 > relu > flatten > fc 5", dtype="float64"
)
# Predictions that are not sure: rare classes would have to be drawn very often.
CLASSES = with_data(CLASSES, fc1__weight=0.2 * data_of(CLASSES, "fc1.weight"))
PICTURES = random_network("2@5 > conv 3 3 p1 > relu > deconv 2 2/2 > sigmoid", dtype="float64")
GROUPED = random_network("4@4 > conv 4 3 p1 g2 > relu > gap > flatten > fc 3", dtype="float64")


def images(net: Graph, count: int) -> Array:
    return np.random.default_rng(0).normal(size=(count, *net.inputs[0].shape[1:]))


def from_layer(net: Graph, name: str, x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """A layer's output, and the function from it to the network's output."""
    values = evaluate(net, {"x": x})
    start = net.nodes.index(net.by_name[name]) + 1

    def run(y: Array) -> Array:
        changed = {**values, name: y}
        for node in net.nodes[start:]:
            inputs, parameters = node_arguments(net, node, changed)
            changed.update(zip(node.outputs, apply(node.op, inputs, parameters), strict=True))
        return changed[net.outputs[0].value]

    return values[name], run


def jacobian(net: Graph, name: str, x: Array) -> tuple[Array, Array]:
    """The output, flat, and its derivatives by the layer's output: ``(outputs, *layer)``."""
    y, run = from_layer(net, name, x)
    columns = []
    for place in np.ndindex(*y.shape):
        step = np.zeros_like(y)
        step[place] = 1e-6
        columns.append((run(y + step) - run(y - step)).ravel() / 2e-6)
    return run(y).ravel(), np.stack(columns, axis=1).reshape(-1, *y.shape)


def expected(net: Graph, name: str, x: Array, kind: str) -> Array:
    """``sum_positions J^T M J`` per group, averaged over images, by the definition.

    ``M`` is the curvature of the loss by the output: that of the Kullback-Leibler divergence of a
    softmax, ``diag(p) - p p^T``; that of half the squared error, the identity.
    """
    site = Site.of(net, net.by_name[name])
    total = np.zeros((site.groups, site.outs, site.outs))
    for image in x:
        output, slopes = jacobian(net, name, image[None])
        if kind == "classes":
            likely = np.exp(output - output.max())
            likely /= likely.sum()
            metric = np.diag(likely) - np.outer(likely, likely)
        else:
            metric = np.eye(len(output))
        per_channel = slopes.reshape(len(output), site.groups, site.outs, -1)
        total += np.einsum("agop,ab,bgqp->goq", per_channel, metric, per_channel)
    return total / len(x)


CASES = {
    "classes": (CLASSES, "classes"),
    "images": (PICTURES, "images"),
    "groups": (GROUPED, "classes"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_curvature_of_the_loss(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn gradients have it as their covariance: the more are drawn, the nearer."""
    net, kind = CASES[case]
    x = images(net, 3)
    monkeypatch.setattr(curvature, "DRAWS", 1500)
    nodes = replaceable(net)
    found = curvatures(net, nodes, [{"x": x}], images=3)
    assert found.keys() == {node.name for node in nodes}
    for name, block in found.items():
        wanted = expected(net, name, x, kind)
        assert block.shape == wanted.shape
        assert np.abs(block - wanted).max() < 0.1 * np.abs(wanted).max(), name


def test_a_softmax_at_the_end_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, probabilities and their logarithms have the same divergence."""
    monkeypatch.setattr(curvature, "DRAWS", 200)
    made = []
    for end in ("", " > softmax"):
        net = random_network(f"2@4 > conv 3 3 > relu > flatten > fc 4{end}", dtype="float64")
        made.append(curvatures(net, replaceable(net), [{"x": images(net, 4)}], images=4))
    for name, block in made[0].items():
        np.testing.assert_allclose(block, made[1][name], rtol=1e-9, atol=1e-12)


def test_it_is_the_same_every_time_however_many_run_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = CLASSES, images(CLASSES, 6)
    nodes = replaceable(net)
    once, twice = (curvatures(net, nodes, [{"x": x}], images=6) for _ in range(2))
    for name, block in once.items():
        assert np.array_equal(block, twice[name])
        np.testing.assert_allclose(block, block.swapaxes(1, 2), atol=1e-12)
        assert np.linalg.eigvalsh(block).min() > -1e-12
    few = curvatures(net, nodes[:1], [{"x": x}], images=6)
    assert np.array_equal(few["conv1"], once["conv1"])  # the other layers do not matter


def test_some_positions_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the definition, over all positions, though few of each gradient are looked at."""
    net, x = PICTURES, images(PICTURES, 3)
    monkeypatch.setattr(curvature, "DRAWS", 1500)
    monkeypatch.setattr(curvature, "POSITIONS", 5)
    monkeypatch.setattr(curvature, "LEAST_ROWS", 0)
    found = curvatures(net, replaceable(net), [{"x": x}], images=3)
    for name, block in found.items():
        wanted = expected(net, name, x, "images")
        assert np.abs(block - wanted).max() < 0.1 * np.abs(wanted).max(), name


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
def test_how_large_gradients_are_does_not_matter(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squares of what single precision can hold would vanish or overflow there."""
    site = Site.of(CLASSES, CLASSES.by_name["conv1"])
    rows = np.random.default_rng(0).normal(size=(700, site.groups, site.outs))
    total = curvature._Sum(site)
    for part in np.split((rows * scale).astype(np.float32), 7):
        total.add(part)
    wanted = np.einsum("pgo,pgq->goq", rows, rows) * scale**2
    np.testing.assert_allclose(total.total(), wanted, rtol=1e-5, atol=1e-5 * 700 * scale**2)


def test_images_come_to_the_same_alone_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = replaceable(CLASSES)
    sample = {"x": images(CLASSES, 6)}
    together = curvatures(CLASSES, nodes, [sample], images=6)
    monkeypatch.setattr(curvature, "PIECE_BYTES", 1)
    for count in ("1", "4"):
        monkeypatch.setenv("CONVSMITH_THREADS", count)
        alone = curvatures(CLASSES, nodes, [sample], images=6)
        for name, block in together.items():
            np.testing.assert_allclose(alone[name], block, rtol=1e-9, atol=1e-12)


def test_images_are_taken_from_every_sample() -> None:
    x = images(CLASSES, 6)
    nodes = replaceable(CLASSES)
    spread = curvatures(CLASSES, nodes, [{"x": x[:5]}, {"x": x[5:]}], images=2)
    first = curvatures(CLASSES, nodes, [{"x": x[[0, 5]]}], images=2)
    assert spread.keys() == first.keys()
    told: list[tuple[str, int, int]] = []
    curvatures(CLASSES, nodes, [{"x": x}], images=4, progress=lambda *step: told.append(step))
    assert told[-1] == ("weighing errors", 4, 4)


def test_no_samples_no_curvature() -> None:
    assert curvatures(CLASSES, replaceable(CLASSES), [], images=8) == {}


# What is made of it ------------------------------------------------------------------------


def test_the_weighting_is_a_root_of_the_curvature() -> None:
    random = np.random.default_rng(0)
    factor = random.normal(size=(2, 5, 3))
    curved = factor @ factor.swapaxes(1, 2)  # of rank 3
    made = Weighting.of_curvature(curved)
    error = random.normal(size=5)
    for group in range(2):
        weighed = float(np.sum(made.applied(error[:, None], group) ** 2))
        bare = float(error @ curved[group] @ error)
        damping = 0.01 * np.trace(curved[group]) / 5 * float(error @ error)
        assert weighed == pytest.approx(bare + damping, rel=1e-9)
        np.testing.assert_allclose(
            made.undone(made.applied(np.eye(5), group), group), np.eye(5), atol=1e-8
        )


@pytest.mark.parametrize("curved", [None, np.full((1, 3, 3), np.nan), np.zeros((1, 3, 3))])
def test_without_a_usable_curvature_the_batch_norm_counts(curved: Array | None) -> None:
    net = with_data(CLASSES, bn1__weight=np.array([2.0, 0.5, 1.0]), bn1__variance=np.ones(3))
    node = net.by_name["conv1"]
    made = weighting_of(net, node, Site.of(net, node), curved)
    np.testing.assert_allclose(made.root[0], np.diag([2.0, 0.5, 1.0]), rtol=1e-4)
