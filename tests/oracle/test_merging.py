"""Merged networks against torch and ONNX Runtime: graphs, modules and files."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from tests.networks import run
from tests.random_weights import data_of
from torch import Tensor, nn

import convsmith as cs
from convsmith.errors import DataError, UsageError
from convsmith.graph.evaluate import evaluate

Array = npt.NDArray[Any]
X = np.random.default_rng(0).normal(size=(2, 4, 11, 9)).astype(np.float32)


class RepVGG(nn.Module):
    """The block of Ding et al., 2021, arXiv:2101.03697, figure 2, as it is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.point = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense(x) + self.point(x) + self.identity(x)
        return y.relu()


class ACNet(nn.Module):
    """The block of Ding et al., 2019, arXiv:1908.03930, figure 1, with a stride."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        kernels = ((3, (1, 1)), ((1, 3), (0, 1)), ((3, 1), (1, 0)))
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inside, outside, k, 2, padding, bias=False), nn.BatchNorm2d(outside)
            )
            for k, padding in kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = (branch(x) for branch in self.branches)
        y: Tensor = second + third + first
        return y.relu()


class Plain(nn.Module):
    """Everything that can be merged without changing a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 6, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.serial = nn.Sequential(
            nn.Conv2d(6, 6, (3, 1), padding=(2, 0), dilation=(2, 1), groups=2),
            nn.Dropout(0.5),
            nn.Conv2d(6, 4, 1, bias=False),
        )
        self.up = nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, groups=2)
        self.up_norm = nn.BatchNorm2d(4, affine=False)
        self.fc = nn.Linear(4, 8, bias=False)
        self.fc_norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.before(x))).relu()
        x = self.up_norm(self.up(self.serial(x).relu())).relu()
        y: Tensor = self.last(self.fc_norm(self.fc(x.mean((2, 3)))))
        return y


def trained(module: nn.Module) -> nn.Module:
    """The module with random statistics."""
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3)
        elif tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    return module.eval()


def network() -> nn.Module:
    torch.manual_seed(1)
    return trained(nn.Sequential(RepVGG(4), ACNet(4, 6), RepVGG(6)))


def values(net: cs.Graph, x: Array) -> Array:
    return evaluate(net, {net.inputs[0].name: x})[net.outputs[0].value]


def close(made: Array, wanted: Array, tolerance: float = 1e-5) -> None:
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made, wanted, atol=tolerance * np.abs(wanted).max(), rtol=0)


def test_repvgg_and_acnet_become_plain_convolutions() -> None:
    module = network()
    made = cs.merge(cs.load(module, X.shape))
    assert [type(node.op).__name__ for node in made.net.nodes] == ["Conv", "Activation"] * 3
    convs = made.net.nodes[::2]
    assert [cs.graph.operator_text(node.op) for node in convs] == [
        "conv 4 3 p1",
        "conv 6 3/2 p1",
        "conv 6 3 p1",
    ]
    close(values(made.net, X), run(module, X))
    # by hand: 9 C^2 HW, 9 C_in C_out HW / 4 rounded up, 9 C^2 HW
    assert made.after.macs == 2 * (9 * 16 * 99 + 9 * 24 * 30 + 9 * 36 * 30)
    assert made.after.params == (9 * 16 + 4) + (9 * 24 + 6) + (9 * 36 + 6)
    assert not made.notes
    # and the numbers of the first block, by the paper's algorithm in torch
    block: Any = module[0]  # type: ignore[index]
    weight = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    for kernel, norm in (
        (block.dense[0].weight, block.dense[1]),
        (nn.functional.pad(block.point[0].weight, (1, 1, 1, 1)), block.point[1]),
        (nn.functional.pad(torch.eye(4)[:, :, None, None], (1, 1, 1, 1)), block.identity),
    ):
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight += kernel.double() * scale[:, None, None, None]
    found = data_of(made.net, made.net.nodes[0].parameters[0])
    np.testing.assert_allclose(found, weight.detach().numpy(), atol=1e-6)


def test_a_module_is_merged_where_its_forward_can_stay() -> None:
    module = trained(Plain())
    state = copy.deepcopy(module.state_dict())
    made = cs.merge(module, input=X.shape)
    assert type(made.net) is Plain
    close(run(made.net, X), run(module, X))
    kinds = [type(child).__name__ for child in made.net.modules() if not list(child.children())]
    assert kinds == [
        *("Identity", "Conv2d", "Identity"),
        *("Identity", "Identity", "Conv2d"),
        *("ConvTranspose2d", "Identity", "Identity", "Identity", "Linear"),
    ]
    assert {key: torch.equal(value, state[key]) for key, value in module.state_dict().items()} == (
        dict.fromkeys(state, True)
    )
    assert not made.net.training
    graph = cs.merge(cs.load(module, X.shape))
    close(values(graph.net, X), run(made.net, X))
    assert (graph.after.macs, graph.after.params) == (made.after.macs, made.after.params)
    again = cs.analyze(cs.load(made.net, X.shape)).total
    assert (again.macs, again.params) == (made.after.macs, made.after.params)
    made.net.train()
    made.net(torch.from_numpy(X)).sum().backward()  # it can be trained on
    close(run(made.net, X[:, :, :9, :8]), run(module, X[:, :, :9, :8]))


