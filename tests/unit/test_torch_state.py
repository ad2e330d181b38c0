"""Reading a module leaves no trace: in the module, in torch, in random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_state
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from convsmith.errors import SourceError
from convsmith.sources.torch import read_module


class Restless(nn.Module):
    """Changes all that a forward pass can change."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
        self.bn = nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5))
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.scratch = torch.zeros(2)
        self.history: list[int] = []
        self.state = {"last": 0}
        self.fails = fails
        self.inner[0].weight.requires_grad_(False)
        self.inner.eval()

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        self.scratch[0] = 5
        self.history.append(1)
        self.state["last"] += 1
        self.temporary = x
        x = self.inner(self.bn(self.conv(x))) + torch.rand(1) + np.random.rand() + random.random()  # noqa: NPY002
        if self.fails:
            raise RuntimeError("it broke")
        return x


def snapshot(module: Restless) -> dict[str, Any]:
    """Everything that reading could change, in a form that can be compared."""
    modules = dict(module.named_modules())
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "keys": {path: sorted(m.__dict__) for path, m in modules.items()},
        "training": {path: m.training for path, m in modules.items()},
        "hooks": {
            (path, table): list(entries)
            for path, m in modules.items()
            for table, entries in m.__dict__.items()
            if "hooks" in table
        },
        "values": {name: t.detach().clone().tolist() for name, t in tensors.items()},
        "identities": {name: (id(t), t.data_ptr()) for name, t in tensors.items()},
        "versions": {name: t._version for name, t in tensors.items()},
        "flags": {name: (t.requires_grad, t.device, t.dtype) for name, t in tensors.items()},
        "plain": (module.scratch.tolist(), list(module.history), dict(module.state)),
        "random": (torch.get_rng_state().tolist(), random.getstate()),
        "numpy": [str(part) for part in np.random.get_state(legacy=True)],  # noqa: NPY002
        "global": {
            name: list(table)
            for name, table in vars(module_state).items()
            if name.startswith("_global_") and isinstance(table, dict)
        },
        "modes": _get_current_dispatch_mode_stack(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "forward": type(module).forward,
    }


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Restless:
    return Restless(fails=getattr(request, "param", False))


def test_nothing_changes(module: Restless) -> None:
    before = snapshot(module)
    read_module(module, (1, 3, 8, 8))
    assert snapshot(module) == before


@pytest.mark.parametrize("module", [True], indirect=True)
def test_nothing_changes_when_forward_raises(module: Restless) -> None:
    before = snapshot(module)
    with pytest.raises(SourceError, match="it broke"):
        read_module(module, (1, 3, 8, 8))
    assert snapshot(module) == before


def test_the_snapshot_notices_a_real_run(module: Restless) -> None:
    before = snapshot(module)
    module(torch.zeros(1, 3, 8, 8))
    after = snapshot(module)
    for part in ("keys", "values", "plain", "random", "numpy"):
        assert after[part] != before[part]


@pytest.fixture
def global_hook() -> Iterator[list[str]]:
    seen: list[str] = []

    def hook(layer: nn.Module, inputs: object) -> None:
        seen.append(type(layer).__name__)

    handle = module_state.register_module_forward_pre_hook(hook)
    yield seen
    handle.remove()


def test_no_hook_fires_and_all_fire_afterwards(module: Restless, global_hook: list[str]) -> None:
    fired: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: fired.append(name)

    module.conv.register_forward_hook(watch("forward"))
    module.inner[0].register_forward_pre_hook(watch("before"))
    module.bn.register_forward_hook(watch("keywords"), with_kwargs=True, always_call=True)
    read_module(module, (1, 3, 8, 8))
    assert (fired, global_hook) == ([], [])
    module(torch.zeros(1, 3, 8, 8))
    assert sorted(fired) == ["before", "forward", "keywords"]
    assert "Restless" in global_hook


def test_the_mode_of_the_module_does_not_matter(module: Restless) -> None:
    module.train()
    trained = read_module(module, (1, 3, 8, 8))
    module.eval()
    assert read_module(module, (1, 3, 8, 8)) == trained
    assert trained.by_name["inner.1"].op is not None


class OverClosure(nn.Module):
    """Runs a layer that it reaches past its own attributes."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.BatchNorm2d(3)
        self.layer = layer
        self.run: Callable[[Tensor], Tensor] = lambda x: layer(x)

    def forward(self, x: Tensor) -> Any:
        return self.run(x)


def test_a_layer_behind_a_closure_keeps_its_buffers() -> None:
    module = OverClosure().train()
    before = {name: t.tolist() for name, t in module.named_buffers()}
    graph = read_module(module, (1, 3, 4, 4))
    assert {name: t.tolist() for name, t in module.named_buffers()} == before
    assert {"layer.weight", "layer.bias"} <= set(graph.constants)


class Unlockable:
    """An attribute that cannot be copied, such as a lock or an open file."""

    def __deepcopy__(self, memo: object) -> object:
        raise TypeError("cannot be copied")


def test_an_attribute_that_cannot_be_copied_is_no_obstacle() -> None:
    module = nn.Conv2d(3, 4, 3)
    module.lock = Unlockable()  # type: ignore[assignment]
    assert len(read_module(module, (1, 3, 8, 8)).nodes) == 1
