"""Windows as columns, samples between pixels: against torch, ONNX and brute force in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from convsmith.errors import ShapeError
from convsmith.graph import operators as ops
from convsmith.graph.evaluate import apply
from convsmith.graph.shape import infer_shapes

Array = npt.NDArray[Any]


def draws(seed: int, count: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng((seed, index)) for index in range(count))


def sizes(random: np.random.Generator, rank: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(random.integers(low, high + 1, rank).tolist())


def window(random: np.random.Generator, rank: int) -> dict[str, Any]:
    padding = zip(sizes(random, rank, 0, 2), sizes(random, rank, 0, 2), strict=True)
    return {
        "kernel": sizes(random, rank, 1, 3),
        "stride": sizes(random, rank, 1, 3),
        "padding": tuple(padding),
        "dilation": sizes(random, rank, 1, 2),
    }


def onnx_node(kind: str, opset: int, inputs: list[Array], **attributes: Any) -> Array:
    """Runs one ONNX node in the reference evaluator, in the types of its inputs."""
    names = [f"i{i}" if x.size else "" for i, x in enumerate(inputs)]
    node = helper.make_node(kind, names, ["y"], **attributes)
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), list(x.shape))
        for name, x in zip(names, inputs, strict=True)
        if name
    ]
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "one", declared, [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds: dict[str, Array] = {n: x for n, x in zip(names, inputs, strict=True) if n}
    outputs: Any = ReferenceEvaluator(model).run(None, feeds)
    result: Array = outputs[0]
    return result


# Columns -----------------------------------------------------------------------------------


def padded(op: ops.Unfold, x: Array) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *op.padding])


def test_unfold_writes_every_window_as_a_column() -> None:
    """Element by element from the definition, for one to three axes."""
    count = 0
    for index, random in enumerate(draws(1, 40)):
        rank = 1 + index % 3
        op = ops.Unfold(**window(random, rank))
        x = random.normal(size=(2, 3, *sizes(random, rank, 3, 7)))
        try:
            shape = infer_shapes(op, x.shape)[0]
        except ShapeError:
            continue
        assert shape is not None
        whole, (made,) = padded(op, x), apply(op, [x], [])
        for place in itertools.product(*map(range, shape[2:])):
            for row, tap in enumerate(itertools.product(*map(range, op.kernel))):
                at = tuple(
                    p * s + t * d
                    for p, s, t, d in zip(place, op.stride, tap, op.dilation, strict=True)
                )
                here: tuple[Any, ...] = (slice(None), slice(row, None, math.prod(op.kernel)))
                there: tuple[Any, ...] = (slice(None), slice(None), *at)
                np.testing.assert_array_equal(made[(*here, *place)], whole[there])
        count += 1
    assert count > 30


def test_unfold_and_fold_are_those_of_torch(matches_torch: Callable[..., None]) -> None:
    for random in draws(2, 30):
        shape = window(random, 2)
        shape["padding"] = tuple((low, low) for low, _ in shape["padding"])
        size = sizes(random, 2, 5, 9)
        x = random.normal(size=(2, 3, *size))
        columns = infer_shapes(ops.Unfold(**shape), x.shape)[0]
        assert columns is not None
        given: dict[str, Any] = {
            "kernel_size": shape["kernel"],
            "dilation": shape["dilation"],
            "padding": tuple(low for low, _ in shape["padding"]),
            "stride": shape["stride"],
        }

        def unfolded(x: Tensor, g: Any = given, c: Any = columns) -> Tensor:
            return F.unfold(x, **g).reshape(c)

        def folded(c: Tensor, g: Any = given, z: Any = size) -> Tensor:
            return F.fold(c.flatten(2), z, **g)

        matches_torch(ops.Unfold(**shape), [x], unfolded)
        fold = ops.Fold(size=size, **shape)
        matches_torch(fold, [random.normal(size=columns)], folded)


def test_folding_is_the_transpose_of_unfolding() -> None:
    """<unfold(x), y> = <x, fold(y)>, also with unequal padding and in three dimensions."""
    for index, random in enumerate(draws(3, 30)):
        rank = 1 + index % 3
        shape, size = window(random, rank), sizes(random, rank, 5, 8)
        x = random.normal(size=(2, 3, *size))
        (columns,) = apply(ops.Unfold(**shape), [x], [])
        y = random.normal(size=columns.shape)
        (image,) = apply(ops.Fold(size=size, **shape), [y], [])
        assert np.vdot(columns, y) == pytest.approx(np.vdot(x, image), abs=1e-9)


def test_a_convolution_is_a_product_with_the_columns() -> None:
    for random in draws(4, 10):
        shape = window(random, 2)
        x, weight = random.normal(size=(1, 3, 8, 9)), random.normal(size=(4, 3, *shape["kernel"]))
        (columns,) = apply(ops.Unfold(**shape), [x], [])
        (y,) = apply(ops.Conv(channels=4, bias=False, **shape), [x], [weight])
        product = np.einsum("oc,nchw->nohw", weight.reshape(4, -1), columns)
        np.testing.assert_allclose(product, y, atol=1e-12)


def test_the_places_of_maxima_lead_back(matches_torch: Callable[..., None]) -> None:
    pools = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
    for index, random in enumerate(draws(5, 30)):
        rank = 1 + index % 3
        kernel = sizes(random, rank, 2, 3)
        op = ops.Pool(
            kind="max",
            kernel=kernel,
            stride=sizes(random, rank, 1, 3),
            padding=((1, 1),) * rank,
            dilation=sizes(random, rank, 1, 2),
            rounding="ceil" if index % 2 else "floor",
            indices=True,
        )
        x = random.normal(size=(2, 3, *sizes(random, rank, 5, 8)))
        numbers = (op.kernel, op.stride, 1, op.dilation, op.rounding == "ceil", True)
        matches_torch(op, [x], lambda x, f=pools[rank - 1], n=numbers: f(x, *n))
        largest, places = apply(op, [x], [])
        flat = x.reshape(2, 3, -1)
        np.testing.assert_array_equal(
            np.take_along_axis(flat, places.reshape(2, 3, -1), 2), largest.reshape(2, 3, -1)
        )
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    pool = ops.Pool(
        kind="max", kernel=(2, 2), stride=(2, 2), padding=((0, 0),) * 2, dilation=(1, 1),
        indices=True,
    )  # fmt: skip
    (back,) = apply(ops.Unpool(size=(4, 4)), list(apply(pool, [x], [])), [])
    assert back[0, 0].tolist() == [[0] * 4, [0, 5, 0, 7], [0] * 4, [0, 13, 0, 15]]
    with pytest.raises(ShapeError, match="an index lies outside a plane of 4 elements"):
        apply(ops.Unpool(size=(2, 2)), list(apply(pool, [x], [])), [])


# Samples -----------------------------------------------------------------------------------


def test_grid_samples_are_those_of_torch(matches_torch: Callable[..., None]) -> None:
    modes = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
    cases = itertools.product(modes, ("zeros", "border", "reflection"), (False, True), (2, 3))
    for seed, (mode, beyond, aligned, rank) in enumerate(cases):
        if rank == 3 and mode == "cubic":
            continue  # torch has none
        random = np.random.default_rng(seed)
        x = random.normal(size=(2, 3, *sizes(random, rank, 1, 5)))
        grid = random.uniform(-2.5, 2.5, (2, *sizes(random, rank, 1, 4), rank))
        matches_torch(
            ops.GridSample(mode=mode, beyond=beyond, aligned=aligned),  # type: ignore[arg-type]
            [x, grid],
            lambda x, g, m=modes[mode], b=beyond, a=aligned: F.grid_sample(x, g, m, b, a),
        )


def deformable(op: ops.DeformConv, random: np.random.Generator, *, factors: bool) -> list[Array]:
    channels = 2 * op.groups * op.offset_groups
    x = random.normal(size=(2, channels, *sizes(random, len(op.kernel), 5, 7)))
    shape = {n: getattr(op, n) for n in ("kernel", "stride", "padding", "dilation")}
    columns = infer_shapes(ops.Unfold(**shape), x.shape)[0]
    assert columns is not None
    taps, rank = op.offset_groups * math.prod(op.kernel), len(op.kernel)
    offset = random.normal(size=(2, taps * rank, *columns[2:])) * 2
    rest = [random.random(size=(2, taps, *columns[2:]))] if factors else []
    weight = random.normal(size=(op.channels, channels // op.groups, *op.kernel))
    bias = [random.normal(size=op.channels)] if op.bias else []
    return [x, offset, *rest, weight, *bias]


def some_deformable(count: int, rank: int) -> Iterator[tuple[ops.DeformConv, list[Array]]]:
    for index, random in enumerate(draws(6 + rank, count)):
        op = ops.DeformConv(
            channels=4,
            groups=1 + index % 2,
            offset_groups=1 + index // 2 % 2,
            bias=index % 3 > 0,
            **window(random, rank),
        )
        yield op, deformable(op, random, factors=index % 5 > 1)


def test_deformable_convolutions_are_those_of_onnx() -> None:
    for op, arrays in some_deformable(24, 2):
        inputs, parameters = arrays[: -1 - op.bias], arrays[-1 - op.bias :]
        nothing = np.zeros(0)
        x, offset, factors = (*inputs, nothing)[:3]
        weight, bias = (*parameters, nothing)[:2]
        want = onnx_node(
            "DeformConv",
            19,
            [x, weight, offset, bias, factors],
            kernel_shape=op.kernel,
            strides=op.stride,
            dilations=op.dilation,
            pads=[side for pair in zip(*op.padding, strict=True) for side in pair],
            group=op.groups,
            offset_group=op.offset_groups,
        )
        (have,) = apply(op, inputs, parameters)
        # The reference evaluator computes places in float32.
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5, err_msg=str(op))


def test_deformable_convolutions_are_grid_samples() -> None:
    """Brute force in any number of axes: every tap a sample by torch's grid_sample."""
    for rank in (2, 3):
        for op, arrays in some_deformable(8, rank):
            inputs, (weight, *bias) = arrays[: -1 - op.bias], arrays[-1 - op.bias :]
            x, offset = (torch.from_numpy(a) for a in inputs[:2])
            outputs, taps = offset.shape[2:], math.prod(op.kernel)
            moved = offset.reshape(2, op.offset_groups, taps, rank, *outputs)
            columns = torch.zeros(2, x.shape[1], taps, *outputs, dtype=x.dtype)
            wide = x.shape[1] // op.offset_groups
            for group, (place, tap) in itertools.product(
                range(op.offset_groups), enumerate(itertools.product(*map(range, op.kernel)))
            ):
                grid = []
                for axis in range(rank):
                    line = torch.arange(outputs[axis], dtype=x.dtype) * op.stride[axis]
                    line = line - op.padding[axis][0] + tap[axis] * op.dilation[axis]
                    at = line.reshape(-1, *(1,) * (rank - 1 - axis)) + moved[:, group, place, axis]
                    grid.append(2 * at / (x.shape[2 + axis] - 1) - 1)
                channels = slice(group * wide, (group + 1) * wide)
                columns[:, channels, place] = F.grid_sample(
                    x[:, channels], torch.stack(grid[::-1], -1), align_corners=True
                )
            if len(inputs) > 2:
                each = torch.from_numpy(inputs[2]).reshape(2, op.offset_groups, 1, taps, *outputs)
                split = columns.reshape(2, op.offset_groups, wide, taps, *outputs)
                columns = (split * each).reshape(columns.shape)
            matrices = torch.from_numpy(weight).reshape(op.groups, op.channels // op.groups, -1)
            flat = columns.reshape(2, op.groups, matrices.shape[2], -1)
            want = (matrices @ flat).reshape(2, op.channels, *outputs).numpy()
            want = want + bias[0].reshape(-1, *(1,) * rank) if bias else want
            (have,) = apply(op, inputs, [weight, *bias])
            np.testing.assert_allclose(have, want, atol=1e-10, err_msg=str(op))


def test_without_offsets_it_is_a_convolution() -> None:
    for op, arrays in some_deformable(8, 2):
        x, offset, *rest = arrays
        parameters = rest[-1 - op.bias :]
        (have,) = apply(op, [x, np.zeros_like(offset)], parameters)
        names = ("channels", "kernel", "stride", "padding", "dilation", "groups", "bias")
        plain = ops.Conv(**{name: getattr(op, name) for name in names})
        np.testing.assert_allclose(have, apply(plain, [x], parameters)[0], atol=1e-12)


@pytest.mark.parametrize("order", ["crd", "dcr"])
def test_depth_to_space_is_that_of_onnx(order: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 18, 2, 3))
    op = ops.DepthToSpace(block=(3, 3), order=order)  # type: ignore[arg-type]
    (have,) = apply(op, [x], [])
    want = onnx_node("DepthToSpace", 13, [x], blocksize=3, mode=order.upper())
    np.testing.assert_array_equal(have, want)
    back = ops.SpaceToDepth(block=(3, 3), order=order)  # type: ignore[arg-type]
    np.testing.assert_array_equal(apply(back, [have], [])[0], x)
    if order == "dcr":
        np.testing.assert_array_equal(onnx_node("SpaceToDepth", 13, [have], blocksize=3), x)


