"""Rules on random networks of every operator: they answer, name what exists, and bounds hold."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_notation_round_trip import graphs
from tests.random_fields import moving, networks, positive, resampling, transposed, windows

from convsmith.errors import ConvsmithError
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.linting import Findings, lint
from convsmith.linting.ranges import ranges
from convsmith.report import render


def check(net: Graph, found: Findings) -> None:
    known = {*net.shapes, *net.by_name}
    for finding in found.findings:
        assert finding.layer in known
        assert finding.message
        assert not finding.message.endswith(".")
        assert "\0" not in finding.message
        assert finding.remedy.endswith(".")
    for form in ("text", "markdown", "csv", "html", "github"):
        assert isinstance(render(found, form), str)
    json.loads(render(found, "sarif"))


@settings(max_examples=150)
@given(graphs())
def test_every_operator_gets_an_answer(net: Graph) -> None:
    check(net, lint(net, select="all", object_size=5))


@settings(max_examples=150)
@given(networks(st.one_of(windows(), transposed(), resampling(), moving())))
def test_networks_with_weights_get_an_answer(net: Graph) -> None:
    net = positive(net)
    check(net, lint(net, select="all", anchors={net.nodes[-1].name: 8} if net.nodes else None))


@settings(max_examples=100)
@given(networks(st.one_of(windows(), transposed(), resampling(), moving())))
def test_bounds_hold_on_random_networks(net: Graph) -> None:
    net = positive(net)
    bounds = ranges(net)
    random = np.random.default_rng(0)
    inputs = {value.name: random.normal(size=value.shape) for value in net.inputs}
    try:
        values = evaluate(net, inputs)
    except ConvsmithError:  # an operator without a reference evaluation
        return
    for name, value in values.items():
        low, high = bounds[name]
        finite = value[np.isfinite(value)]
        assert ((finite >= low - 1e-9) & (finite <= high + 1e-9)).all(), name
