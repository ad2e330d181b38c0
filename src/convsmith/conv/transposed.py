"""Transposed convolution, as convolutions: one per phase of the output.

    y[n, k, o] = bias[k] + sum over c, i, t with o + before = i * stride + t * dilation
                 of  w[c, k, t] * x[n, g(k) + c, i]

For outputs of one remainder r = (o + before) mod stride, only the taps with t * dilation = r
(mod stride) have an input, and consecutive outputs read consecutive inputs: that is a plain
convolution of stride 1 with these taps in reverse (Shi et al. 2016, section 2.2, for sub-pixel
convolution). With g = gcd(stride, dilation) they are every (stride / g)-th tap and read inputs
dilation / g apart. No zero is ever multiplied, and every phase takes the algorithm that is best for
its shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.choice import DEFAULT_TOLERANCE, plan
from convsmith.conv.output import activated
from convsmith.conv.plan import ConvPlan, Prepared, checked
from convsmith.conv.spec import Activation, ConvSpec, Layout
from convsmith.errors import ShapeError, UsageError
from convsmith.results import Displayed

__all__ = ["Phase", "PreparedTransposed", "TransposedPlan", "TransposedSpec", "plan_transposed"]


@dataclass(frozen=True, kw_only=True)
class TransposedSpec:
    """One transposed convolution: what :class:`ConvSpec` is for a plain one.

    Attributes:
        size: Spatial sizes of the input: (L,), (H, W) or (D, H, W).
        channels: Input channels C.
        filters: Output channels K.
        kernel: Spatial sizes of the kernel.
        stride: Outputs from one input's to the next one's, per axis.
        dilation: Outputs from one tap's to the next one's, per axis.
        padding: Outputs cut off (before, after) per axis; never negative.
        output_padding: Outputs added behind, per axis; they see what the kernel's reach gives them.
        groups: C and K are multiples of it.
        batch: N.
        layout: ``channels_first`` or ``channels_last``, input and output.
        bias: Whether one number per filter is added.
        activation: What is applied last.

    Raises:
        UsageError: For values that no transposed convolution has.
        ShapeError: For sizes that do not fit together.

    >>> TransposedSpec(size=(7, 7), channels=8, filters=4, kernel=(4, 4), stride=(2, 2)).output
    (16, 16)
    """

    size: tuple[int, ...]
    channels: int
    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    batch: int = 1
    layout: Layout = "channels_first"
    bias: bool = True
    activation: Activation = "none"

    def __post_init__(self) -> None:
        rank = len(self.size)
        fill: dict[str, tuple[Any, ...]] = {
            "stride": (1,) * rank,
            "dilation": (1,) * rank,
            "padding": ((0, 0),) * rank,
            "output_padding": (0,) * rank,
        }
        for name, default in fill.items():
            if getattr(self, name) == ():
                object.__setattr__(self, name, default)
        # The convolution whose input has room for every tap says what is wrong with the rest.
        ConvSpec(
            size=self.size,
            channels=self.channels,
            filters=self.filters,
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            padding=tuple(
                (d * (k - 1),) * 2 for k, d in zip(self.kernel, self.dilation, strict=True)
            )
            if rank == len(self.kernel) == len(self.dilation)
            else (),
            groups=self.groups,
            batch=self.batch,
            layout=self.layout,
            activation=self.activation,
        )
        for name in ("padding", "output_padding"):
            given = getattr(self, name)
            if len(given) != rank:
                raise UsageError(
                    f"{name} {given} has {len(given)} entries for {rank} spatial axes",
                    remedy="give one per axis",
                )
        if min((*self.output_padding, *(side for pair in self.padding for side in pair))) < 0:
            raise UsageError(
                "a padding is negative", remedy="cut with padding, add with output_padding"
            )
        if min(self.size) < 1:
            raise ShapeError(
                f"an input of size {self.size} is empty", remedy="give 1 or more along every axis"
            )
        if min(self.output) < 0:
            raise ShapeError(
                f"padding {self.padding} cuts more off than there is: the output would have size "
                f"{self.output}",
                remedy="pad less",
            )

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def output(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple(
            (n - 1) * s - sum(pads) + d * (k - 1) + 1 + more
            for n, s, pads, d, k, more in zip(
                self.size, self.stride, self.padding, self.dilation, self.kernel,
                self.output_padding, strict=True,
            )
        )  # fmt: skip

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of x."""
        return self._shape(self.channels, self.size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of y."""
        return self._shape(self.filters, self.output)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of w: (C, K / groups, *kernel), in both layouts."""
        return (self.channels, self.filters // self.groups, *self.kernel)

    def _shape(self, channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
        if self.layout == "channels_first":
            return (self.batch, channels, *size)
        return (self.batch, *size, channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulate pairs: every input with every tap, cut off or not."""
        per = math.prod(self.weight_shape[1:])
        return self.batch * self.channels * math.prod(self.size) * per

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The plain convolutions that it is made of; phases without an output are left out."""
        axes = [
            _axis_phases(n, k, s, d, pads[0], out)
            for n, k, s, d, pads, out in zip(
                self.size, self.kernel, self.stride, self.dilation, self.padding, self.output,
                strict=True,
            )
        ]  # fmt: skip
        return tuple(Phase(axes=parts) for parts in product(*axes))

    def convolution(self, phase: Phase) -> ConvSpec | None:
        """Returns the convolution of a phase; nothing if no tap or no input reaches it."""
        if not all(axis.taps and axis.inputs for axis in phase.axes):
            return None
        return ConvSpec(
            batch=self.batch,
            size=tuple(len(axis.inputs) for axis in phase.axes),
            channels=self.channels,
            filters=self.filters,
            kernel=tuple(len(axis.taps) for axis in phase.axes),
            dilation=tuple(axis.dilation for axis in phase.axes),
            padding=tuple(axis.padding for axis in phase.axes),
            groups=self.groups,
            layout=self.layout,
            bias=self.bias,
            activation=self.activation,
        )

    def at(self, *ranges: range) -> tuple[slice, ...]:
        """Returns the index of a part of the image, given the range of every spatial axis."""
        spatial = tuple(slice(r.start, r.stop, r.step) if r else slice(0, 0) for r in ranges)
        whole = slice(None)
        if self.layout == "channels_first":
            return (whole, whole, *spatial)
        return (whole, *spatial, whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class _AxisPhase:
    """One phase along one axis: which outputs, by which taps, from which inputs."""

    outputs: range
    taps: range  # in the order of the convolution: against that of the kernel
    inputs: range
    dilation: int
    padding: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Outputs that are one plain convolution.

    Attributes:
        axes: Per spatial axis: outputs, taps, inputs, and the steps between.
    """

    axes: tuple[_AxisPhase, ...]


def _axis_phases(n: int, k: int, s: int, d: int, before: int, out: int) -> list[_AxisPhase]:
    shared = math.gcd(s, d)
    found = []
    for remainder in range(s):
        first = (remainder - before) % s
        outputs = range(first, out, s)
        if not outputs:
            continue
        least = next((t for t in range(min(k, s // shared)) if (t * d - remainder) % s == 0), None)
        if least is None:
            found.append(
                _AxisPhase(
                    outputs=outputs, taps=range(0), inputs=range(0), dilation=1, padding=(0, 0)
                )
            )
            continue
        taps = range(least, k, s // shared)[::-1]
        step = d // shared
        # The first output reads inputs start, start + step, ...; each further output one further.
        start = (first + before - taps[0] * d) // s
        stop = start + len(outputs) + (len(taps) - 1) * step
        inputs = range(min(max(start, 0), n), max(min(stop, n), 0))
        pads = (inputs.start - start, stop - inputs.stop) if inputs else (0, 0)
        found.append(
            _AxisPhase(outputs=outputs, taps=taps, inputs=inputs, dilation=step, padding=pads)
        )
    return found


@dataclass(frozen=True, kw_only=True)
class TransposedPlan(Displayed):
    """How one transposed convolution will be computed.

    Attributes:
        spec: The problem. Its batch is a prediction: any batch can be run.
        parts: Per phase its plan, or nothing where only the bias arrives.
    """

    spec: TransposedSpec
    parts: tuple[tuple[Phase, ConvPlan | None], ...]

    def prepare(
        self, weights: NDArray[Any], bias: NDArray[Any] | None = None
    ) -> PreparedTransposed:
        """Lays weights out for the kernels, once.

        Args:
            weights: Of ``spec.weight_shape``; taken as float32.
            bias: One number per filter, if the spec has a bias.

        Raises:
            ShapeError: If they have other shapes.
            UsageError: If there is a bias and the spec has none, or the other way round.
        """
        return PreparedTransposed(self, weights, bias)

    def __repr__(self) -> str:
        spec = self.spec
        mults = sum(made.operations.mults for _, made in self.parts if made is not None)
        lines = [
            f"TransposedPlan of {len(self.parts)} phases",
            f"  operations   {mults:,} multiplications (the definition has {spec.macs:,})",
        ]
        for phase, made in self.parts:
            place = ", ".join(f"{axis.outputs.start}::{axis.outputs.step}" for axis in phase.axes)
            how = "bias alone" if made is None else f"{made.algorithm} {made.tiling} of {made.spec}"
            lines.append(f"  [{place}]  {how}")
        return "\n".join(lines)


def plan_transposed(
    spec: TransposedSpec,
    *,
    algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE,
    tune: bool = False,
    cold: bool = False,
) -> TransposedPlan:
    """Returns how a transposed convolution is best computed; see :func:`convsmith.conv.plan`.

    >>> spec = TransposedSpec(size=(4, 4), channels=2, filters=2, kernel=(4, 4), stride=(2, 2))
    >>> len(plan_transposed(spec).parts)
    4
    """
    parts = []
    for phase in spec.phases:
        inner = spec.convolution(phase)
        made = None
        if inner is not None:
            made = plan(inner, algorithm=algorithm, tolerance=tolerance, tune=tune, cold=cold)
        parts.append((phase, made))
    return TransposedPlan(spec=spec, parts=tuple(parts))


class PreparedTransposed:
    """A transposed convolution with its weights; any number of Python threads may call it."""

    def __init__(
        self, plan: TransposedPlan, weights: NDArray[Any], bias: NDArray[Any] | None
    ) -> None:
        spec = plan.spec
        weights = np.asarray(weights)
        if weights.shape != spec.weight_shape:
            raise ShapeError(
                f"the weights have shape {weights.shape}, not {spec.weight_shape}",
                remedy="weights are (channels, filters / groups, *kernel) in both layouts",
            )
        if (bias is not None) != spec.bias:
            raise UsageError(
                "the spec says that there is a bias" if spec.bias else "the spec has no bias",
                remedy="pass bias=" if spec.bias else "leave it out, or set bias=True in the spec",
            )
        if bias is not None and np.shape(bias) != (spec.filters,):
            raise ShapeError(
                f"the bias has shape {np.shape(bias)}, not ({spec.filters},)",
                remedy="give one number per filter",
            )
        self.plan = plan
        turned = turned_weights(spec, weights)
        self._parts: list[tuple[Phase, Prepared | None]] = []
        for phase, made in plan.parts:
            self._parts.append(
                (phase, None if made is None else made.prepare(phase_weights(turned, phase), bias))
            )
        self._rest = _biased(spec, None if bias is None else np.asarray(bias, np.float32))

    def __call__(
        self, x: NDArray[np.float32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Convolves.

        Args:
            x: float32, C-contiguous, of ``spec.input_shape`` with any batch.
            out: Where the result goes, of ``spec.output_shape``; a new array by default. It may
                not share memory with ``x``.

        Raises:
            ShapeError: If a shape does not fit.
            UsageError: If a type, a layout in memory or an overlap is not as said.
        """
        spec = self.plan.spec
        shape = checked(x, out, spec.input_shape, spec.output_shape)
        if out is None:
            out = np.empty(shape, np.float32)
        for phase, prepared in self._parts:
            to = spec.at(*(axis.outputs for axis in phase.axes))
            if prepared is None:
                out[to] = self._rest
                continue
            part = np.ascontiguousarray(x[spec.at(*(axis.inputs for axis in phase.axes))])
            if len(self._parts) == 1:
                return prepared(part, out)
            out[to] = prepared(part)
        return out


def turned_weights(spec: TransposedSpec, weights: NDArray[Any]) -> NDArray[Any]:
    """Returns the weights as a convolution has them: (filters, channels / groups, *kernel)."""
    groups, kernel = spec.groups, spec.kernel
    split = weights.reshape(groups, spec.channels // groups, spec.filters // groups, *kernel)
    return split.swapaxes(1, 2).reshape(spec.filters, spec.channels // groups, *kernel)


def phase_weights(turned: NDArray[Any], phase: Phase) -> NDArray[Any]:
    """Returns the weights of one phase's convolution."""
    for place, axis in enumerate(phase.axes):
        turned = np.take(turned, list(axis.taps), axis=2 + place)
    return turned


def _biased(spec: TransposedSpec, bias: NDArray[Any] | None) -> NDArray[Any]:
    """Returns what an output is that nothing but the bias reaches, ready to be broadcast."""
    made = np.zeros(spec.filters, np.float32) if bias is None else bias
    made = activated(spec.activation, made)
    return made if spec.layout == "channels_last" else made.reshape(-1, *[1] * spec.rank)


def reference(
    spec: TransposedSpec, x: NDArray[Any], w: NDArray[Any], bias: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Returns the definition, in the type of x: every input adds its kernel to the output."""
    last = spec.layout == "channels_last"
    x = np.moveaxis(x, -1, 1) if last else x
    turned = turned_weights(spec, w)
    full = [
        max((n - 1) * s + d * (k - 1) + 1 + more, pads[0] + out)
        for n, s, d, k, more, pads, out in zip(
            spec.size, spec.stride, spec.dilation, spec.kernel, spec.output_padding, spec.padding,
            spec.output, strict=True,
        )
    ]  # fmt: skip
    y = np.zeros((len(x), spec.filters, *full), x.dtype)
    per, out = spec.channels // spec.groups, spec.filters // spec.groups
    for tap in np.ndindex(*spec.kernel):
        seen = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, spec.dilation, spec.size, spec.stride, strict=True)
        )
        for g in range(spec.groups):
            taps = turned[(slice(g * out, g * out + out), slice(None), *tap)]
            y[(slice(None), slice(g * out, g * out + out), *seen)] += np.einsum(
                "kc,nc...->nk...", taps, x[:, g * per : g * per + per]
            )
    kept = tuple(
        slice(pads[0], pads[0] + size) for pads, size in zip(spec.padding, spec.output, strict=True)
    )
    y = y[(slice(None), slice(None), *kept)]
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * spec.rank)
    y = activated(spec.activation, y).astype(x.dtype, copy=False)
    return np.ascontiguousarray(np.moveaxis(y, 1, -1) if last else y)
