"""Rewrites that merge first: as graphs, as modules and as files, the same network everywhere."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from tests.networks import run
from tests.random_weights import random_network
from torch import Tensor, nn

import convsmith as cs
from convsmith.errors import BudgetError, DataError, PlanError, UsageError
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import Plan, Rewriting, job, rewriting, task
from convsmith.rewrite.measuring import Stopwatch
from convsmith.rewrite.plan_difference import compare_plans
from convsmith.rewrite.sweeping import sweep
from convsmith.rewrite.task import carried_over

Array = npt.NDArray[Any]
X = np.random.default_rng(0).normal(size=(12, 4, 11, 9)).astype(np.float32)


class Plain(nn.Module):
    """Norms in front of and behind layers, two layers in a row, a skip: no forward in the way."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 12, 3, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.one = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12))
        self.two = nn.Conv2d(12, 12, (3, 5), padding=(2, 2), dilation=(2, 1))
        self.wide = nn.Conv2d(12, 24, 3, stride=2)
        self.thin = nn.Conv2d(24, 6, 1)
        self.up = nn.ConvTranspose2d(6, 8, 3, 2, 1, output_padding=1, bias=False)
        self.up_norm = nn.BatchNorm2d(8, affine=False)
        self.fc = nn.Linear(8, 10, bias=False)
        self.fc_norm = nn.BatchNorm1d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.before(x))).relu()
        x = (x + self.two(self.one(x).relu())).relu()
        x = self.up_norm(self.up(self.thin(self.wide(x)).relu())).relu()
        y: Tensor = self.fc_norm(self.fc(x.mean((2, 3))))
        return y


