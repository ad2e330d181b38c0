"""One plan, three ways to run it: the graph, the torch module, and the file in ONNX Runtime."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.networks import run
from torch import Tensor, nn

import convsmith as cs
from convsmith.analysis import fields
from convsmith.errors import PlanError
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import Calibration, Rewriting

Array = npt.NDArray[Any]


class Residual(nn.Module):
    """Blocks with batch norm, stride and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.one = nn.Conv2d(12, 12, 3, padding=2, dilation=2)
        self.two = nn.Conv2d(12, 12, (5, 3), padding="same")
        self.head = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.two(self.one(x).relu())
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def tower() -> nn.Module:
    """Convolutions whose borders are padded by reflection."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=(0, 1)), nn.PReLU(16)),
        nn.Conv2d(16, 3, 3),
    )


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """A module with random weights and statistics."""
    torch.manual_seed(0)
    module = make()
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3)
    return module.eval()


MODULES: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "tower": tower,
}
X = np.random.default_rng(0).normal(size=(6, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module", params=MODULES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Graph, Rewriting]:
    module = trained(MODULES[request.param])
    net = cs.load(module, X[:1].shape)
    calibration = cs.calibrate(net, [X])
    return module, net, cs.rewrite(net, macs=0.7, calibration=calibration, strategy="fast")


def outputs(net: Graph) -> Array:
    return evaluate(net, {net.inputs[0].name: X})[net.outputs[0].value]


def test_graph_and_module_compute_the_same(case: tuple[nn.Module, Graph, Rewriting]) -> None:
    module, net, made = case
    np.testing.assert_allclose(run(module, X), outputs(net), atol=1e-5)
    rewritten = cs.apply(made.plan, module)
    assert type(rewritten) is type(module)
    np.testing.assert_allclose(run(rewritten, X), outputs(made.net), atol=1e-5)
    np.testing.assert_allclose(outputs(cs.apply(made.plan, net)), outputs(made.net), atol=0)
    assert np.abs(outputs(made.net) - outputs(net)).max() > 1e-3


def test_the_module_stays_as_it_is(case: tuple[nn.Module, Graph, Rewriting]) -> None:
    module, _, made = case
    before, text = copy.deepcopy(module.state_dict()), repr(module)
    rewritten = cs.apply(made.plan, module)
    assert repr(module) == text
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    mine = {tensor.data_ptr() for tensor in module.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in rewritten.state_dict().values()}


def test_the_rewritten_module_can_be_trained(case: tuple[nn.Module, Graph, Rewriting]) -> None:
    module, _, made = case
    rewritten = cs.apply(made.plan, module)
    rewritten(torch.from_numpy(X)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in rewritten.parameters())


def test_a_tuned_module_is_verified_against_the_original(
    case: tuple[nn.Module, Graph, Rewriting],
) -> None:
    module, net, made = case
    again = cs.load(cs.apply(made.plan, module), X[:1].shape)
    found = cs.verify(net, again, [X])
    assert made.verification is not None
    assert found.outputs[0].relative == pytest.approx(
        made.verification.outputs[0].relative, rel=1e-3
    )
    assert found.field_kept


def test_wrapped_modules_are_rewritten_inside(case: tuple[nn.Module, Graph, Rewriting]) -> None:
    module, _, made = case
    wrapped = nn.DataParallel(module)
    rewritten = cs.apply(made.plan, wrapped)
    np.testing.assert_allclose(run(rewritten, X), outputs(made.net), atol=1e-5)


def test_provenance_names_the_layer_that_was_replaced(
    case: tuple[nn.Module, Graph, Rewriting],
) -> None:
    _, net, made = case
    for choice in made.plan.choices:
        stand = [n for n in made.net.nodes if n.provenance.replaces == choice.layer]
        if choice.form == "keep":
            assert not stand
            continue
        layers = choice.text.count(" > ") + 1
        assert [node.name for node in stand][layers - 1 :] == [choice.layer]
        path = net.by_name[choice.layer].provenance.path
        assert {node.provenance.path for node in stand} == {path}
    assert fields(made.net)[net.outputs[0].value] == fields(net)[net.outputs[0].value]


def test_onnx_runtime_computes_the_same(
    case: tuple[nn.Module, Graph, Rewriting], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _, net, made = case
    cs.save(made.net, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"]
    )
    (name,) = [value.name for value in session.get_inputs()]
    for image, wanted in zip(X, outputs(made.net), strict=True):
        (y,) = session.run(None, {name: image[None]})
        np.testing.assert_allclose(y[0], wanted, atol=1e-5)
    assert name == net.inputs[0].name


def test_a_network_read_from_onnx_is_rewritten_into_the_same_file(
    case: tuple[nn.Module, Graph, Rewriting], tmp_path: Path
) -> None:
    _, net, _ = case
    cs.save(net, tmp_path / "large.onnx")
    read = cs.load(tmp_path / "large.onnx")
    made = cs.rewrite(read, macs=0.7, calibration=cs.calibrate(read, [X]), strategy="fast")
    cs.save(made.net, tmp_path / "small.onnx")
    again = cs.load(tmp_path / "small.onnx")
    np.testing.assert_allclose(outputs(again), outputs(made.net), atol=1e-5)
    assert cs.analyze(again).total.macs == made.after.macs


# Every form --------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A layer of every kind: plain, in groups, depthwise, transposed, 1 x 1 and linear."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 12, 5, 2, 2)
        self.groups = nn.Conv2d(12, 16, 3, padding=1, groups=2, bias=False)
        self.deep = nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.up = nn.ConvTranspose2d(16, 12, 3, 2, 1, output_padding=1)
        self.mix = nn.Conv2d(12, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.plain(x).relu()).relu()
        x = self.mix(self.up(self.deep(x)).relu())
        y: Tensor = self.head(x.mean((2, 3)))
        return y


FORMS = [
    ("plain", "spatial", "vertical-first", (6,)),
    ("plain", "stack", "3-3", (2,)),
    ("plain", "channel", "window-first", (5,)),
    ("plain", "channel", "channels-first", (2,)),
    ("plain", "tucker", "both-sides", (2, 6)),
    ("plain", "depthwise_separable", "window-first", (3,)),
    ("plain", "cp", "rank-one", (6,)),
    ("plain", "dilated", "corners-kept", (2,)),
    ("groups", "spatial", "horizontal-first", (6,)),
    ("groups", "channel", "window-first", (4,)),
    ("groups", "grouped", "mixing-behind", (2, 8)),
    ("groups", "grouped", "mixing-in-front", (2, 6)),
    ("deep", "depthwise_spatial", "vertical-first", (2,)),
    ("deep", "stack", "3-3", (1,)),
    ("up", "spatial", "vertical-first", (8,)),
    ("up", "channel", "window-first", (4,)),
    ("up", "tucker", "both-sides", (6, 6)),
    ("mix", "channel", "window-first", (4,)),
    ("head", "channel", "window-first", (4,)),
]


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, Graph, Calibration, Rewriting]:
    """The module, what is read of it, statistics, and a plan to edit."""
    module = trained(Mixed)
    net = cs.load(module, X[:1].shape)
    calibration = cs.calibrate(net, [X])
    made = cs.rewrite(net, macs=1.0, calibration=calibration)
    return module, net, calibration, made


@pytest.mark.parametrize(
    ("layer", "form", "variant", "widths"), FORMS, ids=[f"{c[0]} {c[1]} {c[2]}" for c in FORMS]
)
def test_every_form_gives_the_same_network_everywhere(
    mixed: tuple[nn.Module, Graph, Calibration, Rewriting],
    tmp_path: Path,
    layer: str,
    form: str,
    variant: str,
    widths: tuple[int, ...],
) -> None:
    """As a graph, as a module, and as a file in ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    module, net, calibration, base = mixed
    choices = tuple(
        replace(choice, form=form, variant=variant, widths=widths)
        if choice.layer == layer
        else choice
        for choice in base.plan.choices
    )
    made = cs.rewrite(net, plan=replace(base.plan, choices=choices), calibration=calibration)
    (choice,) = (choice for choice in made.plan.choices if choice.form != "keep")
    assert (choice.layer, choice.form, choice.widths) == (layer, form, widths)
    assert made.after.macs < made.before.macs
    wanted = outputs(made.net)
    rewritten = cs.apply(made.plan, module)
    np.testing.assert_allclose(run(rewritten, X), wanted, atol=1e-5)
    again = cs.load(rewritten, X[:1].shape)
    assert cs.analyze(again).total.macs == made.after.macs
    assert cs.analyze(again).total.params == made.after.params
    cs.save(made.net, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"]
    )
    (name,) = [value.name for value in session.get_inputs()]
    for image, y in zip(X, wanted, strict=True):
        np.testing.assert_allclose(session.run(None, {name: image[None]})[0][0], y, atol=1e-5)


