"""Random small networks, and what their outputs depend on by brute force.

All weights are positive and all values grow, so that nothing cancels: an output changes exactly
when it can depend on the pixel that was changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from convsmith.errors import ConvsmithError
from convsmith.graph import Constant, Graph, GraphBuilder, Output, Shape
from convsmith.graph import operators as ops
from convsmith.graph.evaluate import evaluate

Mask = npt.NDArray[np.bool_]

_CHANGE = 1e6
"""So large that the changed pixel wins every maximum on its way."""


class UndecidedError(Exception):
    """A maximum over padding alone is minus infinity, and hides what it is added to."""


def over(mask: Mask, *axes: int) -> Mask:
    """Whether any element along some axes is true."""
    found: Mask = np.any(mask, axis=axes)
    return found


def positive(graph: Graph, seed: int = 0) -> Graph:
    """The same network with positive weights."""
    random = np.random.default_rng(seed)
    constants = {
        name: Constant.of(random.uniform(0.5, 1.5, constant.shape), learnable=constant.learnable)
        for name, constant in graph.constants.items()
    }
    return Graph(inputs=graph.inputs, nodes=graph.nodes, outputs=graph.outputs, constants=constants)


def dependence(graph: Graph, value: str) -> Mask:
    """Changes every pixel in turn, all in one batch.

    Returns:
        ``(*image, channels, *positions)``: whether the element changes with the pixel.
    """
    (image,) = graph.inputs
    spatial = image.shape[2:]
    pixels = int(np.prod(spatial))
    random = np.random.default_rng(1)
    batch = np.repeat(random.uniform(1, 2, image.shape), pixels + 1, axis=0)
    for index, place in enumerate(np.ndindex(*spatial)):
        batch[(index, slice(None), *place)] += _CHANGE
    graph = positive(graph.with_inputs({image.name: (pixels + 1, *image.shape[1:])}))
    outputs = (Output(name="y", value=value),)
    graph = Graph(
        inputs=graph.inputs, nodes=graph.nodes, outputs=outputs, constants=graph.constants
    )
    made = evaluate(graph, {image.name: batch})[value]
    if not np.isfinite(made).all():
        raise UndecidedError
    changed = np.abs(made[:-1] - made[-1:]) > 1e-9 * np.abs(made[-1:])
    found: Mask = changed.reshape(*spatial, *made.shape[1:])
    return found


# Operators ------------------------------------------------------------------------

SAME: st.SearchStrategy[ops.Same | None] = st.sampled_from([None, None, None, "upper", "lower"])
ROUNDING: st.SearchStrategy[Literal["floor", "ceil"]] = st.sampled_from(["floor", "ceil"])


@st.composite
def windows(draw: st.DrawFn) -> ops.Operator:
    """A convolution or a pooling with any window, padding and rounding."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    rounding = draw(ROUNDING)
    same = draw(SAME)
    # Pooling may pad by no more than half of its window, or a window could be all padding.
    room = [(d * (k - 1) + 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple((draw(st.integers(0, r)), draw(st.integers(0, r))) for r in room)
    if draw(st.booleans()):
        return ops.Pool(
            kind=draw(st.sampled_from(["max", "average"])),
            kernel=kernel,
            stride=stride,
            padding=padding,
            same=same,
            dilation=(1, 1) if same else dilation,
            rounding=rounding,
        )
    return ops.Conv(
        channels=draw(st.sampled_from([2, 4])),
        kernel=kernel,
        stride=stride,
        padding=padding,
        same=same,
        dilation=dilation,
        groups=draw(st.sampled_from([1, 2])),
        rounding=rounding,
    )


@st.composite
def transposed(draw: st.DrawFn) -> ops.Operator:
    """A transposed convolution; some leave positions that see nothing."""
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return ops.Conv(
        channels=2,
        kernel=draw(st.tuples(st.integers(1, 4), st.integers(1, 3))),
        stride=stride,
        padding=((draw(st.integers(0, 1)), draw(st.integers(0, 1))), (0, 0)),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 3))),
        groups=draw(st.sampled_from([1, 2])),
        output_padding=tuple(draw(st.integers(0, s - 1)) for s in stride),
        transposed=True,
        bias=False,
    )


