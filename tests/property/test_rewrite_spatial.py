"""At full rank, two thin convolutions are the layer itself: every window, every border."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsmith.analysis import analyze, fields
from convsmith.graph import Constant, Graph, GraphBuilder
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Conv
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.choosing import dense_macs
from convsmith.rewrite.forms import spatial

Array = npt.NDArray[Any]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Graph, spatial.Order]:
    """A network of one convolution with weights, and the order of its pair."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pairs = st.tuples(st.integers(0, 3), st.integers(0, 3))
    op = Conv(
        channels=draw(st.integers(1, 4)),
        kernel=(draw(st.integers(2, 5)), draw(st.integers(2, 5))),
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        dilation=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=(draw(pairs), draw(pairs)),
        same=draw(st.sampled_from([None, None, "upper", "lower"])),
        bias=draw(st.booleans()),
    )
    assert not spatial.refusal(op)
    channels = draw(st.integers(1, 4))
    sizes = tuple(
        d * (k - 1) + 1 + draw(st.integers(0, 6))
        for k, d in zip(op.kernel, op.dilation, strict=True)
    )
    builder = GraphBuilder()
    x = builder.input("x", (draw(st.integers(1, 2)), channels, *sizes), dtype="float64")
    weight = random.normal(size=(op.channels, channels, *op.kernel))
    names = [builder.constant("w", Constant.of(weight))]
    if op.bias:
        names.append(builder.constant("b", Constant.of(random.normal(size=op.channels))))
    builder.add(op, x, name="layer", parameters=names)
    order: spatial.Order = draw(st.sampled_from(spatial.ORDERS))
    return builder.build("layer"), order


def paired(net: Graph, order: spatial.Order, rank: int) -> Graph:
    """The network with the pair of this rank in place of the layer."""
    node = net.by_name["layer"]
    assert isinstance(node.op, Conv)
    weight = np.asarray(net.constants["w"].data)
    problem = spatial.own_outputs(weight, np.eye(weight[0].size), order)
    factors = spatial.fit(problem, spatial.start(problem)[:rank], rounds=2)
    bias = np.asarray(net.constants["b"].data) if node.op.bias else np.zeros(len(weight))
    return replace_layers(net, {"layer": spatial.steps(node.op, factors, bias, np.float64)})


def full_rank(net: Graph, order: spatial.Order) -> int:
    (outs, ins, high, wide) = net.constants["w"].shape
    return (
        min(ins * high, outs * wide) if order == "vertical-first" else min(ins * wide, outs * high)
    )


def apart(one: Graph, two: Graph) -> float:
    x = np.random.default_rng(1).normal(size=one.inputs[0].shape)
    wanted, made = (evaluate(net, {"x": x})["layer"] for net in (one, two))
    assert wanted.shape == made.shape
    return float(np.abs(wanted - made).max())


@given(layers())
def test_the_pair_is_exact_at_full_rank(layer: tuple[Graph, spatial.Order]) -> None:
    net, order = layer
    rank = full_rank(net, order)
    op, channels = net.by_name["layer"].op, net.inputs[0].shape[1]
    assert isinstance(op, Conv)
    assert spatial.full_rank(op, order, channels) == rank
    assert apart(net, paired(net, order, rank)) < 1e-5


@given(layers(), st.integers(1, 5))
def test_the_pair_costs_what_is_said_and_sees_what_the_layer_sees(
    layer: tuple[Graph, spatial.Order], rank: int
) -> None:
    net, order = layer
    node, x = net.by_name["layer"], net.inputs[0].shape
    assert isinstance(node.op, Conv)
    rank = min(rank, full_rank(net, order))
    after = paired(net, order, rank)
    assert analyze(after).total.macs == spatial.macs(node.op, rank, order, x)
    assert analyze(after).total.params == spatial.params(node.op, rank, order, x[1])
    assert analyze(net).total.macs == dense_macs(net, node)
    assert fields(after)["layer"] == fields(net)["layer"]


@given(layers())
def test_torch_computes_the_same_of_the_pair(layer: tuple[Graph, spatial.Order]) -> None:
    torch = pytest.importorskip("torch")
    net, order = layer
    node = net.by_name["layer"]
    assert isinstance(node.op, Conv)
    if node.op.same is not None:
        return  # torch knows SAME for stride 1 only; the evaluator is the oracle above
    x = np.random.default_rng(1).normal(size=net.inputs[0].shape)
    weight = net.constants["w"].data
    bias = torch.from_numpy(np.array(net.constants["b"].data)) if node.op.bias else None
    (top, bottom), (left, right) = node.op.padding
    padded = torch.nn.functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    wanted = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weight), bias, stride=node.op.stride, dilation=node.op.dilation
    )
    made = evaluate(paired(net, order, full_rank(net, order)), {"x": x})["layer"]
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-5)


@given(layers())
def test_one_rank_less_is_seen(layer: tuple[Graph, spatial.Order]) -> None:
    """The tests above can fail: random weights need their full rank."""
    net, order = layer
    rank = full_rank(net, order)
    if rank > 1:
        assert apart(net, paired(net, order, rank - 1)) > 1e-5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"transposed": True, "output_padding": (0, 0)}, "it is transposed"),
    ({"kernel": (3,), "stride": (1,), "padding": ((0, 0),), "dilation": (1,)}, "it is 1-D"),
    (
        {"kernel": (3,) * 3, "stride": (1,) * 3, "padding": ((0, 0),) * 3, "dilation": (1,) * 3},
        "it is 3-D",
    ),
    ({"groups": 2}, "it has 2 groups"),
    ({"kernel": (1, 1)}, "its kernel 1x1 is thin already"),
    ({"kernel": (5, 1)}, "its kernel 5x1 is thin already"),
    ({"rounding": "ceil"}, "it rounds its output size up"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_what_the_form_does_not_fit_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    plain: dict[str, Any] = {
        "channels": 4,
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": ((0, 0), (0, 0)),
        "dilation": (1, 1),
    }
    assert spatial.refusal(Conv(**plain)) == ""
    assert spatial.refusal(Conv(**(plain | change))) == reason


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_that_would_be_denormal_become_zero(dtype: Literal["float16"]) -> None:
    conv = Conv(channels=2, kernel=(3, 3), stride=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1))
    tiny = float(np.finfo(dtype).tiny)
    factors = spatial.Factors(
        first=np.array([[tiny / 2, 1.0, tiny]]),
        second=np.full((3, 2, 1), -tiny / 2),
        order="vertical-first",
        error=0.0,
    )
    first, second = spatial.steps(conv, factors, np.array([1.0, tiny / 4]), dtype)
    assert first.weight.dtype == second.weight.dtype == np.dtype(dtype)
    assert first.weight.ravel().tolist() == [0, 1, tiny]
    assert not second.weight.any()
    assert second.bias is not None
    assert second.bias.tolist() == [1, 0]