@pytest.mark.parametrize("order", ["crd", "dcr"])
@pytest.mark.parametrize("block", [(3,), (2, 3), (1, 2, 3)])
def test_blocks_of_any_shape_lead_back(block: tuple[int, ...], order: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 2 * math.prod(block), *(2, 3, 4)[: len(block)]))
    there = ops.DepthToSpace(block=block, order=order)  # type: ignore[arg-type]
    (large,) = apply(there, [x], [])
    assert large.shape[1] == 2
    back = ops.SpaceToDepth(block=block, order=order)  # type: ignore[arg-type]
    np.testing.assert_array_equal(apply(back, [large], [])[0], x)


# The comparison can fail -------------------------------------------------------------------


def test_a_wrong_operator_is_noticed(matches_torch: Callable[..., None]) -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 4, 5))
    grid = np.random.default_rng(1).uniform(-1.5, 1.5, (1, 3, 3, 2))
    op = ops.GridSample()

    def expected(x: Tensor, g: Tensor) -> Tensor:
        return F.grid_sample(x, g, align_corners=False)

    matches_torch(op, [x, grid], expected)
    for wrong in (
        replace(op, aligned=True),
        replace(op, beyond="border"),
        replace(op, mode="cubic"),
    ):
        with pytest.raises(AssertionError):
            matches_torch(wrong, [x, grid], expected)
