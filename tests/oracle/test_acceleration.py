"""``cs.accelerate`` on networks of every make: the same output, the original untouched."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor, nn

import convsmith as cs
from convsmith.acceleration import PlannedConv
from convsmith.errors import ConvsmithError, UsageError


def filled(module: nn.Module) -> nn.Module:
    """Statistics as after training, so that folding them wrongly shows."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.5, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                if part.weight is not None:
                    part.weight.uniform_(0.5, 1.5, generator=generator)
                    part.bias.normal_(generator=generator)
    return module


def bits(module: nn.Module) -> dict[str, bytes]:
    return {n: t.detach().contiguous().numpy().tobytes() for n, t in module.state_dict().items()}


def fast(module: nn.Module, example: Any, **options: Any) -> nn.Module:
    """Accelerates, and checks that the original is as it was and shares nothing."""
    before, modes = bits(module), [part.training for part in module.modules()]
    kinds = [type(part) for part in module.modules()]
    made = cs.accelerate(module, example, tune=False, **options)
    assert bits(module) == before
    assert [part.training for part in module.modules()] == modes
    assert [type(part) for part in module.modules()] == kinds
    assert not any(part.training for part in made.modules())
    mine = {t.data_ptr() for t in (*module.parameters(), *module.buffers()) if t.numel()}
    assert not mine & {t.data_ptr() for t in (*made.parameters(), *made.buffers())}
    return made


def same(module: nn.Module, made: nn.Module, *inputs: Tensor) -> None:
    """Compares with a copy in evaluation mode."""
    original = copy.deepcopy(module).eval()
    with torch.no_grad():
        torch.testing.assert_close(made(*inputs), original(*inputs), rtol=1e-3, atol=1e-4)


def kinds(module: nn.Module) -> Counter[str]:
    return Counter(type(part).__name__ for part in module.modules())


class Block(nn.Module):
    """A residual block, its activation one module called twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)  # type: ignore[no-any-return]


def residual() -> nn.Module:
    return filled(
        nn.Sequential(
            nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1), Block(16), Block(16),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
        )
    )  # fmt: skip


def mobile() -> nn.Module:
    def part(channels: int, filters: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels), nn.ReLU6(),
            nn.Conv2d(channels, filters, 1, bias=False), nn.BatchNorm2d(filters), nn.Hardswish(),
        ]  # fmt: skip

    return filled(nn.Sequential(*part(8, 24, 1), *part(24, 40, 2), *part(40, 16, 1)))


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_residual_network() -> None:
    module = residual().train()
    made = fast(module, X)
    same(module, made, X)
    assert kinds(made)["PlannedConv"] == 5
    assert kinds(made)["BatchNorm2d"] == 0
    assert kinds(made)["ReLU"] == 2  # called twice, and once after a sum: not taken in
    for x in (X[:1], X.to(memory_format=torch.channels_last), torch.randn(3, 3, 45, 39), X[:0]):
        same(module, made, x)


@pytest.mark.parametrize("last", [False, True])
def test_a_mobile_network(last: bool) -> None:
    module, x = mobile(), torch.randn(1, 8, 17, 19)
    x = x.to(memory_format=torch.channels_last) if last else x
    made = fast(module, x)
    same(module, made, x)
    assert set(kinds(made)) == {"Sequential", "PlannedConv", "Identity"}
    assert [p.activation for p in made.modules() if isinstance(p, PlannedConv)] == (
        ["relu6", "hardswish"] * 3
    )


def test_one_dimension_and_three() -> None:
    line = filled(nn.Sequential(nn.Conv1d(4, 8, 5, padding="same"), nn.BatchNorm1d(8), nn.SiLU()))
    same(line, fast(line, (1, 4, 30)), torch.randn(2, 4, 30))
    volume = filled(nn.Sequential(nn.Conv3d(2, 4, 3, 2, 1), nn.BatchNorm3d(4), nn.ReLU()))
    same(volume, fast(volume, (1, 2, 7, 8, 9)), torch.randn(1, 2, 7, 8, 9))


class Odd(nn.Module):
    """Whatever a network may do with a convolution besides calling it once."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        match self.way:
            case "twice":
                return self.bn(self.conv(y))  # type: ignore[no-any-return]
            case "two readers of the convolution":
                return self.bn(y) + y  # type: ignore[no-any-return]
            case "two readers of the norm":
                z: Tensor = self.bn(y)
                return self.relu(z) + z  # type: ignore[no-any-return]
            case "norm twice":
                return self.bn(self.bn(y))  # type: ignore[no-any-return]
            case "functional":
                return self.bn(y) + F.conv2d(x, self.conv.weight, padding=1)  # type: ignore[no-any-return]
            case "norm's numbers elsewhere":
                return self.bn(y) * self.bn.weight.reshape(1, -1, 1, 1)  # type: ignore[no-any-return]
            case "functional activation":
                return F.relu(self.bn(y))
        raise AssertionError(self.way)