class Branches(nn.Module):
    """Two summed branches, as RepVGG has them, behind a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 10, 5, padding=2), nn.BatchNorm2d(10))
        self.dense = nn.Sequential(nn.Conv2d(10, 10, 3, padding=1), nn.BatchNorm2d(10))
        self.point = nn.Conv2d(10, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y: Tensor = (self.dense(x) + self.point(x) + x).relu().mean((2, 3))
        return y


def trained(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3)
        elif tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim():
            tensor.normal_(0, tensor[0].numel() ** -0.5)
    return module.eval()


Case = tuple[nn.Module, Graph, Rewriting]


def rewritten(module: nn.Module, merge: Any, **options: Any) -> Case:
    net = cs.load(module, X[:1].shape)
    options = {"macs": 0.6, "strategy": "fast", **options}
    made = cs.rewrite(net, calibration=cs.calibrate(net, [X]), merge=merge, **options)
    return module, net, made


@pytest.fixture(scope="module")
def plain() -> Case:
    return rewritten(trained(Plain()), merge=True)


@pytest.fixture(scope="module")
def branches() -> Case:
    return rewritten(trained(Branches()), merge=True, macs=0.5)


def values(net: Graph, x: Array = X) -> Array:
    return evaluate(net, {net.inputs[0].name: x})[net.outputs[0].value]


def close(made: Array, wanted: Array, tolerance: float = 1e-5) -> None:
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made, wanted, atol=tolerance * np.abs(wanted).max(), rtol=0)


# The same network everywhere -----------------------------------------------------------------


def test_budgets_costs_and_losses_are_of_the_network_as_it_was(plain: Case) -> None:
    module, net, made = plain
    merged = cs.merge(net)
    kinds = [step.kind for step in made.plan.merges]
    assert made.plan.merges == merged.merges
    assert set(kinds) >= {"norm", "serial"}
    assert made.original is net
    assert made.before == cs.analyze(net).total
    assert merged.after.macs < made.before.macs  # so the two budgets are not the same
    assert 0.4 * made.before.macs < made.after.macs <= 0.6 * made.before.macs
    assert made.plan.budget == {"macs": 0.6}
    assert {choice.layer for choice in made.plan.choices} <= set(merged.net.by_name)
    found = made.verification
    assert found is not None
    difference = values(made.net) - run(module, X)
    wanted = np.sqrt((difference**2).mean() / run(module, X).var())
    assert found.outputs[0].relative == pytest.approx(wanted, rel=2e-2)
    assert found.outputs[0].largest == pytest.approx(np.abs(difference).max(), rel=1e-3)
    assert found.field_kept


def test_a_plan_is_applied_to_the_original_graph(plain: Case, branches: Case) -> None:
    for _, net, made in (plain, branches):
        assert cs.apply(made.plan, net) == made.net
        same = [c.data for c in cs.apply(made.plan, net).constants.values()]
        for one, two in zip(same, (c.data for c in made.net.constants.values()), strict=True):
            assert np.array_equal(one, two)  # type: ignore[arg-type]


def test_a_plan_is_applied_to_the_original_module(plain: Case) -> None:
    module, _, made = plain
    before = copy.deepcopy(module.state_dict())
    found = cs.apply(made.plan, module)
    assert type(found) is Plain
    close(run(found, X), values(made.net))
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    again = cs.analyze(cs.load(found, X[:1].shape)).total
    assert (again.macs, again.params) == (made.after.macs, made.after.params)
    found.train()
    found(torch.from_numpy(X)).sum().backward()  # ready to fine-tune
    assert all(p.grad is not None for p in found.parameters())
    wrapped = cs.apply(made.plan, nn.DataParallel(module))
    close(run(wrapped, X), values(made.net))


def test_what_a_forward_sums_up_stays_its_own(branches: Case) -> None:
    module, net, made = branches
    assert {step.kind for step in made.plan.merges} == {"norm", "parallel"}
    with pytest.raises(PlanError, match=r"dense\.0 \+ point \+ add cannot be merged here: the mod"):
        cs.apply(made.plan, module)
    _, _, other = rewritten(module, merge="norm")
    close(run(cs.apply(other.plan, module), X), values(other.net))
    close(values(cs.apply(other.plan, net)), values(other.net), 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("merge", [True, "norm"])
def test_a_file_is_merged_rewritten_and_runs(merge: Any, tmp_path: Path) -> None:
    source, small = tmp_path / "source.onnx", tmp_path / "small.onnx"
    module = trained(Branches())
    torch.onnx.export(
        module,
        (torch.from_numpy(X),),
        str(source),
        input_names=["x"],
        dynamic_axes={"x": {0: "N"}},
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
    )
    net = cs.load(source, X.shape)
    calibration = cs.calibrate(net, [X])
    made = cs.rewrite(net, macs=0.5, calibration=calibration, strategy="fast", merge=merge)
    assert any(choice.form != "keep" for choice in made.plan.choices)
    assert made.verification is not None
    cs.save(made.net, small)
    made.plan.save(tmp_path / "plan.json")
    again = cs.apply(Plan.load(tmp_path / "plan.json"), cs.load(source, X.shape))
    close(values(again), values(made.net), 0)
    session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    close(session.run(None, {"x": X})[0], values(made.net))
    assert session.run(None, {"x": X[:3]})[0].shape == (3, 10)


test_a_file_is_merged_rewritten_and_runs = pytest.mark.filterwarnings("ignore::DeprecationWarning")(
    test_a_file_is_merged_rewritten_and_runs
)


# Plans ---------------------------------------------------------------------------------------


def test_a_plan_is_saved_and_fitted_anew(plain: Case, tmp_path: Path) -> None:
    _, net, made = plain
    made.plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert plan == made.plan
    assert plan.inputs == (net.inputs[0].shape,)
    calibration = cs.calibrate(net, [X])
    again = cs.rewrite(net, plan=plan, calibration=calibration, strategy="fast")
    assert again.plan == made.plan
    close(values(again.net), values(made.net))


def test_plans_that_merge_are_compared(plain: Case) -> None:
    _, net, made = plain
    calibration = cs.calibrate(net, [X])
    other = cs.rewrite(net, macs=0.6, calibration=calibration, strategy="fast")
    found = compare_plans(other.plan, made.plan)
    assert found.merges == ((), made.plan.merges)
    assert compare_plans(made.plan, other.plan).merges == (made.plan.merges, ())
    assert compare_plans(made.plan, made.plan).merges == ((), ())
    first = made.plan.merges[0]
    assert first.into in str(found.to_dict()["merges"]["new"])
    assert f"0 by the old, {len(made.plan.merges)} by the new one" in " ".join(str(found).split())
    gone = {change.layer for change in found.changes if change.new is None}
    assert gone == {step.layers[0] for step in made.plan.merges if step.kind == "serial"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "magic"}, "there is no rule 'magic' to merge"),
        ({"layers": ("conv", "up_norm")}, r"conv: conv \+ up_norm cannot be merged here; use the"),
        ({"into": "up"}, r"up: conv \+ before cannot be|up: before \+ conv cannot be"),
    ],
)
def test_merges_that_cannot_be_done_again_are_named(
    plain: Case, change: dict[str, Any], message: str
) -> None:
    _, net, made = plain
    first = next(step for step in made.plan.merges if step.into == "conv")
    others = [step for step in made.plan.merges if step is not first]
    plan = replace(made.plan, merges=(replace(first, **change), *others))
    with pytest.raises(PlanError, match=message):
        cs.apply(plan, net)


def test_a_plan_that_merges_is_not_for_another_network(plain: Case, branches: Case) -> None:
    for target in (branches[0], branches[1], cs.merge(plain[1]).net):
        with pytest.raises(PlanError, match="cannot be merged here"):
            cs.apply(plain[2].plan, target)


def test_what_is_asked_for_must_make_sense(plain: Case) -> None:
    _, net, made = plain
    with pytest.raises(UsageError, match=r"^merge: the plan says which layers"):
        cs.rewrite(net, plan=made.plan, merge=True)
    with pytest.raises(UsageError, match="there is no rule 'folding'"):
        cs.rewrite(net, macs=0.5, merge=["folding"])


# Budgets -------------------------------------------------------------------------------------


def test_a_budget_that_merging_alone_meets_needs_nothing_else(plain: Case) -> None:
    _, net, _ = plain
    merged = cs.merge(net)
    share = merged.after.macs / merged.before.macs
    made = cs.rewrite(net, macs=share + 1e-6, merge=True)  # without a warning: nothing is lost
    assert made.after == merged.after
    assert not made.plan.chains
    assert made.plan.merges == merged.merges
    close(values(made.net), values(net))


def test_nothing_to_merge_is_said() -> None:
    net = random_network("4@9 > conv 8 3 p1 > relu > conv 8 3 p1")
    made = cs.rewrite(net, macs=1.0, merge=True)
    assert made.notes == ("there was nothing to merge",)
    assert made.net is net
    assert not made.plan.merges
    assert not made.plan.inputs


def test_a_sweep_merges_once_for_all(plain: Case) -> None:
    _, net, made = plain
    calibration = cs.calibrate(net, [X])
    found = sweep(net, [0.6, 1.0], calibration=calibration, strategy="fast", merge=True, measure=())
    assert found.before == made.before
    low, high = (point.rewriting for point in found.points)
    assert low is not None
    assert high is not None
    assert low.plan == made.plan
    assert high.after == cs.merge(net).after


class Slow(Stopwatch):
    """A clock on which layers take a millisecond each."""

    def network(self, net: Graph) -> float:
        return float(len(net.nodes))

    def chain(self, ops: Any, x: Any) -> float:
        return 0.1 * len(ops)


def test_a_share_of_the_time_is_one_of_the_network_as_it_was(
    plain: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, net, _ = plain
    merged = cs.merge(net)
    for module in (job, task):
        monkeypatch.setattr(module, "Stopwatch", Slow)
    monkeypatch.setattr(rewriting, "side_by_side", lambda *_, **__: {})
    calibration = cs.calibrate(net, [X])
    share = merged.layers_after / merged.layers_before
    options: Any = {"calibration": calibration, "strategy": "fast", "merge": True}
    made = cs.rewrite(net, latency=share + 1e-6, **options)
    assert made.net == merged.net  # as fast as was asked for
    assert made.plan.budget == {"latency": share + 1e-6}
    with pytest.raises(BudgetError, match="cannot be met"):
        cs.rewrite(net, latency=0.9 * share, **options)  # no chain is faster on this clock


# Statistics ----------------------------------------------------------------------------------


def test_statistics_are_those_of_the_merged_network(plain: Case, branches: Case) -> None:
    kept = collected = 0
    for _, net, _ in (plain, branches):
        merged = cs.merge(net).net
        calibration = cs.calibrate(net, [X])
        wanted = cs.calibrate(merged, [X], positions=calibration.positions)
        notes: list[str] = []
        found = carried_over(calibration, net, merged, notes)
        assert not notes
        assert found.moments.keys() == wanted.moments.keys()
        for name, moments in wanted.moments.items():
            here = found.moments[name]
            assert here.count == moments.count
            close(here.second, moments.second, 1e-4)
            close(here.first, moments.first, 1e-4)
            kept += here is calibration.moments.get(name)
            collected += here is not calibration.moments.get(name)
    assert kept >= 5  # nothing is seen twice that need not be
    assert collected >= 2  # behind a norm that is gone, and a layer that is two now


def test_images_that_were_not_kept_are_missed(plain: Case) -> None:
    _, net, _ = plain
    calibration = cs.calibrate(net, [X[:6], X[6:]], sample_bytes=3 * X[0].nbytes)
    made = cs.rewrite(net, macs=0.8, calibration=calibration, strategy="fast", merge=True)
    assert any("come from the 3 images that the calibration kept of 12" in n for n in made.notes)
    blind = replace(calibration, samples=())
    with pytest.raises(DataError, match="merging changes what this layer reads"):
        cs.rewrite(net, macs=0.8, calibration=blind, strategy="fast", merge=True)


# Layer by layer ------------------------------------------------------------------------------


def by_hand(one: Graph, two: Graph, value: str, x: Array = X) -> float:
    before, after = (evaluate(net, {net.inputs[0].name: x})[value] for net in (one, two))
    return float(np.sqrt(((before - after) ** 2).mean() / before.var()))


def test_errors_of_layers_are_found_behind_a_merge(plain: Case) -> None:
    _, net, _ = plain
    merged = cs.merge(net).net
    assert any(node.provenance.replaces not in ("", node.name) for node in merged.nodes)
    calibration = cs.calibrate(merged, [X])
    made = cs.rewrite(merged, macs=0.6, calibration=calibration, strategy="fast")
    replaced = {choice.layer for choice in made.plan.choices if choice.form != "keep"}
    assert len(replaced) > 1
    found = cs.verify(merged, made.net, [X])
    assert found.layers.keys() == replaced
    for name, error in found.layers.items():
        assert error == pytest.approx(by_hand(merged, made.net, name), rel=1e-3), name
    assert found.field_kept
    # and the network before it was merged is compared by what the caller sees
    whole = cs.verify(net, made.net, [X])
    assert not whole.layers
    assert whole.outputs[0].relative == pytest.approx(found.outputs[0].relative, rel=1e-3)
    assert whole.field_kept


def test_errors_of_layers_are_found_in_a_second_rewrite() -> None:
    net = random_network("4@9 > conv 16 5 p2 > relu > conv 16 5 p2 > relu > conv 4 3 p1")
    x = np.random.default_rng(0).normal(size=(6, 4, 9, 9)).astype(np.float32)

    def smaller(given: Graph, macs: float) -> Graph:
        calibration = cs.calibrate(given, [x])
        return cs.rewrite(given, macs=macs, calibration=calibration, strategy="fast").net

    once = smaller(net, 0.6)
    twice = smaller(once, 0.7)
    assert len(twice.nodes) > len(once.nodes) > len(net.nodes)
    assert cs.verify(net, once, [x]).layers.keys() <= set(net.by_name)
    both = cs.verify(net, twice, [x])
    assert both.layers
    pairs = ((once, cs.verify(once, twice, [x]).layers), (net, both.layers))
    for before, layers in pairs:
        assert layers
        for name, error in layers.items():
            assert error == pytest.approx(by_hand(before, twice, name, x), rel=1e-3), name
