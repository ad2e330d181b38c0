"""ONNX's own cases for Conv and ConvTranspose, whose inputs, weights and outputs are stored.

Two sets come with the onnx package: those that its code makes, and those that were recorded from
PyTorch. Every case with weights runs through the engine, in every algorithm that takes it.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.backend.test.case import node as stored

from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.plan import candidates
from convsmith.conv.spec import ConvSpec
from convsmith.conv.transposed import TransposedSpec, plan_transposed

Array = npt.NDArray[Any]

RECORDED = Path(onnx.__file__).parent / "backend" / "test" / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One convolution with its input, its weights and the output that it must give."""

    name: str
    node: onnx.NodeProto
    x: Array
    weights: Array
    bias: Array | None
    y: Array

    def attribute(self, name: str, default: Any) -> Any:
        for found in self.node.attribute:
            if found.name == name:
                value = helper.get_attribute_value(found)
                return tuple(value) if isinstance(value, list) else value
        return default


def made_by_code() -> Iterator[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from computing what is expected
        for module in ("conv", "convtranspose"):  # a case is made where its module is imported
            importlib.import_module(f"{stored.__name__}.{module}")
    for case in stored._NodeTestCases:
        if case.model is None or not case.data_sets or len(case.model.graph.node) != 1:
            continue
        (node,) = case.model.graph.node
        if node.op_type in ("Conv", "ConvTranspose"):
            given, (y,) = case.data_sets[0]
            bias = given[2] if len(given) > 2 else None
            yield Case(name=case.name, node=node, x=given[0], weights=given[1], bias=bias, y=y)


def tensor(path: Path) -> Array:
    return np.asarray(numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))


def recorded() -> Iterator[Case]:
    for path in sorted(RECORDED.glob("pytorch-*/*/model.onnx")):
        graph = onnx.load(path).graph
        if [node.op_type for node in graph.node] not in (["Conv"], ["ConvTranspose"]):
            continue
        data = path.parent / "test_data_set_0"
        values = {t.name: np.asarray(numpy_helper.to_array(t)) for t in graph.initializer}
        free = [value.name for value in graph.input if value.name not in values]
        values |= {name: tensor(data / f"input_{at}.pb") for at, name in enumerate(free)}
        x, weights, *bias = (values[name] for name in graph.node[0].input)
        yield Case(
            name=path.parent.name,
            node=graph.node[0],
            x=x,
            weights=weights,
            bias=bias[0] if bias else None,
            y=tensor(data / "output_0.pb"),
        )


CASES = [*made_by_code(), *recorded()]


def sides(case: Case, rank: int) -> tuple[tuple[int, int], ...]:
    pads = case.attribute("pads", (0,) * (2 * rank))
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def split(total: int, upper: bool) -> tuple[int, int]:
    """Padding for a total; the odd one goes behind, or with SAME_LOWER in front."""
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def runs(case: Case, layout: str) -> Iterator[tuple[str, Array]]:
    """What every algorithm gives; ONNX's attributes are resolved here, by its specification."""
    rank = case.x.ndim - 2
    ones = (1,) * rank
    kernel = case.weights.shape[2:]
    stride = case.attribute("strides", ones)
    dilation = case.attribute("dilations", ones)
    auto = case.attribute("auto_pad", b"NOTSET").decode()
    common: dict[str, Any] = {
        "batch": len(case.x),
        "size": case.x.shape[2:],
        "channels": case.x.shape[1],
        "kernel": kernel,
        "stride": stride,
        "dilation": dilation,
        "groups": case.attribute("group", 1),
        "layout": layout,
        "bias": case.bias is not None,
    }
    last = layout == "channels_last"
    x = np.ascontiguousarray(np.moveaxis(case.x, 1, -1)) if last else case.x
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    pads = sides(case, rank)
    if case.node.op_type == "Conv":
        if auto.startswith("SAME"):
            pads = tuple(
                split(max((math.ceil(n / s) - 1) * s + r - n, 0), auto == "SAME_UPPER")
                for n, s, r in zip(common["size"], stride, reach, strict=True)
            )
        spec = ConvSpec(**common, filters=len(case.weights), padding=pads)
        # One tiling of each: the tests of the algorithms look at the others.
        for made in {plan.algorithm: plan for plan in candidates(spec)}.values():
            y = made.prepare(case.weights, case.bias)(x)
            yield f"{made.algorithm} {made.tiling}", np.moveaxis(y, -1, 1) if last else y
        return
    more = case.attribute("output_padding", (0,) * rank)
    shape = case.attribute("output_shape", None)
    if auto.startswith("SAME"):
        shape = tuple(n * s for n, s in zip(common["size"], stride, strict=True))
    if shape is not None:
        totals = [
            s * (n - 1) + a + r - wanted
            for n, s, r, a, wanted in zip(common["size"], stride, reach, more, shape, strict=True)
        ]
        pads = tuple(split(max(total, 0), auto == "SAME_UPPER") for total in totals)
        more = tuple(a + max(-total, 0) for a, total in zip(more, totals, strict=True))
    groups = common["groups"]
    transposed = TransposedSpec(
        **common, filters=case.weights.shape[1] * groups, padding=pads, output_padding=more
    )
    for algorithm in ("auto", "exact", "direct"):
        plan = plan_transposed(transposed, algorithm=algorithm)
        y = plan.prepare(case.weights, case.bias)(x)
        yield algorithm, np.moveaxis(y, -1, 1) if last else y


def test_both_sets_are_there() -> None:
    kinds = [case.node.op_type for case in CASES]
    assert kinds.count("Conv") >= 30
    assert kinds.count("ConvTranspose") >= 13


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_engine_gives_the_stored_output(case: Case, layout: str) -> None:
    tried = 0
    for name, y in runs(case, layout):
        np.testing.assert_allclose(
            y, case.y, rtol=1e-4, atol=1e-5 * np.abs(case.y).max(), err_msg=name
        )
        tried += 1
    assert tried >= 1


def test_the_cases_reach_more_than_one_algorithm() -> None:
    names = {
        name.split()[0]
        for case in CASES
        if case.name in ("test_Conv2d", "test_Conv2d_depthwise", "test_basic_conv_with_padding")
        for name, _ in runs(case, "channels_first")
    }
    assert {"direct", "winograd"} <= names <= set(ALGORITHMS)