WAYS = {
    "twice": (1, 1),
    "two readers of the convolution": (1, 1),
    "two readers of the norm": (1, 0),
    "norm twice": (1, 1),
    "functional": (0, 1),
    "norm's numbers elsewhere": (1, 1),
    "functional activation": (1, 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_odd_uses_keep_their_result(way: str) -> None:
    module, x = filled(Odd(way)), torch.randn(2, 4, 9, 9)
    made = fast(module, x)
    same(module, made, x)
    found = kinds(made)
    assert (found["PlannedConv"], found["BatchNorm2d"]) == WAYS[way]


def test_one_module_at_two_places() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    module = filled(nn.Sequential(shared, nn.BatchNorm2d(4), nn.ReLU(), shared, nn.BatchNorm2d(4)))
    made = fast(module, (1, 4, 8, 8))
    same(module, made, torch.randn(1, 4, 8, 8))
    assert made[0] is made[3]  # type: ignore[index]
    assert kinds(made)["BatchNorm2d"] == 2


def test_hooks_stay_and_run() -> None:
    module = filled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)))
    seen: list[str] = []
    module.get_submodule("1").register_forward_hook(lambda *_: seen.append("norm"))
    module.get_submodule("2").register_forward_pre_hook(lambda *_: seen.append("conv"))
    made = fast(module, (1, 3, 9, 9))
    seen.clear()
    same(module, made, torch.randn(1, 3, 9, 9))
    assert seen == ["norm", "conv"] * 2
    assert [type(part).__name__ for part in made.children()] == [
        "PlannedConv", "BatchNorm2d", "Conv2d",
    ]  # fmt: skip


def test_what_is_not_plain_is_left_alone() -> None:
    reflecting = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3))
    module = nn.Sequential(reflecting, normed, nn.BatchNorm2d(3, track_running_stats=False))
    made = fast(module, (2, 3, 9, 9))
    same(module, made, torch.randn(2, 3, 9, 9))
    assert kinds(made)["PlannedConv"] == 0
    wide = nn.Sequential(nn.Conv2d(3, 4, 3)).double()
    made = fast(wide, torch.randn(1, 3, 9, 9, dtype=torch.float64))
    assert kinds(made)["PlannedConv"] == 0


def test_a_module_that_is_one_convolution() -> None:
    module = nn.Conv2d(3, 4, 3)
    same(module, fast(module, (1, 3, 9, 9)), torch.randn(1, 3, 9, 9))


@pytest.mark.parametrize("training", [False, True])
def test_dropout_is_off_whatever_the_mode(training: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)).train(training)
    made, x = fast(module, (1, 3, 9, 9)), torch.randn(1, 3, 9, 9)
    assert torch.equal(made(x), made(x))
    assert module.training == training


@pytest.mark.parametrize("where", ["meta"])
def test_modules_elsewhere_are_refused(where: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3)).to(where)
    with pytest.raises(UsageError, match=f"0.weight is on {where}; move the module to the CPU"):
        cs.accelerate(module, (1, 3, 9, 9))


@pytest.mark.parametrize("example", ["1,3,9,9", 3, [], {"x": 3}, (1, "2")])
def test_examples_that_no_module_is_called_with(example: Any) -> None:
    with pytest.raises(UsageError, match="not what the module is called with; pass a tensor"):
        cs.accelerate(nn.Conv2d(3, 4, 3), example)


def test_weights_that_are_no_numbers_stay_so() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with torch.no_grad():
        module.get_parameter("0.weight")[1] = float("nan")
    made, x = fast(module, (1, 3, 9, 9)), torch.randn(1, 3, 9, 9)
    wanted = module(x)
    assert torch.equal(made(x).isnan(), wanted.isnan())
    torch.testing.assert_close(made(x), wanted, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_an_output_that_differs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PlannedConv.forward
    monkeypatch.setattr(PlannedConv, "forward", lambda self, x: 1.01 * original(self, x))
    with pytest.raises(ConvsmithError) as caught:
        cs.accelerate(nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 3, 9, 9), tune=False)
    assert str(caught.value) == (
        "accelerate: output 0 differs by 1.0e-02 of its size; lower the tolerance, or pass "
        "algorithm='exact'."
    )


def test_a_missing_number_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        PlannedConv, "forward", lambda self, x: F.conv2d(x, self.weight) * torch.nan
    )
    with pytest.raises(ConvsmithError, match="output 0 differs"):
        cs.accelerate(nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 3, 9, 9), tune=False)


def test_it_can_be_exported_compiled_copied_and_saved(tmp_path: Any) -> None:
    module = residual()
    made = fast(module, X)
    program = torch.export.export(made, (X,))
    same(module, program.module(), X)
    same(module, torch.compile(made, backend="aot_eager"), X)  # type: ignore[arg-type]
    same(module, copy.deepcopy(made), X)
    torch.save(made, tmp_path / "made.pt")
    same(module, torch.load(tmp_path / "made.pt", weights_only=False), X)


def test_examples_with_keywords_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 3)

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return self.left(a), self.right(b)

    module, a, b = Two(), torch.randn(1, 3, 8, 8), torch.randn(1, 2, 8, 8)
    for example in ((a, b), {"b": b, "a": a}):
        made = fast(module, example)
        assert kinds(made)["PlannedConv"] == 2
        for one, other in zip(made(a, b), module(a, b), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
