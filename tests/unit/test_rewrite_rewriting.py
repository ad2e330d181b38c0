"""The whole rewrite: budgets, refusals, messages and the published JSON."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import random_network, with_data

import convsmith as cs
from convsmith.analysis import analyze
from convsmith.errors import BudgetError, ConvsmithError, DataError, UsageError
from convsmith.graph import Graph, Output, parse
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import Calibration, Plan

Array = npt.NDArray[Any]

NET = replace(
    random_network("4@10 > conv 16 3 p1 > bn > relu > conv 16 3 p1 > relu > conv 8 1 > gap > fc 5"),
    source="small.onnx",
)
X = np.random.default_rng(0).normal(size=(8, 4, 10, 10)).astype(np.float32)
CALIBRATION = cs.calibrate(NET, [X[:5], X[5:]])


def run(net: Graph, x: Array = X) -> Array:
    return evaluate(net, {net.inputs[0].name: x})[net.outputs[0].value]


# Budgets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.45, 0.6, 0.8, 0.99])
@pytest.mark.parametrize("currency", ["macs", "params"])
def test_the_budget_is_kept(currency: str, share: float) -> None:
    budget: dict[str, Any] = {currency: share}
    made = cs.rewrite(NET, calibration=CALIBRATION, strategy="fast", **budget)
    assert getattr(made.before, currency) == getattr(analyze(NET).total, currency)
    assert getattr(made.after, currency) == getattr(analyze(made.net).total, currency)
    assert getattr(made.after, currency) <= share * getattr(made.before, currency)
    total = made.before.macs - sum(c.macs_before - c.macs_after for c in made.plan.choices)
    assert total == made.after.macs
    assert made.plan.budget == budget
    assert made.plan.source == "small.onnx"


def test_more_budget_loses_less() -> None:
    lost = []
    for share in (0.3, 0.5, 0.7, 1.0):
        made = cs.rewrite(NET, macs=share, calibration=CALIBRATION, exclude=["fc1"])
        found = made.verification
        assert found is not None
        lost.append(found.outputs[0].relative)
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] == 0


def test_a_number_above_one_counts() -> None:
    total = analyze(NET).total.macs
    by_share, by_count = (
        cs.rewrite(NET, macs=macs, calibration=CALIBRATION, strategy="fast")
        for macs in (0.6, round(0.6 * total))
    )
    assert by_share.plan.choices == by_count.plan.choices
    assert cs.rewrite(NET, macs=total, calibration=CALIBRATION).net is NET
    assert cs.rewrite(NET, macs=10 * total, calibration=CALIBRATION).net is NET


def test_the_whole_budget_keeps_everything_without_any_work() -> None:
    with warnings.catch_warnings():  # no calibration is needed to change nothing
        warnings.simplefilter("error")
        made = cs.rewrite(NET, macs=1.0)
    assert made.net is NET
    assert {choice.form for choice in made.plan.choices} == {"keep"}
    assert made.before == made.after


def test_nothing_can_be_replaced() -> None:
    net = random_network("1@10 > conv 8 1 > relu > dw 1x3 p0x1 > deconv 4 2/2 g4 > relu")
    assert cs.rewrite(net, macs=1.0).net is net
    with (
        pytest.warns(UserWarning, match="no calibration data"),
        pytest.raises(BudgetError, match=r"the cheapest rewrite needs .* \(100\.0% of the orig"),
    ):
        cs.rewrite(net, macs=0.9)


@pytest.mark.parametrize("share", [0, -0.5, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("currency", ["macs", "params"])
def test_what_is_no_budget(currency: str, share: float) -> None:
    budget: dict[str, Any] = {currency: share}
    with pytest.raises(BudgetError) as raised:
        cs.rewrite(NET, calibration=CALIBRATION, **budget)
    assert str(raised.value) == (
        f"{currency}={share} is no budget; give a share such as 0.5, or a number of them."
    )


PLAN = Plan(source="", budget={}, choices=())
NEEDED = "a rewrite needs exactly one of macs=, params=, latency=, max_loss= and plan="
ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({}, f"{NEEDED}; such as macs=0.5."),
    ({"macs": 0.5, "params": 0.5}, f"{NEEDED}, not macs and params; such as macs=0.5."),
    ({"plan": PLAN, "macs": 0.5}, f"{NEEDED}, not macs and plan; such as macs=0.5."),
    ({"latency": 0.5, "max_loss": 1.0}, f"{NEEDED}, not latency and max_loss; such as macs=0.5."),
]


@pytest.mark.parametrize(("arguments", "text"), ARGUMENTS)
def test_exactly_one_wish(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        cs.rewrite(NET, calibration=CALIBRATION, **arguments)
    assert str(raised.value) == text


# Without data, with other data -------------------------------------------------------------


def test_without_data_the_weights_are_approximated_and_a_warning_says_so() -> None:
    text = "no calibration data: the weights alone are approximated, which loses much more"
    with pytest.warns(UserWarning, match=f"^{text}$") as caught:
        made = cs.rewrite(NET, macs=0.6)
    assert caught[0].filename == __file__
    assert made.verification is None
    assert made.after.macs <= 0.6 * made.before.macs
    assert run(made.net).shape == run(NET).shape


def test_sums_without_samples_are_enough() -> None:
    made = cs.rewrite(NET, macs=0.6, calibration=replace(CALIBRATION, samples=()))
    assert made.verification is None
    with pytest.warns(UserWarning, match="no calibration data"):
        blind = cs.rewrite(NET, macs=0.6)
    lost, more = (np.square(run(n) - run(NET)).mean() for n in (made.net, blind.net))
    assert lost < more


def other(**changes: Any) -> Calibration:
    return replace(CALIBRATION, **changes)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "another network": (
        lambda: cs.rewrite(NET, macs=0.6, calibration=other(moments={})),
        "conv1: the calibration has no statistics of this layer; calibrate this very network.",
    ),
    "a layer of another size": (
        lambda: cs.rewrite(
            NET,
            macs=0.6,
            calibration=other(
                moments={**CALIBRATION.moments, "conv2": CALIBRATION.moments["conv1"]}
            ),
        ),
        (
            "conv2: the calibration saw 1 windows of 36 numbers, the layer has 1 of 144;"
            " calibrate this very network."
        ),
    ),
    "other samples": (
        lambda: cs.rewrite(
            NET, macs=0.6, calibration=other(samples=({"x": np.ones((1, 3, 9, 9))},))
        ),
        (
            "calibration sample 1: input 'x' has shape (1, 3, 9, 9),"
            " the network takes (1, 4, 10, 10);"
            " only the number of images and their size may differ."
        ),
    ),
    "NaN in the weights": (
        lambda: cs.rewrite(
            with_data(NET, conv2__bias=np.full(16, np.inf)), macs=0.6, calibration=CALIBRATION
        ),
        (
            "conv2: its tensor 'conv2.bias' holds NaN or infinity;"
            " load the weights of a network that was trained to the end."
        ),
    ),
    "NaN in a layer behind": (
        lambda: cs.rewrite(
            with_data(NET, fc1__bias=np.full(5, np.nan)), macs=0.6, calibration=CALIBRATION
        ),
        (
            "fc1: its tensor 'fc1.bias' holds NaN or infinity;"
            " load the weights of a network that was trained to the end."
        ),
    ),
    "NaN between the layers": (
        lambda: cs.rewrite(
            with_data(NET, bn1__mean=np.full(16, np.nan)), macs=0.6, calibration=CALIBRATION
        ),
        (
            "bn1: its tensor 'bn1.mean' holds NaN or infinity;"
            " load the weights of a network that was trained to the end."
        ),
    ),
    "NaN in the statistics": (
        lambda: cs.rewrite(
            NET,
            macs=0.6,
            calibration=other(
                moments={
                    name: replace(some, second=some.second * np.nan) if name == "conv2" else some
                    for name, some in CALIBRATION.moments.items()
                }
            ),
        ),
        "conv2: the calibration's statistics of this layer hold NaN or infinity; calibrate again.",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_belong_together_is_named(kind: str) -> None:
    call, text = WRONG[kind]
    with pytest.raises(DataError) as raised:
        call()
    assert str(raised.value) == text


def test_a_network_without_weights_has_nothing_to_fit() -> None:
    net = parse("3@8 > conv 8 3 p1")
    assert cs.rewrite(net, macs=1.0).net is net
    with pytest.warns(UserWarning, match="no calib"), pytest.raises(BudgetError, match="cannot"):
        cs.rewrite(net, macs=0.5)


# Networks of many kinds --------------------------------------------------------------------

KINDS = {
    "the layer is the first": "4@10 > conv 16 3 p1 > relu > conv 4 1",
    "the layer is the last": "4@10 > conv 8 1 > relu > conv 16 3 p1",
    "the layer is all": "6@10 > conv 16 3",
    "dilation, stride and uneven padding": "4@20 > conv 16 3/2 d2 p1,2,0,3 > relu > conv 16 5x3",
    "SAME padding": "4@11 > conv 16 3/2 psame > relu > conv 16 5/2 psame-lower",
    "groups, depthwise and transposed beside it": "8@10 > conv 8 3 p1 g2 > conv 16 3 p1 > dw 3 p1"
    " > deconv 8 2/2 > conv 16 3",
    "skips and concatenation": "8@10 > ( conv 8 3 p1 > bn > relu > conv 8 3 p1 > bn + - ) x2 > relu"
    " > [ conv 8 3 p1 | conv 8 1 | maxpool 3/1 p1 ] > conv 8 3 p1",
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_many_kinds(kind: str, dtype: str) -> None:
    net = random_network(KINDS[kind], dtype=dtype, seed=2)
    x = np.random.default_rng(1).normal(size=(6, *net.inputs[0].shape[1:])).astype(np.float32)
    strategy: Any = "thorough" if dtype == "float32" else "fast"
    made = cs.rewrite(net, macs=0.75, calibration=cs.calibrate(net, [x]), strategy=strategy)
    assert made.after.macs <= 0.75 * made.before.macs
    replaced = {choice.layer for choice in made.plan.choices if choice.form != "keep"}
    assert replaced
    stood_for = {node.provenance.replaces for node in made.net.nodes} - {""}
    assert stood_for == replaced
    assert made.net.outputs == net.outputs
    assert made.net.shapes[net.outputs[0].value] == net.shapes[net.outputs[0].value]
    for name, constant in made.net.constants.items():
        assert constant.dtype == dtype, name
    assert made.verification is not None
    assert made.verification.field_kept
    assert 0 < made.verification.outputs[0].relative < 0.7
    assert made.verification.layers.keys() == replaced


def test_an_output_in_the_middle_stays() -> None:
    net = random_network("4@10 > conv 16 3 p1 > relu > conv 16 3 p1")
    net = replace(net, outputs=(*net.outputs, Output(name="features", value="conv1")))
    x = X.astype(np.float64)
    made = cs.rewrite(net, macs=0.6, calibration=cs.calibrate(net, [x]))
    assert [output.name for output in made.net.outputs] == ["y", "features"]
    assert "conv1" in {node.name for node in made.net.nodes}
    assert made.verification is not None
    assert [output.name for output in made.verification.outputs] == ["y", "features"]


def test_one_sample_of_a_deep_network() -> None:
    net = random_network("4@8 > ( conv 8 3 p1 > relu > conv 4 3 p1 ) x12")
    calibration = cs.calibrate(net, [X[:1, :, :8, :8]])
    made = cs.rewrite(net, macs=0.6, calibration=calibration, strategy="fast")
    assert np.isfinite(run(made.net, X[1:2, :, :8, :8])).all()


def test_the_original_stays_as_it_is() -> None:
    before = {name: np.array(constant.data) for name, constant in NET.constants.items()}
    listing = str(NET)
    cs.rewrite(NET, macs=0.5, calibration=CALIBRATION)
    assert str(NET) == listing
    for name, constant in NET.constants.items():
        assert np.array_equal(np.asarray(constant.data), before[name])


def test_weights_that_are_not_learnable_stay_so() -> None:
    constants = {name: replace(c, learnable=False) for name, c in NET.constants.items()}
    net = replace(NET, constants=constants)
    made = cs.rewrite(net, macs=0.6, calibration=CALIBRATION)
    assert made.after.params == made.before.params == 0


def test_a_rewritten_network_can_be_rewritten_again() -> None:
    once = cs.rewrite(NET, macs=0.9, calibration=CALIBRATION, strategy="fast").net
    twice = cs.rewrite(once, macs=0.9, calibration=cs.calibrate(once, [X]), strategy="fast")
    assert twice.after.macs <= 0.9 * twice.before.macs


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    cs.rewrite(NET, macs=0.6, calibration=CALIBRATION, progress=lambda *step: told.append(step))
    assert list(dict.fromkeys(what for what, _, _ in told)) == [
        "weighing errors", "fitting candidates", "measuring sensitivity", "rebuilding",
        "verifying",
    ]  # fmt: skip
    assert all(done <= total for _, done, total in told if total)


# What is published -------------------------------------------------------------------------


def test_the_json_is_the_published_one() -> None:
    made = cs.rewrite(NET, macs=0.6, calibration=CALIBRATION)
    content = json.loads(made.to_json())
    assert content["schema"] == "convsmith.rewrite/1"
    assert list(content) == [
        "schema", "plan", "before", "after", "layers", "milliseconds", "verification", "notes",
    ]  # fmt: skip
    assert content["milliseconds"] == {}
    assert content["notes"] == []
    for side, total in (("before", made.before), ("after", made.after)):
        assert content[side] == {
            "params": total.params,
            "macs": total.macs,
            "milliseconds": None,
            "metric": None,
        }
    assert [layer["name"] for layer in content["layers"]] == [
        "conv1", "conv2", "conv3", "fc1",
    ]  # fmt: skip
    for layer in content["layers"]:
        assert list(layer) == ["name", "form", "text", "macs_before", "macs_after", "error"]
    assert content["plan"]["schema"] == "convsmith.plan/2"
    assert content["verification"]["images"] == 8


def test_the_package_is_the_function() -> None:
    assert list(inspect.signature(cs.rewrite).parameters) == [
        "net", "macs", "params", "latency", "max_loss", "plan", "calibration", "strategy",
        "forms", "only", "exclude", "nonlinearity", "merge", "measure", "progress",
    ]  # fmt: skip
    code = (
        "import convsmith.rewrite.statistics\n"
        "import convsmith as cs\n"
        "from convsmith.rewrite import calibrate, Plan\n"
        "assert calibrate is convsmith.rewrite.calibrate\n"
        "net = cs.load('3@8 > conv 8 3 p1')\n"
        "print(cs.rewrite(net, macs=1.0).net is net, convsmith.rewrite(net, macs=1e9).net is net)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_errors_are_of_one_family() -> None:
    with pytest.raises(ConvsmithError) as raised:
        cs.rewrite(NET, macs=0.01, calibration=CALIBRATION)
    assert isinstance(raised.value, BudgetError)
    assert str(raised.value).startswith("small.onnx: the budget of 3,")