@st.composite
def resampling(draw: st.DrawFn) -> ops.Operator:
    """Interpolation and pooling to a size."""
    if draw(st.integers(0, 3)) == 0:
        size = draw(st.tuples(st.integers(1, 6), st.integers(2, 5)))
        return ops.AdaptivePool(kind="average", size=size)
    scale: tuple[Fraction, ...] = ()
    sizes: tuple[int, ...] = ()
    if draw(st.booleans()):
        scales = st.sampled_from([Fraction(1, 2), Fraction(3, 2), Fraction(2), Fraction(3)])
        scale = draw(st.tuples(scales, scales))
    else:
        sizes = draw(st.tuples(st.integers(2, 12), st.integers(1, 11)))
    return ops.Resize(
        scale=scale,
        size=sizes,
        # Cubic weights are negative: nothing may cancel here.
        mode=draw(st.sampled_from(["nearest", "linear"])),
        alignment=draw(
            st.sampled_from(["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"])
        ),
        rounding=draw(
            st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
        ),
    )


@st.composite
def moving(draw: st.DrawFn) -> ops.Operator:
    """Something that moves, cuts or repeats elements."""
    low, high = draw(st.integers(0, 2)), draw(st.integers(-1, 2))
    modes: list[Literal["constant", "edge", "reflect", "wrap"]]
    modes = ["constant", "edge", "reflect", "wrap"]
    mode = draw(st.sampled_from(modes))
    return draw(
        st.sampled_from(
            [
                ops.Pad(padding=((0, 0), (0, 0), (low, max(high, 0)), (1, low)), mode=mode),
                ops.Pad(padding=((0, 0), (0, 0), (low, high), (high, low))),
                ops.Slice(ranges=((2, low, None, 1 + low), (3, 1, None, 1))),
                ops.Flip(axes=(2,)),
                ops.Flip(axes=(2, 3)),
                ops.Transpose(permutation=(0, 1, 3, 2)),
                ops.DepthToSpace(block=(2, 1), order="crd"),
                ops.DepthToSpace(block=(1, 2), order="dcr"),
                ops.SpaceToDepth(block=(2, 1), order="crd"),
                ops.SpaceToDepth(block=(1, 2), order="dcr"),
                ops.Unfold(kernel=(2, 1), stride=(1, 2), padding=((1, 0), (0, 0)), dilation=(2, 1)),
                ops.Norm(kind="batch"),
                ops.Activation(kind="relu"),
                ops.Cumulate(axis=3),
                ops.Cumulate(axis=2, reverse=True, exclusive=True),
            ]
        )
    )


OPERATORS: dict[str, st.SearchStrategy[ops.Operator]] = {
    "windows": windows(),
    "mixture": st.one_of(windows(), windows(), transposed(), resampling(), moving()),
}


# Networks -------------------------------------------------------------------------


WAYS = ["-", "-", "add", "channels", "rows", "gate", "shuffle", "flatten"]
"""How values are brought together, or taken apart."""

CHANNELS = ["-", "add", "channels", "channels", "channels", "shuffle", "shuffle", "half",
            "every other", "split", "depthwise", "grouped", "blank"]  # fmt: skip
"""The same for channels that do not all see the same."""


@st.composite
def networks(
    draw: st.DrawFn,
    layers: st.SearchStrategy[ops.Operator],
    image: Shape = (1, 2, 9, 8),
    ways: Sequence[str] = WAYS,
) -> Graph:
    """A network of a few layers, some in branches that are added, gated or concatenated."""
    builder = GraphBuilder()
    values = [builder.input("x", image)]
    for index in range(draw(st.integers(1, 5))):
        used = values[draw(st.integers(max(0, len(values) - 2), len(values) - 1))]
        made = _add(builder, draw(layers), used, name=f"n{index}")
        if made is None:
            continue
        values.append(made)
        for turn in range(1 if ways is WAYS else 3):
            joined = _join(draw, builder, values, index * 3 + turn, ways)
            if joined is not None:
                values.append(joined)
    return builder.build(values[-1])


