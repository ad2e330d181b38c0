"""Merged networks compute the same as they did, borders included, whatever they are made of."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.random_weights import random_network

from convsmith.errors import ConvsmithError
from convsmith.graph import Constant, Graph, GraphBuilder, Shape
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import (
    Activation,
    Concat,
    Conv,
    Elementwise,
    Identity,
    Linear,
    Norm,
    Unary,
)
from convsmith.graph.shape import effective_kernel
from convsmith.rewrite.merging import RULES, chains, merge
from convsmith.rewrite.merging.kernels import composed_op

Array = npt.NDArray[Any]

quick = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class Maker:
    """Puts a random network together."""

    def __init__(self, seed: random.Random, rank: int, dtype: str) -> None:
        self.random, self.rank, self.dtype = seed, rank, dtype
        self.numbers = np.random.default_rng(seed.randrange(1 << 30))
        self.builder = GraphBuilder()
        self.count = 0
        size = tuple(seed.randint(5, 9) for _ in range(rank))
        self.builder.input("x", (2, seed.choice((2, 4, 6)), *size), dtype)

    def channels(self, value: str) -> int:
        shape = self.builder.shapes[value]
        assert shape is not None
        return shape[1]

    def add(self, op: Any, *inputs: str) -> str:
        self.count += 1
        return self.builder.add(op, *inputs, name=f"n{self.count}")

    def number(self, shape: tuple[int, ...]) -> str:
        self.count += 1
        data = self.numbers.uniform(0.5, 2, shape).astype(self.dtype)
        learnable = self.random.random() < 0.5
        constant = Constant.of(data, learnable=learnable)
        return self.builder.constant(f"c{self.count}", constant)

    # Layers -----------------------------------------------------------------------------

    def conv(self, value: str, channels: int = 0, **fixed: Any) -> str:
        inside, pick = self.channels(value), self.random.choice
        channels = channels or pick((2, 4, 6))
        groups = pick([g for g in (1, 1, 2, inside) if inside % g == channels % g == 0])
        kernel = tuple(pick((1, 1, 2, 3)) for _ in range(self.rank))
        if pick((True, False)):
            kernel = (1,) * self.rank
        given: dict[str, Any] = {
            "kernel": kernel,
            "stride": (pick((1, 1, 2)),) * self.rank,
            "dilation": tuple(pick((1, 1, 2)) for _ in range(self.rank)),
            "padding": ((0, 0),) * self.rank,
        }
        border = pick(("valid", "valid", "same", "padded"))
        if border == "padded":
            given["padding"] = tuple((pick((0, 1)), pick((0, 1, 2))) for _ in range(self.rank))
        elif border == "same":
            given["same"] = pick(("upper", "lower"))
        given |= fixed
        op = Conv(channels=channels, groups=groups, bias=pick((True, False)), **given)
        return self.add(op, value)

    def transposed(self, value: str) -> str:
        inside, pick = self.channels(value), self.random.choice
        channels = pick((2, 4))
        op = Conv(
            channels=channels,
            kernel=tuple(pick((1, 2, 3)) for _ in range(self.rank)),
            stride=(pick((1, 2)),) * self.rank,
            padding=tuple((pick((0, 1)), 0) for _ in range(self.rank)),
            dilation=(1,) * self.rank,
            groups=pick([g for g in (1, 2) if inside % g == channels % g == 0]),
            bias=pick((True, False)),
            transposed=True,
        )
        return self.add(op, value)

    def norm(self, value: str) -> str:
        return self.add(Norm(kind="batch", affine=self.random.random() < 0.7), value)

    def affine(self, value: str) -> str:
        """A sum or product with a constant, or a change of sign."""
        kind = self.random.choice(("add", "sub", "mul", "div", "neg"))
        if kind == "neg":
            return self.add(Unary(kind="neg"), value)
        shape = self.random.choice(((), (self.channels(value), *(1,) * self.rank)))
        operands = [value, self.number(shape)]
        if kind != "div" and self.random.random() < 0.5:
            operands.reverse()
        return self.add(Elementwise(kind=kind), *operands)

    def passive(self, value: str) -> str:
        kind = self.random.choice(("relu", "dropout", "identity"))
        op = Activation(kind="relu") if kind == "relu" else Identity(kind=kind)
        return self.add(op, value)

    # Branches ---------------------------------------------------------------------------

    def branches(self, value: str) -> str:
        """Branches of one size, summed (or one subtracted), or side by side."""
        pick = self.random.choice
        inside = self.channels(value)
        channels, stride = pick((2, 4, inside, inside)), pick((1, 1, 2))
        loss = pick((0, 0, 1, 2))  # how much the output is smaller than the input
        total = ""
        side_by_side = pick((False, False, True))
        for _ in range(pick((2, 2, 3))):
            kind = pick(("conv", "conv", "conv", "input", "norm", "affine"))
            if kind == "conv" or stride > 1 or loss or channels != inside:
                made = self.fitting(value, channels, stride, loss)
                made = self.norm(made) if pick((True, False)) else made
            else:
                made = {"input": lambda v: v, "norm": self.norm, "affine": self.affine}[kind](value)
            if not total:
                total = made
            elif side_by_side:
                total = self.add(Concat(), total, made)
            else:
                kind = pick(("add", "add", "sub"))
                pair = (total, made) if pick((True, False)) else (made, total)
                total = self.add(Elementwise(kind=kind), *pair)
        return total

    def fitting(self, value: str, channels: int, stride: int, loss: int) -> str:
        kernel, dilation, padding = [], [], []
        for _ in range(self.rank):
            taps, gap = self.random.choice((1, 2, 3)), self.random.choice((1, 1, 2))
            spare = effective_kernel(taps, gap) - 1 - loss
            if spare < 0:
                taps, gap, spare = 1 + loss, 1, 0
            low = self.random.randint(0, spare)
            kernel.append(taps)
            dilation.append(gap)
            padding.append((low, spare - low))
        return self.conv(
            value,
            channels,
            kernel=tuple(kernel),
            dilation=tuple(dilation),
            padding=tuple(padding),
            stride=(stride,) * self.rank,
            same=None,
        )

    def network(self) -> Graph:
        value = "x"
        outputs = []
        steps = [self.conv, self.conv, self.norm, self.affine, self.branches, self.branches]
        steps += [self.transposed, self.passive]
        for _ in range(self.random.randint(1, 6)):
            step = self.random.choice(steps)
            value = step(value)
            if self.random.random() < 0.1:
                outputs.append(value)
        if self.random.random() < 0.2:
            value = self.add(Linear(features=3), value)
            value = self.add(Linear(features=2, bias=False), value)
        net = self.builder.build(*dict.fromkeys((*outputs, value)))
        return replace(net, constants={n: self.filled(n, c) for n, c in net.constants.items()})

    def filled(self, name: str, constant: Constant) -> Constant:
        if constant.data is not None:
            return constant
        if name.endswith(".variance"):
            data = self.numbers.uniform(0.5, 2, constant.shape)
        else:
            data = self.numbers.normal(size=constant.shape)
            if name.endswith(".weight") and len(constant.shape) > 1:
                data /= np.sqrt(data[0].size)
        made = Constant.of(data.astype(self.dtype), learnable=constant.learnable)
        return replace(made, dtype=self.dtype)


def outputs(net: Graph, x: Array) -> dict[str, Array]:
    values = evaluate(net, {"x": x})
    return {output.name: values[output.value] for output in net.outputs}


def check_same(net: Graph, made: Graph, x: Array, tolerance: float) -> None:
    before, after = outputs(net, x), outputs(made, x)
    assert before.keys() == after.keys()
    for name, wanted in before.items():
        assert after[name].shape == wanted.shape
        scale = np.abs(wanted).max(initial=0) + 1
        np.testing.assert_allclose(after[name] / scale, wanted / scale, atol=tolerance, rtol=0)


@given(seed=st.randoms(use_true_random=False), rank=st.sampled_from((1, 1, 2, 2, 3)))
@quick
def test_a_merged_network_computes_the_same(seed: random.Random, rank: int) -> None:
    try:
        net = Maker(seed, rank, "float64").network()
    except ConvsmithError:  # a kernel does not fit
        assume(False)
    made = merge(net, rules=RULES)
    x = np.random.default_rng(0).normal(size=net.inputs[0].shape)
    check_same(net, made.net, x, 1e-10)
    assert made.after.macs <= made.before.macs
    assert made.layers_after <= made.layers_before - len(
        [step for step in made.merges if step.kind != "concat" and step.into]
    ) or any(step.kind in ("parallel", "concat", "zero") for step in made.merges)
    assert not merge(made.net, rules=RULES).merges
    for step in made.merges:
        assert step.macs_after <= step.macs_before
    # and for an input of another size, where the original takes it
    larger = (1, net.inputs[0].shape[1], *(n + 3 for n in net.inputs[0].shape[2:]))
    try:
        resized = net.with_inputs({"x": larger})
        assert resized.shapes
    except ConvsmithError:
        return
    check_same(net, made.net, np.random.default_rng(1).normal(size=larger), 1e-10)


@given(seed=st.randoms(use_true_random=False), rank=st.sampled_from((1, 2)))
@settings(quick, max_examples=30)
def test_weights_are_rounded_once(seed: random.Random, rank: int) -> None:
    try:
        net = Maker(seed, rank, "float32").network()
    except ConvsmithError:
        assume(False)
    made = merge(net)
    x = np.random.default_rng(0).normal(size=net.inputs[0].shape)
    check_same(net, made.net, x, 1e-5)
    types = {constant.dtype for constant in made.net.constants.values()}
    assert types <= {"float32"}


def test_the_check_can_fail() -> None:
    net = Maker(random.Random(3), 2, "float64").network()
    wrong = {
        name: replace(constant, data=1.001 * np.asarray(constant.data, np.float64))
        for name, constant in net.constants.items()
        if constant.data is not None
    }
    x = np.random.default_rng(0).normal(size=net.inputs[0].shape)
    with pytest.raises(AssertionError):
        check_same(net, replace(net, constants=wrong), x, 1e-5)


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_network("4@9 > conv 4 1 > conv 4 3 p1", dtype="float64")
    x = np.random.default_rng(0).normal(size=(1, 4, 9, 9))
    check_same(net, merge(net).net, x, 1e-12)

    def careless(first: Conv, second: Conv, spatial: Shape, shifted: bool) -> object:
        return composed_op(first, second, spatial, shifted=False)

    monkeypatch.setattr(chains, "composed_op", careless)
    made = merge(net)
    assert made.merges
    with pytest.raises(AssertionError):
        check_same(net, made.net, x, 1e-5)
