"""The table of values in torch against the one in NumPy, in float64, operator by operator.

The NumPy table has oracles of its own; gradients are torch's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.random_weights import random_network

from convsmith.errors import ConvsmithError, DataError, UnsupportedOperatorError
from convsmith.graph import GraphBuilder, parse
from convsmith.graph import operators as ops
from convsmith.graph.evaluate import apply, evaluate
from convsmith.graph.shape import parameter_shapes
from convsmith.rewrite.distilling.interpreter import Interpreter
from convsmith.rewrite.distilling.tensors import calculate, check_supported

Array = npt.NDArray[Any]

UNTRAINABLE = {ops.DeformConv, ops.GridSample, ops.Unpool, ops.Fold, ops.TopK, ops.Unsupported}


def arrays(op: ops.Operator, *shapes: tuple[int, ...], seed: int = 0) -> tuple[list[Array], ...]:
    """Inputs, and parameters whose variances are positive."""
    random = np.random.default_rng(seed)
    inputs = [random.normal(size=shape) for shape in shapes]
    parameters = [np.abs(random.normal(size=s)) + 0.1 for s in parameter_shapes(op, *shapes)]
    return inputs, parameters


def agree(op: ops.Operator, inputs: list[Array], parameters: list[Array]) -> None:
    wanted = apply(op, inputs, parameters)
    check_supported(op)
    made = calculate(op, *(torch.from_numpy(np.array(a)) for a in (*inputs, *parameters)))
    results = made if isinstance(made, tuple) else (made,)
    for one, other in zip(results, wanted, strict=True):
        assert tuple(one.shape) == other.shape
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-9, atol=1e-11)


def windowed(seed: int) -> Iterator[tuple[ops.Operator, tuple[int, ...]]]:
    """Convolutions and poolings over every option; some do not fit their input."""
    random = np.random.default_rng(seed)
    rank = int(random.integers(1, 4))

    def some(low: int, high: int) -> tuple[int, ...]:
        return tuple(random.integers(low, high + 1, rank).tolist())

    kernel, groups = some(1, 3), int(random.integers(1, 3))
    shared: dict[str, Any] = {
        "kernel": kernel,
        "stride": some(1, 3),
        "padding": tuple(zip(some(0, 2), some(0, 2), strict=True)),
        "dilation": some(1, 2),
    }
    placed: dict[str, Any] = {
        "same": (None, None, "upper", "lower")[random.integers(4)],
        "rounding": str(random.choice(["floor", "ceil"])),
    }
    image = (2, 2 * groups, *some(1, 7))
    conv: dict[str, Any] = {"channels": 4, "groups": groups, "bias": bool(random.integers(2))}
    yield ops.Conv(**shared, **placed, **conv), image
    extra = tuple(min(o, s - 1) for o, s in zip(some(0, 2), shared["stride"], strict=True))
    yield ops.Conv(**shared, **conv, transposed=True, output_padding=extra), image
    yield ops.Pool(kind="max", **shared, **placed), image
    count = bool(random.integers(2))
    yield ops.Pool(kind="average", **shared, **placed, count_padding=count), image
    yield ops.Unfold(**shared), image


def test_windows() -> None:
    done: dict[type, int] = {}
    for seed in range(150):
        for op, image in windowed(seed):
            inputs: list[Array]
            try:
                inputs, parameters = arrays(op, image, seed=seed)
                with np.errstate(invalid="ignore", divide="ignore"):
                    wanted = apply(op, inputs, parameters)[0]
            except (ConvsmithError, ValueError):
                continue  # the window does not fit
            if np.isfinite(wanted).all():
                agree(op, inputs, parameters)
                done[type(op)] = done.get(type(op), 0) + 1
    assert done[ops.Conv] > 100
    assert done[ops.Pool] > 100
    assert done[ops.Unfold] > 50


IMAGE = (2, 6, 5, 4)
YES_NO = (True, False)
ALIGNMENTS: tuple[Any, ...] = ("asymmetric", "half_pixel", "align_corners")
NORMS: tuple[Any, ...] = ("batch", "instance", "group", "layer", "rms")
MODES: tuple[Any, ...] = ("constant", "reflect", "edge", "wrap")
INTERPOLATIONS: tuple[Any, ...] = ("nearest", "linear", "cubic")
ENDS: tuple[Any, ...] = ("max", "average")


def one_input() -> Iterator[ops.Operator]:
    for kind in ENDS:
        yield ops.GlobalPool(kind=kind)
        yield ops.AdaptivePool(kind=kind, size=(3, 0))
    for kind, affine in itertools.product(NORMS, YES_NO):
        yield ops.Norm(kind=kind, groups=2, axes=2, affine=affine)
    for size in (3, 4):
        yield ops.LocalResponseNorm(size=size)
        yield ops.LocalResponseNorm(size=size, lean="lower")
    for kind in ops.ACTIVATIONS:
        yield ops.Activation(kind=kind)
    yield ops.Activation(kind="leakyrelu", alpha=0.3)
    yield ops.Activation(kind="elu", alpha=0.7)
    yield ops.Activation(kind="celu", alpha=0.7)
    yield ops.Activation(kind="hardsigmoid", alpha=0.3, beta=0.2)
    yield ops.Activation(kind="clip", low=-0.5, high=0.25)
    yield ops.Linear(features=3)
    yield ops.Linear(features=3, bias=False)
    for axis, log in itertools.product((1, -1), YES_NO):
        yield ops.Softmax(axis=axis, log=log)
    for kind, axes, keep in itertools.product(ops.REDUCTIONS, ((1, -1), (2,)), YES_NO):
        yield ops.Reduce(kind=kind, axes=axes, keep=keep)
    yield ops.Reduce(kind="l1norm", axes=())
    for exclusive, reverse in itertools.product(YES_NO, YES_NO):
        yield ops.Cumulate(kind="sum", axis=2, exclusive=exclusive, reverse=reverse)
        yield ops.Cumulate(kind="prod", axis=2, exclusive=exclusive, reverse=reverse)
    yield ops.Split(sizes=(1, 2, 3))
    yield ops.Slice(ranges=((1, 1, None, 2), (2, 0, 3, 1)))
    for mode in MODES:
        yield ops.Pad(padding=((0, 0), (0, 0), (2, -1), (1, 2)), mode=mode)
    yield ops.Reshape(shape=(2, -1, 10))
    yield ops.Flatten()
    yield ops.Flatten(axis=1, last=2)
    yield ops.Transpose(permutation=(3, 0, 2, 1))
    yield ops.Flip(axes=(1, 3))
    yield ops.Identity()
    for order in ("crd", "dcr"):
        yield ops.SpaceToDepth(block=(5, 2), order=order)
        yield ops.DepthToSpace(block=(3, 2), order=order)
    for mode, alignment in itertools.product(INTERPOLATIONS, ALIGNMENTS):
        yield ops.Resize(scale=(Fraction(2), Fraction(3, 2)), mode=mode, alignment=alignment)
    yield ops.Resize(size=(3, 7), mode="linear", alignment="pytorch_half_pixel")


@pytest.mark.parametrize("op", [*one_input()], ids=str)
def test_one_input(op: ops.Operator) -> None:
    agree(op, *arrays(op, IMAGE))


@pytest.mark.parametrize("kind", ops.UNARIES)
def test_functions(kind: str) -> None:
    x = np.random.default_rng(0).uniform(0.05, 0.95, IMAGE)
    agree(ops.Unary(kind=kind), [x > 0.5 if kind == "not" else x], [])


@pytest.mark.parametrize("kind", ops.ELEMENTWISE)
def test_two_inputs_that_broadcast(kind: str) -> None:
    inputs, _ = arrays(ops.Elementwise(kind=kind), IMAGE, (6, 1, 1))
    inputs = [np.abs(x) + 0.1 if kind == "pow" else x for x in inputs]
    inputs = [x > 0 for x in inputs] if kind in ("and", "or", "xor") else inputs
    agree(ops.Elementwise(kind=kind), inputs, [])


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (ops.Elementwise(kind="add"), [IMAGE, IMAGE, IMAGE]),
        (ops.Concat(axis=2), [IMAGE, IMAGE]),
        (ops.MatMul(), [(2, 3, 4), (4, 5)]),
        (ops.Einsum(equation="bchw,dc->bdhw"), [IMAGE, (3, 6)]),
        (ops.Expand(shape=(4, 6, 1, 3)), [(1, 6, 5, 1)]),
    ],
    ids=str,
)
def test_several_inputs(op: ops.Operator, shapes: list[tuple[int, ...]]) -> None:
    agree(op, *arrays(op, *shapes))


def test_places_and_choices() -> None:
    x = np.random.default_rng(0).normal(size=IMAGE)
    agree(ops.Gather(axis=1), [x, np.array([[0, -1], [2, 5]])], [])
    agree(ops.Gather(axis=-1, along=True), [x, np.full((2, 6, 5, 2), -1)], [])
    agree(ops.Where(), [x > 0, x, x[:, :1]], [])
    agree(ops.Cast(dtype="int32"), [3 * x], [])


def test_every_operator_has_a_rule_or_is_refused_by_name() -> None:
    kinds = [kind for kind in vars(ops).values() if isinstance(kind, type)]
    known = [k for k in kinds if issubclass(k, ops.Operator) and k is not ops.Operator]
    ruled = {k for k in known if calculate.dispatch(k) is not calculate.dispatch(ops.Operator)}
    assert ruled == set(known) - UNTRAINABLE


def test_what_cannot_be_trained_is_named_with_its_node() -> None:
    with pytest.raises(
        UnsupportedOperatorError, match=r"^unsupported1: operator Unsupported 'Magic' can"
    ):
        Interpreter(parse("4@7 > relu > unsupported Magic 4@7"))
    builder = GraphBuilder()
    pool = ops.Pool(
        kind="max", kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,), indices=True
    )
    made = builder.add(pool, builder.input("x", (1, 1, 4)), name="pool")
    with pytest.raises(UnsupportedOperatorError, match=r"^pool: operator Pool 'max' cannot"):
        Interpreter(builder.build(made))
    with pytest.raises(DataError, match=r"tensor 'conv1\.weight' has no weights"):
        Interpreter(parse("1@4 > conv 1 3"))


def test_a_network_computes_what_the_graph_computes() -> None:
    net = random_network(
        "3@12 > conv 8 3 p1 > bn > relu > maxpool 2/2 > [ conv 4 1 | dw 3 p1 > conv 4 1 ]"
        " > ( conv 8 3 p1 nobias + - ) > deconv 6 4/2 p1 > gap > flatten > fc 5",
        dtype="float64",
    )
    x = np.random.default_rng(0).normal(size=(3, 3, 12, 12))
    network = Interpreter(net).eval()
    assert network.dtype == torch.float64
    made = network({"x": torch.from_numpy(x)})
    values = evaluate(net, {"x": x})
    assert list(made) == [output.name for output in net.outputs]
    for output in net.outputs:
        np.testing.assert_allclose(
            made[output.name].detach().numpy(), values[output.value], rtol=1e-9, atol=1e-12
        )
    assert sum(p.numel() for p in network.parameters()) == sum(
        c.size for c in net.constants.values() if c.learnable
    )


def test_batch_norms_follow_the_batch_in_training_mode() -> None:
    net = random_network("2@3 > bn", dtype="float64")
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 2, 3, 3)))
    network = Interpreter(net).train()
    made = network({"x": x})["y"]
    weight, bias, mean, _ = (network.constant(name) for name in net.nodes[0].parameters)
    centred = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(made, centred * weight[:, None, None] + bias[:, None, None])
    before = torch.from_numpy(np.array(net.constants[net.nodes[0].parameters[2]].data))
    torch.testing.assert_close(mean, 0.9 * before + 0.1 * x.mean((0, 2, 3)))
