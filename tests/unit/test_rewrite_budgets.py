"""Budgets that are measured - time and loss - and which layers and forms a rewrite may touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import data_of, random_network, with_data

import convsmith as cs
from convsmith.errors import BudgetError, UsageError
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Conv, Linear
from convsmith.graph.shape import Shape, infer_shapes
from convsmith.rewrite import Rewriting, job, rewriting
from convsmith.rewrite.site import LayerOp, cost
from convsmith.runtime.timing import Timing

Array = npt.NDArray[Any]

NET = random_network(
    "6@8 > conv 16 3 p1 > bn > relu > conv 16 5 p2 > relu > conv 16 3 p1 g2 > relu > gap"
    " > flatten > fc 12"
)
X = np.random.default_rng(0).normal(size=(10, 6, 8, 8)).astype(np.float32)
CALIBRATION = cs.calibrate(NET, [X])


def changed(made: Rewriting) -> dict[str, str]:
    """The form of every layer that is not as it was."""
    return {c.layer: c.form for c in made.plan.choices if c.form != "keep"}


# Time --------------------------------------------------------------------------------------


class Clock:
    """Time by a formula: multiplications, a price per layer, and 1 x N windows that are slow."""

    def __init__(self, threads: int | None = None, *, overhead: float = 1.0) -> None:
        self.overhead = overhead

    def chain(self, ops: Sequence[LayerOp], x: Shape) -> float:
        total = 0.0
        for op in ops:
            macs = cost((op,), x)[0]
            wide = isinstance(op, Conv) and op.kernel[-1] > 1 and max(op.kernel[:-1]) == 1
            total += macs / 1e4 * (10 if wide else 1) + 0.2
            x = self._after(op, x)
        return total

    def network(self, net: Graph) -> float:
        total = 0.0
        for node in net.nodes:
            if isinstance(node.op, Conv | Linear):
                total += self.chain([node.op], net.shape(node.inputs[0]))
        return 0.5 + self.overhead * total

    @staticmethod
    def _after(op: LayerOp, x: Shape) -> Shape:
        y = infer_shapes(op, x)[0]
        assert y is not None
        return y


def fake_times(
    before: Graph, after: Graph, runtimes: Sequence[str], *_: object, **__: object
) -> Mapping[str, Mapping[str, Timing]]:
    clock = Clock()
    return {
        name: {
            which: Timing(
                samples=(clock.network(net),) * 3, engine=name, version="1", threads=1, shapes={}
            )
            for which, net in (("before", before), ("after", after))
        }
        for name in runtimes
    }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(job, "Stopwatch", Clock)
    monkeypatch.setattr(rewriting, "side_by_side", fake_times)
    return Clock()


@pytest.mark.parametrize("share", [0.55, 0.8])
def test_the_time_is_kept(clock: Clock, share: float) -> None:
    made = cs.rewrite(NET, latency=share, calibration=CALIBRATION, strategy="fast")
    assert clock.network(made.net) <= share * clock.network(NET) * 1.02
    assert made.plan.budget == {"latency": share}
    assert made.speedups["convsmith"] >= 0.98 / share
    assert not any("faster" in note or "asked" in note for note in made.notes)


def test_milliseconds_may_be_given(clock: Clock) -> None:
    wanted = 0.7 * clock.network(NET)
    made = cs.rewrite(NET, latency=wanted, calibration=CALIBRATION, strategy="fast")
    assert clock.network(made.net) <= wanted * 1.02


def test_what_is_taken_was_measured_and_is_faster(clock: Clock) -> None:
    made = cs.rewrite(NET, latency=0.6, calibration=CALIBRATION, strategy="fast")
    assert changed(made)
    for choice in made.plan.choices:
        before, after = choice.milliseconds
        node = NET.by_name[choice.layer]
        x = NET.shape(node.inputs[0])
        assert isinstance(node.op, Conv | Linear)
        assert before == pytest.approx(clock.chain([node.op], x))
        if choice.form != "keep":
            assert after < before
            ops = [step.op for step in choice.chain]
            assert after == pytest.approx(clock.chain(ops, x))
        # Two thin windows save multiplications and, on this clock, no time.
        assert choice.form != "spatial"
    by_count = cs.rewrite(NET, macs=0.6, calibration=CALIBRATION, strategy="fast")
    assert "spatial" in changed(by_count).values()


def test_a_time_that_cannot_be_met_is_refused(clock: Clock) -> None:
    with pytest.raises(BudgetError, match="milliseconds cannot be met: the cheapest"):
        cs.rewrite(NET, latency=0.05, calibration=CALIBRATION, strategy="fast")


@pytest.mark.parametrize("latency", [0, -1, float("nan"), float("inf")])
def test_what_is_no_time(clock: Clock, latency: float) -> None:
    with pytest.raises(BudgetError, match=f"milliseconds={latency} is no budget"):
        cs.rewrite(NET, latency=latency, calibration=CALIBRATION, strategy="fast")


def test_a_network_that_is_slower_than_its_layers_is_said(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for is checked on the whole network, and tried again."""
    tries = []
    true = job.Job._confirmed

    def counted(self: Any, table: Any, budget: float, *rest: Any) -> Any:
        tries.append(budget)
        return true(self, table, budget, *rest)

    class Contrary(Clock):
        def network(self, net: Graph) -> float:
            true = super().network(NET)
            return true if net is NET else 0.95 * true

    monkeypatch.setattr(job.Job, "_confirmed", counted)
    monkeypatch.setattr(job, "Stopwatch", Contrary)
    made = cs.rewrite(NET, latency=0.9, calibration=CALIBRATION, strategy="fast")
    assert len(tries) == job.ATTEMPTS
    assert tries == sorted(tries, reverse=True)
    assert "that were asked for: layers take longer together" in made.notes[-1]


