"""Random convolutions, and what they give: torch in float64, on its own code.

Sizes are small and awkward: tails of every vector width, outputs of one element, kernels as large
as the image, padding wider than the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from hypothesis import strategies as st
from torch import Tensor

from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.plan import ConvPlan
from convsmith.conv.spec import ACTIVATIONS, LAYOUTS, ConvSpec, Layout
from convsmith.kernel.target import WIDTHS

Array = npt.NDArray[Any]
_Case = TypeVar("_Case")

ROUNDOFF = 2.0**-24
_MOST = 2_000_000  # multiply-accumulate pairs of one image

Kind = Literal["any", "dense", "pointwise", "depthwise", "large", "product"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ACTIVATED: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda t: t,
    "relu": torch.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
}
_CONVOLVED = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What goes into one run."""

    x: Array
    weights: Array
    bias: Array | None
    residual: Array | None


def pairwise(cases: Iterable[_Case]) -> list[tuple[_Case, int, Layout]]:
    """Every case in every vector width and in every layout, and every width in every layout.

    Half of all combinations hold all of these pairs; compiling the others would take as long again.
    """
    return [
        (case, lanes, LAYOUTS[(at + turn) % len(LAYOUTS)])
        for at, case in enumerate(cases)
        for turn, lanes in enumerate(WIDTHS)
    ]


def data_for(spec: ConvSpec, seed: int = 0) -> Data:
    """Normal random numbers of every shape that a spec asks for."""
    random = np.random.default_rng(seed)

    def make(shape: tuple[int, ...]) -> Array:
        return random.standard_normal(shape, np.float32)

    return Data(
        x=make(spec.input_shape),
        weights=make(spec.weight_shape),
        bias=make((spec.filters,)) if spec.bias else None,
        residual=make(spec.output_shape) if spec.residual else None,
    )


def truth(spec: ConvSpec, data: Data, *, sums: bool = False) -> Array:
    """The convolution in float64 by torch; with ``sums``, that of all magnitudes, not activated."""

    def wide(array: Array, *, image: bool = False) -> Tensor:
        made = torch.from_numpy(np.array(array)).double()
        made = made.abs() if sums else made
        return made.movedim(-1, 1) if image and spec.layout == "channels_last" else made

    x = F.pad(wide(data.x, image=True), [p for pair in reversed(spec.padding) for p in pair])
    bias = None if data.bias is None else wide(data.bias)
    if len(data.x):
        y = _CONVOLVED[spec.rank](
            x, wide(data.weights), bias, spec.stride, 0, spec.dilation, spec.groups
        )
    else:
        y = torch.zeros((0, spec.filters, *spec.output), dtype=torch.float64)
    if data.residual is not None:
        y = y + wide(data.residual, image=True)
    if not sums:
        y = ACTIVATED[spec.activation](y)
    return np.asarray((y.movedim(1, -1) if spec.layout == "channels_last" else y).numpy())


def error_of(plan: ConvPlan, data: Data, y: Array) -> float:
    """The largest error, over the one that rounding explains; so above 1 is wrong.

    Rounding explains some units of the largest sum of magnitudes, more where the algorithm says
    that it amplifies errors. One product missing or misplaced is far above it.
    """
    spec = plan.spec.with_batch(len(data.x))
    wanted = truth(spec, data)
    assert y.shape == wanted.shape
    assert y.dtype == np.float32
    if not y.size:
        return 0.0
    explained = 16 * plan.error_ratio * ROUNDOFF * float(truth(spec, data, sums=True).max())
    found = float(np.abs(y - wanted).max())
    if not found:  # as where padding is all that an output sees
        return 0.0
    return found / explained if math.isfinite(found) else math.inf


@st.composite
def _sizes(draw: st.DrawFn, rank: int, kind: Kind) -> dict[str, Any]:
    """Per axis: size, kernel, stride, dilation and padding that fit together."""
    most = {1: 70, 2: 24, 3: 9}[rank]
    made: dict[str, list[Any]] = {
        key: [] for key in ("size", "kernel", "stride", "dilation", "padding")
    }
    free = kind == "any" or (kind == "depthwise" and draw(st.booleans()))
    for _ in range(rank):
        if kind in ("pointwise", "product"):
            kernel = 1
        elif kind == "large":
            kernel = draw(st.integers(1, {1: 40, 2: 13, 3: 4}[rank]))
        else:
            kernel = draw(st.integers(1, 7 if rank < 3 else 3))
        dilation = draw(st.integers(1, 3)) if free else 1
        step = free or (kind in ("depthwise", "pointwise") and draw(st.integers(0, 3)) == 0)
        stride = draw(st.integers(1, 3)) if step else 1
        reach = dilation * (kernel - 1) + 1
        wide = st.integers(0, reach + 1 if draw(st.integers(0, 4)) == 0 else kernel // 2)
        padded = kind != "product" and (kind != "pointwise" or draw(st.integers(0, 9)) == 0)
        padding = (draw(wide), draw(wide)) if padded else (0, 0)
        least = max(0, reach - sum(padding))
        if kind == "product":
            least, most = {1: (128, 150), 2: (12, 14), 3: (6, 6)}[rank]
        size = draw(st.integers(least, max(least, most)))
        for key, value in (
            ("size", size), ("kernel", kernel), ("stride", stride), ("dilation", dilation),
            ("padding", padding),
        ):  # fmt: skip
            made[key].append(value)
    return {key: tuple(values) for key, values in made.items()}


@st.composite
def specs(draw: st.DrawFn, kinds: Sequence[Kind] = KINDS) -> ConvSpec:
    """A convolution of one of some kinds, small enough to compute by brute force."""
    kind = draw(st.sampled_from(kinds))
    rank = draw(st.sampled_from((1, 2, 2, 2, 3)))
    sizes = draw(_sizes(rank, kind))
    few = st.one_of(st.integers(1, 9), st.integers(1, 40), st.sampled_from((8, 16, 32, 33, 64)))
    if kind == "depthwise" or (kind == "large" and draw(st.booleans())):
        groups = draw(few)
        per, out = 1, draw(st.sampled_from((1, 1, 1, 2, 3)))
    elif kind == "any":
        groups = draw(st.sampled_from((1, 1, 2, 3, 5)))
        per, out = draw(st.integers(1, 20)), draw(st.integers(1, 36))
    elif kind == "product":
        groups, per, out = 1, draw(st.integers(128, 150)), draw(st.integers(128, 150))
    else:
        groups, per, out = 1, draw(few), draw(few)
    work = groups * per * out * math.prod(sizes["kernel"]) * math.prod(sizes["size"])
    if work > _MOST and kind != "product":
        scale = max(1, round((work / _MOST) ** 0.5))
        per, out = max(1, per // scale), max(1, out // scale)
    return ConvSpec(
        **sizes,
        channels=groups * per,
        filters=groups * out,
        groups=groups,
        batch=draw(st.sampled_from((1, 1, 2, 3, 0))),
        layout=draw(st.sampled_from(LAYOUTS)),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


_OWN_KINDS: dict[str, tuple[Kind, ...]] = {
    "strassen": ("product",),
    "pointwise": ("pointwise", "product"),
    "winograd": ("dense",),
    "depthwise": ("depthwise", "large"),
    "fft": ("large",),
    "fft_depthwise": ("large",),
}


def specs_for(algorithm: str) -> st.SearchStrategy[ConvSpec]:
    """A convolution that an algorithm takes."""
    method = ALGORITHMS[algorithm]
    kinds = _OWN_KINDS.get(algorithm, KINDS)
    return specs(kinds).filter(lambda spec: not method.refuses(spec))
