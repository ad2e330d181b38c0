"""Evaluates networks in NumPy, through the table of values.

The plain twin of the compiled kernels: short enough to check against the definition, exact in
the type of its inputs (float64 in, float64 out), and the oracle that faster paths are tested
against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from convsmith.errors import ConvsmithError, DataError, ShapeError
from convsmith.graph.compute import Array, compute, pad_for_windows, windows
from convsmith.graph.fragment import ConvStep
from convsmith.graph.graph import Graph, Node
from convsmith.graph.operators import (
    Activation,
    Elementwise,
    GlobalPool,
    Norm,
    Operator,
    Pool,
    Unary,
    roles,
)
from convsmith.graph.shape import infer_shapes, parameter_shapes
from convsmith.parallel import spread

__all__ = [
    "Array",
    "apply",
    "evaluate",
    "image_slices",
    "node_arguments",
    "pad_for_windows",
    "run_chain",
    "steps",
    "windows",
]

BLOCK_BYTES = 1 << 20
"""How many bytes of images are computed at a time, where every image goes its own way."""


def evaluate(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Runs a network and returns every value, inputs included.

    Args:
        graph: A network whose weights are present.
        inputs: One array per input; the sizes may differ from ``graph.inputs`` where the
            operators allow it.

    Raises:
        DataError: If an input is missing or a weight is absent.
        UnsupportedOperatorError: If an operator cannot be computed; names the node.

    >>> from convsmith.graph import parse
    >>> values = evaluate(parse("1@2 > relu"), {"x": np.array([[[[-1.0, 2.0], [3.0, -4.0]]]])})
    >>> values["relu1"].ravel()
    array([0., 2., 3., 0.])
    """
    values: dict[str, Array] = {}
    for _, made in steps(graph, inputs, keep_all=True):
        values.update(made)
    return {**{v.name: np.asarray(inputs[v.name]) for v in graph.inputs}, **values}


def steps(
    graph: Graph, inputs: Mapping[str, Array], *, keep_all: bool = False
) -> Iterator[tuple[Node, dict[str, Array]]]:
    """Runs a network node by node, forgetting each value after its last use.

    Yields:
        Each node with the values that it made.

    Raises:
        DataError: If an input is missing or a weight is absent.
        UnsupportedOperatorError: If an operator cannot be computed; names the node.
    """
    values: dict[str, Array] = {}
    for wanted in graph.inputs:
        if wanted.name not in inputs:
            raise DataError(f"input {wanted.name!r} is missing", remedy="give an array for it")
        values[wanted.name] = np.asarray(inputs[wanted.name])
    pending = Counter(used for node in graph.nodes for used in node.inputs)
    for node in graph.nodes:
        arguments, parameters = node_arguments(graph, node, values)
        try:
            results = apply(node.op, arguments, parameters)
        except ConvsmithError as error:
            raise error.at(node.name) from None
        made = dict(zip(node.outputs, results, strict=True))
        values.update(made)
        yield node, made
        if not keep_all:
            for used in node.inputs:
                pending[used] -= 1
                if pending[used] == 0 and used in values:
                    del values[used]


def node_arguments(
    graph: Graph, node: Node, values: Mapping[str, Array]
) -> tuple[list[Array], list[Array]]:
    """Collects what :func:`apply` needs for one node: its inputs and its parameters.

    Weights take the floating-point type of the values, so that float64 stays float64.

    Raises:
        DataError: If a weight is absent.
    """
    floats = next(
        (
            values[used].dtype
            for used in node.inputs
            if used in values and np.issubdtype(values[used].dtype, np.floating)
        ),
        None,
    )

    def constant(name: str) -> Array:
        data = graph.constants[name].data
        if data is None:
            raise DataError(
                f"its tensor {name!r} has no weights, only a shape",
                place=node.name,
                remedy="load a trained network",
            )
        if floats is not None and np.issubdtype(data.dtype, np.floating):
            return data.astype(floats, copy=False)
        return data

    inputs = [values[used] if used in values else constant(used) for used in node.inputs]
    return inputs, [constant(name) for name in node.parameters]


def apply(op: Operator, inputs: list[Array], parameters: list[Array]) -> tuple[Array, ...]:
    """Computes one operator.

    Args:
        op: What to compute.
        inputs: Its input values.
        parameters: Its constants, in the order of ``roles(op)``.

    Raises:
        ShapeError: If the sizes do not fit.
        UnsupportedOperatorError: If there is no rule for it.
    """
    shapes = [x.shape for x in inputs]
    infer_shapes(op, *shapes)
    for role, want, have in zip(roles(op), parameter_shapes(op, *shapes), parameters, strict=True):
        shared_slope = isinstance(op, Activation) and have.shape == (1,)
        if have.shape != want and not shared_slope:
            raise ShapeError(
                f"its {role} has shape {have.shape}, the layer needs {want}",
                remedy="check the number of input channels",
            )
    parts = image_slices(op, inputs)
    if parts:
        return (_computed_by_image(op, inputs, parameters, parts),)
    result = compute(op, *inputs, *parameters)
    return result if isinstance(result, tuple) else (result,)


def image_slices(op: Operator, inputs: Sequence[Array]) -> list[slice]:
    """Some images at a time, few enough that a cache holds what is made of them on the way.

    Nothing where images do not go through an operator each for itself, or are few or small.
    Convolutions see to it themselves.

    >>> image_slices(Activation(kind="relu"), [np.zeros((4, 1, 512, 512))])[:2]
    [slice(0, 1, None), slice(1, 2, None)]
    """
    x = inputs[0] if inputs else None
    if x is None or x.ndim < 2 or len(x) < 2 or x.nbytes < 2 * BLOCK_BYTES:
        return []
    match op:
        case Activation() | Unary() | GlobalPool():
            alone = True
        case Pool():
            alone = not op.indices
        case Norm():
            alone = op.kind in ("batch", "group", "instance")
        case Elementwise():
            alone = all(other.shape == x.shape for other in inputs)
        case _:
            alone = False
    size = max(1, BLOCK_BYTES * len(x) // x.nbytes)
    return [slice(at, at + size) for at in range(0, len(x), size)] if alone else []


def _computed_by_image(
    op: Operator, inputs: Sequence[Array], parameters: Sequence[Array], parts: Sequence[slice]
) -> Array:
    def some(images: slice) -> Array:
        result = compute(op, *(x[images] for x in inputs), *parameters)
        assert isinstance(result, np.ndarray)
        return result

    first = some(parts[0])
    made = np.empty((len(inputs[0]), *first.shape[1:]), first.dtype)
    made[parts[0]] = first

    def put(images: slice) -> None:
        made[images] = some(images)

    spread(put, parts[1:])
    return made


def run_chain(chain: Sequence[ConvStep], x: Array) -> Array:
    """Runs layers that follow each other."""
    for step in chain:
        x = apply(step.op, [x], step.parameters)[0]
        if step.rectified:
            x = np.maximum(x, 0)
    return x