def test_what_is_not_faster_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(before: Graph, after: Graph, runtimes: Sequence[str], **_: object) -> Any:
        found = fake_times(before, before, runtimes)
        times = {"before": 2.0, "after": 4.0}
        return {
            name: {
                which: Timing(
                    samples=(times[which],) * 3, engine="", version="", threads=1, shapes={}
                )
                for which in both
            }
            for name, both in found.items()
        }

    monkeypatch.setattr(rewriting, "side_by_side", slower)
    options: Any = {"calibration": CALIBRATION, "strategy": "fast"}
    made = cs.rewrite(NET, macs=0.6, measure=["convsmith", "onnxruntime"], **options)
    assert made.speedups == {"convsmith": 0.5, "onnxruntime": 0.5}
    assert made.notes[-1].startswith(
        "it is not faster in convsmith and onnxruntime (0.50x, 0.50x), so it is no improvement"
    )
    assert made.to_dict()["milliseconds"]["onnxruntime"] == {"before": 2.0, "after": 4.0}
    assert made.to_dict()["before"]["milliseconds"] == 2.0


# Loss --------------------------------------------------------------------------------------


def divergence(one: Array, two: Array) -> float:
    """Of the softmax, in nats, by the definition."""

    def log_softmax(x: Array) -> Array:
        x = x.astype(np.float64)
        x = x - x.max(axis=1, keepdims=True)
        return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))

    first, second = log_softmax(one), log_softmax(two)
    return float((np.exp(first) * (first - second)).sum(axis=1).mean())


def test_the_loss_stays_within_the_bound_and_uses_it() -> None:
    weights = 0.03 * data_of(NET, "fc1.weight")  # predictions that are not sure
    net = with_data(NET, fc1__weight=weights)
    calibration = cs.calibrate(net, [X])
    outputs = evaluate(net, {"x": X})["fc1"]
    macs, losses = [], []
    for most in (1e-5, 1e-4):
        made = cs.rewrite(net, max_loss=most, calibration=calibration, strategy="fast")
        lost = divergence(outputs, evaluate(made.net, {"x": X})["fc1"])
        assert lost <= most
        assert made.plan.budget == {"max_loss": most}
        macs.append(made.after.macs)
        losses.append(lost)
    assert macs[1] < macs[0] < made.before.macs
    assert losses[0] > 0.2 * 1e-5  # near the bound: the candidates come in steps


def test_a_bound_that_allows_nothing_changes_nothing() -> None:
    made = cs.rewrite(NET, max_loss=1e-13, calibration=CALIBRATION, strategy="fast")
    assert changed(made) == {}
    assert made.net is NET


@pytest.mark.parametrize("most", [0, -1, float("nan"), float("inf")])
def test_what_is_no_bound(most: float) -> None:
    with pytest.raises(UsageError) as raised:
        cs.rewrite(NET, max_loss=most, calibration=CALIBRATION, strategy="fast")
    assert str(raised.value) == f"max_loss={most} is no bound; give a number such as 0.01."


def test_a_bound_needs_samples() -> None:
    with (
        pytest.warns(UserWarning, match="no calibration data"),
        pytest.raises(UsageError, match=r"max_loss= needs calibration samples to measure"),
    ):
        cs.rewrite(NET, max_loss=0.1, strategy="fast")


# Which layers, which forms -----------------------------------------------------------------

FAST: Any = {"calibration": CALIBRATION, "strategy": "fast"}


def test_only_these_layers() -> None:
    made = cs.rewrite(NET, macs=0.8, only=["conv2", "fc1"], **FAST)
    assert set(changed(made)) == {"conv2"}
    assert made.after.macs <= 0.8 * made.before.macs


def test_all_but_these_layers() -> None:
    made = cs.rewrite(NET, macs=0.92, exclude=["conv2"], calibration=CALIBRATION)
    assert "conv2" not in changed(made)  # not even refitted
    assert set(changed(made)) & {"conv1", "conv3"}