def test_what_needs_another_forward_is_noted() -> None:
    module = network()
    made = cs.merge(module, input=X.shape)
    close(run(made.net, X), run(module, X))
    assert {step.kind for step in made.merges} == {"norm"}
    assert len(made.merges) == 7  # all norms behind convolutions, not those on their own
    assert all("not merged" in note for note in made.notes)
    assert sum("(use the graph)" in note for note in made.notes) >= 3


class Twice(nn.Module):
    """One convolution in two places, and one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.alone = nn.Conv2d(4, 4, 1)
        self.other = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(self.norm(self.conv(x)).relu())).relu()
        z: Tensor = self.other(self.alone(y))
        return z * self.alone.weight.mean()


def test_shared_modules_stay() -> None:
    module = trained(Twice())
    made = cs.merge(module, input=X.shape)
    assert made.net is module
    assert not made.merges
    assert any("same weights" in note for note in made.notes)


def test_modules_with_hooks_stay() -> None:
    module = trained(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    module[1].register_forward_hook(lambda *_: None)  # type: ignore[index]
    made = cs.merge(module, input=X.shape)
    assert made.net is module
    assert made.notes == ("0 + 1: not merged: 1 has hooks (use the graph)",)


class Looks(nn.Module):
    """Its forward looks into the normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y if self.norm.num_features == 4 else x


def test_a_forward_that_looks_into_what_would_go_keeps_it() -> None:
    module = trained(Looks())
    made = cs.merge(module, input=X.shape)
    assert made.net is module
    assert not made.merges
    assert "its forward looks into" in made.notes[0]
    assert cs.merge(cs.load(module, X.shape)).merges


def test_a_module_needs_input_sizes() -> None:
    with pytest.raises(UsageError, match="does not know the size of its input"):
        cs.merge(nn.Conv2d(4, 4, 1))


def test_broken_statistics_of_a_module_name_the_layer() -> None:
    module = trained(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    module[1].running_var[2] = float("nan")  # type: ignore[index]
    with pytest.raises(DataError, match=r"^1: 1 of the 4 elements of its variance are not finite"):
        cs.merge(module, input=X.shape)


# Files -----------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file as torch writes it, batch normalizations and all; its batch is open."""
    stem = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Tanh())
    tail = nn.Sequential(nn.Conv2d(6, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 2, 1))
    path = tmp_path / "source.onnx"
    torch.onnx.export(
        trained(nn.Sequential(stem, network(), tail)),
        (torch.from_numpy(X),),
        str(path),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
    )
    return path


def session(path: Path, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    ready = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    made: Array = ready.run(None, {"x": x})[0]
    return made


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_merged_file_runs_and_the_rest_of_it_is_as_it_was(source: Path, tmp_path: Path) -> None:
    net = cs.load(source, X.shape)
    made = cs.merge(net)
    kinds = {step.kind for step in made.merges}
    assert "parallel" in kinds
    path = tmp_path / "merged.onnx"
    cs.save(made.net, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    close(session(path, X), session(source, X))
    assert session(path, np.concatenate([X, X])).shape[0] == 4
    before = {n.output[0]: n.SerializeToString() for n in onnx.load(source).graph.node}
    after = {n.output[0]: n.SerializeToString() for n in onnx.load(path).graph.node}
    changed = [
        n for n in onnx.load(path).graph.node if before.get(n.output[0]) != after[n.output[0]]
    ]
    assert [node.op_type for node in changed] == ["Conv"] * 3  # the three blocks, nothing else
    assert len(after) == 5 + 2 * 3
    again = cs.analyze(cs.load(path, X.shape)).total
    assert (again.macs, again.params) == (made.after.macs, made.after.params)


# Networks of the zoo ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "norms"), [("resnet18", 20), ("mobilenet_v2", 52), ("densenet121", 59)]
)
def test_networks_of_the_zoo_keep_their_outputs(name: str, norms: int) -> None:
    net = cs.load(f"zoo:{name}", (1, 3, 33, 33))
    random = np.random.default_rng(0)
    constants = {}
    for key, constant in net.constants.items():
        data = random.normal(size=constant.shape) / 4
        if len(constant.shape) > 1:
            data *= 4 * np.sqrt(2 / np.prod(constant.shape[1:]))
        elif key.endswith("variance"):
            data = random.uniform(0.5, 2, constant.shape)
        elif key.endswith("weight"):
            data += 1
        constants[key] = replace(constant, data=data.astype(np.float32))
    net = replace(net, constants=constants)
    made = cs.merge(net)
    assert sum(step.kind == "norm" for step in made.merges) == norms
    x = random.normal(size=(1, 3, 33, 33)).astype(np.float32)
    close(values(made.net, x), values(net, x))
    assert made.after.macs == made.before.macs
    assert made.after.params < made.before.params