def test_nodes_that_nobody_touched_stay_byte_by_byte(
    mixed: tuple[nn.Module, Graph, Calibration, Rewriting], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    cs.save(mixed[1], tmp_path / "large.onnx")
    net = cs.load(tmp_path / "large.onnx")
    made = cs.rewrite(net, macs=0.8, calibration=cs.calibrate(net, [X]), strategy="fast")
    cs.save(made.net, tmp_path / "small.onnx")
    before, after = (onnx.load(tmp_path / name).graph for name in ("large.onnx", "small.onnx"))
    changed = {choice.layer for choice in made.plan.choices if choice.form != "keep"}
    assert changed
    kept = {node.name: node.SerializeToString() for node in after.node}
    tensors = {tensor.name: tensor.SerializeToString() for tensor in after.initializer}
    weights = {tensor.name: tensor.SerializeToString() for tensor in before.initializer}
    seen = 0
    for node in before.node:
        if node.name in changed or changed & set(node.output):
            continue
        seen += 1
        assert kept[node.name] == node.SerializeToString()
        for used in set(node.input) & set(weights):
            assert tensors[used] == weights[used]
    assert seen >= len(before.node) - len(changed)
    assert {node.op_type for node in after.node} <= {node.op_type for node in before.node}


# Refusals ----------------------------------------------------------------------------------


def replaced(made: Rewriting) -> str:
    return next(choice.layer for choice in made.plan.choices if choice.form != "keep")


def test_another_module_is_named(case: tuple[nn.Module, Graph, Rewriting]) -> None:
    _, _, made = case
    with pytest.raises(PlanError) as raised:
        cs.apply(made.plan, nn.Linear(3, 3))
    assert str(raised.value) == (
        f"{replaced(made)}: this module has no layer at that path;"
        " apply the plan to the module it was made from."
    )


def test_a_module_of_another_size_is_named() -> None:
    net = cs.load(trained(lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())), (1, 3, 16, 16))
    made = cs.rewrite(net, macs=0.7, calibration=cs.calibrate(net, [X]))
    with pytest.raises(PlanError) as raised:
        cs.apply(made.plan, nn.Sequential(nn.Conv2d(3, 16, 5)))
    assert str(raised.value) == (
        "0: its weight has shape (16, 3, 5, 5), the plan was made for (16, 3, 3, 3);"
        " apply the plan to the module it was made from."
    )