@pytest.mark.parametrize("argument", ["only", "exclude"])
def test_a_layer_that_there_is_not(argument: str) -> None:
    names: Any = {argument: ["conv1", "conv9"]}
    with pytest.raises(UsageError) as raised:
        cs.rewrite(NET, macs=0.8, **FAST, **names)
    assert str(raised.value) == (
        "conv9: the network has no layer of this name; convsmith analyze lists the layers."
    )


def test_a_budget_that_the_allowed_layers_cannot_meet() -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        cs.rewrite(NET, macs=0.3, only=["conv1"], **FAST)


@pytest.mark.parametrize(
    "form",
    ["spatial", "stack", "channel", "tucker", "depthwise_separable", "cp", "grouped", "dilated"],
)
def test_only_these_forms(form: str) -> None:
    made = cs.rewrite(NET, macs=0.9, forms=[form], only=["conv2"], **FAST)
    assert set(changed(made).values()) == {form}


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ({"forms": ["svd"]}, "there is no form 'svd'; choose from spatial, stack,"),
        ({"strategy": "slow"}, "there is no strategy 'slow'; choose fast or thorough."),
    ],
)
def test_names_that_there_are_not(argument: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as raised:
        cs.rewrite(NET, macs=0.9, **{"calibration": CALIBRATION, **argument})
    assert str(raised.value).startswith(text)


def test_layers_that_keep_their_size_make_up_for_what_was_lost() -> None:
    """Refitted layers behind a coarse one lose less than untouched ones."""
    net = random_network("6@8 > conv 16 3 p1 > conv 16 3 p1 > relu > conv 8 3 p1")
    random = np.random.default_rng(5)
    many = random.normal(size=(60, 6, 8, 8)).astype(np.float32)
    calibration = cs.calibrate(net, [many])
    options: Any = {"macs": 0.85, "forms": ["channel"], "calibration": calibration}
    made = cs.rewrite(net, **options, only=["conv1", "conv2", "conv3"])
    assert "refit" in changed(made).values()
    unfitted = cs.rewrite(net, **options, strategy="fast")
    assert "refit" not in changed(unfitted).values()
    fresh = random.normal(size=(20, 6, 8, 8)).astype(np.float32)
    y = net.outputs[0].value
    wanted = evaluate(net, {"x": fresh})[y]
    for choice in made.plan.choices:
        if choice.form == "refit":
            assert choice.macs_after == choice.macs_before
    lost = float(np.square(evaluate(made.net, {"x": fresh})[y] - wanted).mean())
    dropped = [c for c in made.plan.choices if c.form == "refit"]
    without = cs.apply(
        type(made.plan)(
            source="",
            budget={},
            choices=tuple(c for c in made.plan.choices if c not in dropped),
        ),
        net,
    )
    more = float(np.square(evaluate(without, {"x": fresh})[y] - wanted).mean())
    assert lost < more


def test_few_images_do_not_refit_weights_to_themselves() -> None:
    """A layer with fewer windows than numbers gets a bias that keeps its mean, and no weights."""
    net = random_network("6@8 > conv 24 3 p1 > relu > gap > flatten > fc 12")
    calibration = cs.calibrate(net, [X])  # ten windows of 24 numbers reach the last layer
    made = cs.rewrite(net, macs=0.6, calibration=calibration)
    assert changed(made)["fc1"] in ("refit", "keep")
    assert np.array_equal(data_of(made.net, "fc1.weight"), data_of(net, "fc1.weight"))
    assert any("fewer windows" in note for note in made.notes)


# Data that is hard -------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fast", "thorough"])
@pytest.mark.parametrize(
    "kind", ["zero filters", "one dead channel", "constant images", "one image"]
)
def test_hard_networks_are_rewritten(kind: str, strategy: Any) -> None:
    net, x = NET, X
    if kind == "zero filters":
        net = with_data(net, conv2__weight=np.zeros((16, 16, 5, 5), np.float32))
    elif kind == "one dead channel":
        net = with_data(net, bn1__weight=np.array([0.0, *[1.0] * 15], np.float32),
                        bn1__bias=np.array([-1.0, *[0.1] * 15], np.float32))  # fmt: skip
    elif kind == "constant images":
        x = np.full_like(X, 0.25)
    else:
        x = X[:1]
    calibration = cs.calibrate(net, [x])
    made = cs.rewrite(net, macs=0.7, calibration=calibration, strategy=strategy)
    assert made.after.macs <= 0.7 * made.before.macs
    for constant in made.net.constants.values():
        assert np.isfinite(np.asarray(constant.data)).all()
    wanted, got = (evaluate(graph, {"x": x})["fc1"] for graph in (net, made.net))
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() <= 0.5 * max(float(np.abs(wanted).max()), 1e-6)
