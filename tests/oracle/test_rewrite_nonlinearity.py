"""A ReLU between the layers of a stack, lifted so that it changes nothing until it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convsmith as cs
from convsmith.errors import UsageError
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Activation
from convsmith.rewrite import Plan, Rewriting


def setting() -> tuple[nn.Module, Any, np.ndarray]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.Sigmoid(),
        nn.Conv2d(16, 16, 7, padding=3, stride=2, groups=2),
    ).eval()
    x = np.random.default_rng(0).normal(size=(6, 3, 14, 14)).astype(np.float32)
    net = cs.load(module, (1, 3, 14, 14))
    return module, net, x


def made(net: Any, x: np.ndarray, **options: Any) -> Rewriting:
    calibration = cs.calibrate(net, [x])
    return cs.rewrite(net, macs=0.85, calibration=calibration, forms=["stack"], **options)


def test_it_computes_what_it_did_on_the_calibration_samples(tmp_path: Path) -> None:
    module, net, x = setting()
    plain, lifted = made(net, x), made(net, x, nonlinearity="relu")
    changed = [choice for choice in lifted.plan.choices if choice.form == "stack"]
    assert changed
    assert all("> relu >" in choice.text for choice in changed)
    kinds = [node.op.kind for node in lifted.net.nodes if isinstance(node.op, Activation)]
    assert kinds.count("relu") == sum(len(choice.chain) - 1 for choice in changed)
    one, two = (evaluate(made.net, {net.inputs[0].name: x}) for made in (plain, lifted))
    value = net.outputs[0].value
    np.testing.assert_allclose(two[value], one[value], atol=1e-5)

    trained = cs.apply(lifted.plan, module)
    assert sum(isinstance(part, nn.ReLU) for part in trained.modules()) == kinds.count("relu")
    with torch.inference_mode():
        np.testing.assert_allclose(trained(torch.from_numpy(x)), two[value], atol=1e-5)

    lifted.plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert cs.apply(again, net) == lifted.net


def test_far_outside_of_the_samples_it_cuts_off() -> None:
    _, net, x = setting()
    plain, lifted = made(net, x), made(net, x, nonlinearity="relu")
    value = net.outputs[0].value
    one, two = (evaluate(made.net, {net.inputs[0].name: 20 * x}) for made in (plain, lifted))
    assert np.abs(one[value] - two[value]).max() > 1e-3


def test_what_makes_no_sense_is_named() -> None:
    _, net, x = setting()
    with pytest.raises(UsageError, match="there is no 'gelu' between layers"):
        made(net, x, nonlinearity="gelu")
    with pytest.raises(UsageError, match="needs calibration samples"):
        cs.rewrite(net, macs=0.85, forms=["stack"], nonlinearity="relu")
