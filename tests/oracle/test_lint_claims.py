"""What rules claim, against brute force: gradients, and networks changed as the remedy says."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from tests.random_weights import data_of, random_network, with_data

from convsmith.graph import Graph, parse
from convsmith.graph.evaluate import evaluate
from convsmith.linting import lint
from convsmith.linting.ranges import ranges
from convsmith.linting.subject import Subject
from convsmith.linting.windows import _alive, _coverage, _skipped
from convsmith.signal import folded_share

Array = npt.NDArray[Any]

WINDOWS = [
    (size, kernel, stride, padding, dilation)
    for size, kernel, stride, padding, dilation in itertools.product(
        (1, 2, 5, 8, 13), (1, 2, 3, 4), (1, 2, 3, 5), (0, 1, 3), (1, 2, 3)
    )
    if size + 2 * padding >= dilation * (kernel - 1) + 1
]


def touched(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[Array, Array, Array]:
    """By autograd: which pixels are read, which taps meet one, which outputs see one."""
    x = torch.ones(1, 1, size, dtype=torch.float64, requires_grad=True)
    w = torch.ones(1, 1, kernel, dtype=torch.float64, requires_grad=True)
    y = F.conv1d(x, w, stride=stride, padding=padding, dilation=dilation)
    y.sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    return x.grad[0, 0].numpy() > 0, w.grad[0, 0].numpy() > 0, y[0, 0].detach().numpy() > 0


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), WINDOWS)
def test_what_windows_read(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    read, alive, seeing = touched(size, kernel, stride, padding, dilation)
    text = f"<1,1,{size}> > conv 1 {kernel}/{stride} p{padding} d{dilation}"
    net = Subject(parse(text))
    (window,) = net.windows(net.graph.by_name["conv1"])
    places = np.flatnonzero(read)
    skipped, _ = _skipped([window])
    gaps = int((~read[places[0] : places[-1] + 1]).sum()) if len(places) else 0
    assert skipped == (gaps if window.count > 1 else 0)
    if len(places) and window.last_read < size:
        assert window.last_read >= places[-1]
        if dilation == 1:
            assert window.last_read == places[-1]
    assert _alive(window) == alive.sum()
    assert [not window.is_blind(i) for i in range(window.count)] == seeing.tolist()


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), list(itertools.product(range(1, 8), (1, 2, 3, 4), (1, 2, 3)))
)
def test_coverage_of_transposed_windows(kernel: int, stride: int, dilation: int) -> None:
    x, w = torch.ones(1, 1, 40), torch.ones(1, 1, kernel)
    y = F.conv_transpose1d(x, w, stride=stride, dilation=dilation)[0, 0].numpy()
    inside = y[20 * stride : 21 * stride]
    assert _coverage(kernel, stride, dilation) == (inside.min(), inside.max())


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_folded_energy_is_what_a_long_transform_says(stride: int, dilation: int) -> None:
    weight = np.random.default_rng(stride).normal(size=(2, 3, 3, 3))
    spread = np.zeros((2, 3, *(2 * dilation + 1,) * 2))
    spread[:, :, ::dilation, ::dilation] = weight
    count = 48 * 24
    energy = (np.abs(np.fft.fft2(spread, s=(count, count))) ** 2).sum((0, 1))
    frequency = np.fft.fftfreq(count)
    below = (frequency >= -0.5 / stride) & (frequency < 0.5 / stride)
    expected = 1 - energy[np.ix_(below, below)].sum() / energy.sum()
    found = folded_share(weight, (stride, stride), (dilation, dilation), size=48)
    assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_single_tap_is_white(stride: int) -> None:
    weight = np.zeros((1, 1, 3, 3))
    weight[0, 0, 1, 1] = 1
    assert folded_share(weight, (stride, stride), (1, 1), size=48) == pytest.approx(
        1 - 1 / stride**2
    )


RANGED = [
    "3@8 > conv 4 1 > relu > neg > elu > abs",
    "3@8 > sigmoid > neg > exp > square > sqrt",
    "3@8 > relu6 > avgpool 3/1 p1 > ( tanh + relu ) > hardswish > silu > gelu > mish",
    "3@8 > softmax > log > leakyrelu > softsign > selu > clip low=-0.5 high=0.25",
    "3@8 > [ hardsigmoid | celu ] > mean 2,3 keep > softplus > erf",
    "3@8 > conv 4 3 > relu > up 2 > maxpool 3/2 > pad 0,0,1,1,0,0,1,1 value=-3.0 > flatten",
]


@pytest.mark.parametrize("notation", RANGED)
def test_bounds_hold(notation: str) -> None:
    net = random_network(notation, dtype="float64")
    bounds = ranges(net)
    random = np.random.default_rng(7)
    for scale in (0.1, 1.0, 30.0):
        x = scale * random.normal(size=net.inputs[0].shape)
        values = evaluate(net, {"x": x})
        for name, value in values.items():
            low, high = bounds[name]
            assert low <= value.min() + 1e-12
            assert value.max() <= high + 1e-12


def result(net: Graph, x: Array) -> Array:
    return evaluate(net, {"x": x})[net.outputs[0].value]


SAME = [
    ("P201", "4@8 > relu > maxpool 2/2", "4@8 > maxpool 2/2 > relu"),
    ("P201", "4@9 > tanh > maxpool 3/2 p1", "4@9 > maxpool 3/2 p1 > tanh"),
    ("P205", "4@16 > maxpool 3/2 > maxpool 2/2", "4@16 > maxpool 5/4"),
    ("P205", "4@16 > avgpool 2/2 > avgpool 2/1", "4@16 > avgpool 4/2"),
    ("P207", "4@5 > up 2 linear half_pixel > conv 3 1", "4@5 > conv 3 1 > up 2 linear half_pixel"),
    ("P207", "4@5 > up 3 > conv 3 1", "4@5 > conv 3 1 > up 3"),
    ("P208", "4@6 > conv 3 1 > avgpool 2/2", "4@6 > avgpool 2/2 > conv 3 1"),
    ("P208", "4@6 > conv 3 1 > gap", "4@6 > gap > conv 3 1"),
    ("P203", "4@6 > transpose 0,2,3,1 > relu > transpose 0,3,1,2", "4@6 > relu"),
    ("P202", "4@6 > adaptiveavgpool 6 > relu", "4@6 > relu"),
    ("S304", "4@6 > relu > maxpool 2/2 > relu", "4@6 > relu > maxpool 2/2"),
]


@pytest.mark.parametrize(("code", "before", "after"), SAME)
def test_the_remedy_changes_nothing(code: str, before: str, after: str) -> None:
    old = random_network(before, dtype="float64")
    new = random_network(after, dtype="float64")
    new = with_data(new, **{name.replace(".", "__"): data_of(old, name) for name in new.constants})
    x = np.random.default_rng(0).normal(size=old.inputs[0].shape)
    np.testing.assert_allclose(result(new, x), result(old, x), rtol=1e-12, atol=1e-12)
    assert lint(old, select=code)
    assert not lint(new, select=code)


def test_a_bias_before_batch_norm_can_be_folded_into_the_mean() -> None:
    old = random_network("3@8 > conv 4 3 > bn", dtype="float64")
    mean = data_of(old, "bn1.mean") - data_of(old, "conv1.bias")
    new = with_data(old, conv1__bias=np.zeros(4), bn1__mean=mean)
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8))
    np.testing.assert_allclose(result(new, x), result(old, x), rtol=1e-12)


def test_merged_convolutions_are_one() -> None:
    old = random_network("3@8 > conv 6 3 p1 > conv 2 1", dtype="float64")
    first, second = data_of(old, "conv1.weight"), data_of(old, "conv2.weight")[:, :, 0, 0]
    new = random_network("3@8 > conv 2 3 p1", dtype="float64")
    bias = second @ data_of(old, "conv1.bias") + data_of(old, "conv2.bias")
    new = with_data(new, conv1__weight=np.einsum("om,mihw->oihw", second, first), conv1__bias=bias)
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8))
    np.testing.assert_allclose(result(new, x), result(old, x), rtol=1e-10)
    (found,) = lint(old, select="P204").findings
    merged, spent = 2 * 3 * 9 * 64, (6 * 3 * 9 + 2 * 6) * 64
    assert f"{spent:,}" in found.message
    assert f"{merged:,}" in found.message


def test_gridding_counts_what_three_dilated_layers_really_see() -> None:
    (found,) = lint(
        parse("1@33 > conv 1 3 p2 d2 > conv 1 3 p2 d2 > conv 1 3 p2 d2"), select="S103"
    ).findings
    x = torch.zeros(1, 1, 33, 33, dtype=torch.float64, requires_grad=True)
    y = x
    for _ in range(3):
        y = F.conv2d(y, torch.ones(1, 1, 3, 3, dtype=torch.float64), padding=2, dilation=2)
    y[0, 0, 16, 16].backward()
    assert x.grad is not None
    seen = (x.grad[0, 0] > 0).any(0).numpy()
    places = np.flatnonzero(seen)
    assert f"{len(places)} of the {places[-1] - places[0] + 1} positions" in found.message
    assert int((x.grad[0, 0] > 0).sum()) == 49  # what the page says
    assert (places[-1] - places[0] + 1) ** 2 == 169


def test_the_half_precision_bound_is_reached() -> None:
    net = random_network("3@3 > conv 2 3", dtype="float64")
    weight = data_of(net, "conv1.weight") * 4000
    net = with_data(net, conv1__weight=weight)
    (found,) = lint(net, select="N305").findings
    worst = max(
        float(abs(result(net, sign * 8 * np.sign(filt)[None])[0, row, 0, 0]))
        for row, filt in enumerate(weight)
        for sign in (1, -1)
    )
    assert f"{worst:,.0f}" in found.message
