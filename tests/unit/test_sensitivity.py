"""What one replaced layer does to the outputs, against the whole network run with it replaced."""

from __future__ import annotations

import numpy as np
import pytest
from tests.random_weights import random_network

from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import calibrate
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.candidates import replaceable, tabulate
from convsmith.rewrite.forms import named
from convsmith.rewrite.rebuilding import correct_means
from convsmith.rewrite.sensitivity import measure, output_loss

NETWORKS = {
    "classes": (
        "3@12 > conv 8 3 p1 > relu > ( conv 8 3 p1 > relu + - )"
        " > [ conv 6 3 p1 | maxpool 3/1 p1 ] > relu > gap > flatten > fc 5"
    ),
    "images": "2@14 > conv 8 3 p1 > relu > ( conv 8 3 p1 > relu + - ) > conv 2 3 p1",
}


@pytest.mark.parametrize("threads", ["1", "4"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_loss_is_that_of_the_network_with_the_layer_replaced(
    kind: str, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSMITH_THREADS", threads)
    net = random_network(NETWORKS[kind], dtype="float64")
    size = net.inputs[0].shape[1:]
    random = np.random.default_rng(0)
    batches = [random.normal(size=(count, *size)) for count in (3, 2)]
    seen = calibrate(net, batches)
    layers = tabulate(
        net, seen.moments, replaceable(net), curved={}, forms=named(["channel", "spatial"])
    )
    assert sum(len(layer.candidates) > 2 for layer in layers) >= 3

    found = measure(net, layers, seen.moments, seen.samples, probes=1000)

    for layer in found:
        brute = []
        ordered = sorted(layer.candidates[1:], key=lambda one: one.error)
        for one in ordered:
            fitted = correct_means(net, net.by_name[layer.name], one, seen.moments[layer.name])
            whole = replace_layers(net, {layer.name: fitted.chain})
            losses = []
            for batch in batches:
                before, after = (evaluate(graph, {"x": batch}) for graph in (net, whole))
                losses.append(
                    sum(
                        output_loss(net, old.value, before[old.value], after[new.value])
                        for old, new in zip(net.outputs, whole.outputs, strict=True)
                    )
                )
            brute.append(np.mean(losses))
        worst = np.maximum.accumulate(np.maximum(brute, 1e-12))
        np.testing.assert_allclose([one.loss for one in ordered], worst, rtol=1e-5, atol=1e-10)