def _join(
    draw: st.DrawFn, builder: GraphBuilder, values: list[str], index: int, ways: Sequence[str]
) -> str | None:
    """Brings the last value together with another one, in one of several ways."""
    last = values[-1]
    shape = builder.shapes[last]
    assert shape is not None
    way = draw(st.sampled_from(ways))
    if way == "add":
        alike = [v for v in values[:-1] if builder.shapes[v] == shape]
        if alike:
            other = draw(st.sampled_from(alike))
            return _add(builder, ops.Elementwise(), last, other, name=f"add{index}")
    elif way == "channels":
        alike = [v for v in values if (builder.shapes[v] or ())[2:] == shape[2:]]
        other = draw(st.sampled_from(alike))
        return _add(builder, ops.Concat(), last, other, name=f"concat{index}")
    elif way == "rows":
        alike = [
            v
            for v in values
            if (s := builder.shapes[v]) is not None and (s[1], s[3]) == (shape[1], shape[3])
        ]
        other = draw(st.sampled_from(alike))
        return _add(builder, ops.Concat(axis=2), last, other, name=f"rows{index}")
    elif way == "gate":
        mean = _add(builder, ops.GlobalPool(kind="average"), last, name=f"gap{index}")
        assert mean is not None
        # Added, not multiplied: zero times anything would hide the gate.
        return _add(builder, ops.Elementwise(), last, mean, name=f"gate{index}")
    elif way == "shuffle" and shape[1] % 2 == 0:
        cut = (-1, 2, shape[1] // 2, *shape[2:])
        steps: list[ops.Operator] = [
            ops.Reshape(shape=cut),
            ops.Transpose(permutation=(0, 2, 1, 3, 4)),
            ops.Reshape(shape=(-1, *shape[1:])),
        ]
        return _chain(builder, steps, last, f"shuffle{index}")
    elif way in ("half", "every other") and shape[1] > 1:
        return _part(draw, builder, last, f"part{index}", every=1 + (way == "every other"))
    elif way == "split" and shape[1] > 1:
        first = draw(st.integers(1, shape[1] - 1))
        split = ops.Split(sizes=(first, shape[1] - first), axis=1)
        return builder.add_all(split, last, name=f"split{index}")[draw(st.integers(0, 1))]
    elif way == "depthwise":
        op = _row_pairs(shape[1], shape[1])
        return _add(builder, op, last, name=f"depthwise{index}")
    elif way == "grouped" and shape[1] % 2 == 0:
        op = _row_pairs(draw(st.sampled_from([2, 4, 6])), 2)
        return _add(builder, op, last, name=f"grouped{index}")
    elif way == "blank":
        low, high = draw(st.integers(-1, 2)), draw(st.integers(0, 2))
        rows = draw(st.sampled_from([(0, 0), (0, 0), (1, 0), (0, -1)]))
        op = ops.Pad(padding=((0, 0), (low, high), rows, (0, 0)))
        return _add(builder, op, last, name=f"blank{index}")
    elif way == "flatten" and 1 not in shape[2:]:
        steps = [ops.Flatten(axis=2), ops.Reshape(shape=(-1, *shape[1:]))]
        return _chain(builder, steps, last, f"flatten{index}")
    return None


def _row_pairs(channels: int, groups: int) -> ops.Operator:
    """A convolution over two pixels of a row, in groups."""
    return ops.Conv(
        channels=channels,
        kernel=(1, 2),
        stride=(1, 1),
        padding=((0, 0), (0, 1)),
        dilation=(1, 1),
        groups=groups,
    )


def _part(
    draw: st.DrawFn, builder: GraphBuilder, used: str, name: str, *, every: int
) -> str | None:
    """Some of the channels."""
    shape = builder.shapes[used]
    assert shape is not None
    start = draw(st.integers(0, shape[1] - 1))
    stop = draw(st.integers(start + 1, shape[1]))
    return _add(builder, ops.Slice(ranges=((1, start, stop, every),)), used, name=name)


def _chain(builder: GraphBuilder, steps: list[ops.Operator], used: str, name: str) -> str | None:
    made: str | None = used
    for place, op in enumerate(steps):
        if made is not None:
            made = _add(builder, op, made, name=f"{name}.{place}")
    return made


def _add(builder: GraphBuilder, op: ops.Operator, *used: Any, name: str) -> str | None:
    """Adds a node if it fits and stays small."""
    try:
        made = builder.add(op, *used, name=name)
    except ConvsmithError:
        return None
    shape = builder.shapes[made]
    assert shape is not None
    return made if 0 not in shape and np.prod(shape[1:]) < 4000 else None
