"""Convolutions of arrays, in one call: ``conv1d``, ``conv2d``, ``conv3d``.

For NumPy arrays and for torch tensors on the CPU, whose memory is read in place. One call plans,
packs the weights and runs; who convolves often prepares once: ``plan(spec).prepare(w, b)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.choice import DEFAULT_TOLERANCE, plan
from convsmith.conv.output import activated
from convsmith.conv.plan import ConvPlan, plan_with
from convsmith.conv.spec import Activation, ConvSpec, Layout
from convsmith.errors import ShapeError, UnsupportedOperatorError, UsageError

__all__ = ["conv1d", "conv2d", "conv3d"]

Padding = int | str | Sequence[int | tuple[int, int]]


_A = TypeVar("_A")


def conv1d(
    x: _A, w: _A, b: _A | None = None, *, stride: int | Sequence[int] = 1, padding: Padding = 0,
    dilation: int | Sequence[int] = 1, groups: int = 1, activation: Activation = "none",
    residual: _A | None = None, layout: Layout | None = None, algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE, tune: bool = False, out: _A | None = None,
) -> _A:  # fmt: skip
    """Convolves (N, C, L) with (K, C / groups, k); see :func:`conv2d`.

    >>> import numpy as np
    >>> conv1d(np.ones((1, 1, 5), "f4"), np.ones((1, 1, 3), "f4"))
    array([[[3., 3., 3.]]], dtype=float32)
    """
    made: _A = _convolve(
        1, x, w, b, stride, padding, dilation, groups, activation, residual, layout, algorithm,
        tolerance, tune, out,
    )  # fmt: skip
    return made


def conv2d(
    x: _A, w: _A, b: _A | None = None, *, stride: int | Sequence[int] = 1, padding: Padding = 0,
    dilation: int | Sequence[int] = 1, groups: int = 1, activation: Activation = "none",
    residual: _A | None = None, layout: Layout | None = None, algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE, tune: bool = False, out: _A | None = None,
) -> _A:  # fmt: skip
    """Convolves images with filters, by the best algorithm for their shape.

    Args:
        x: (N, C, H, W), or (N, H, W, C) with ``layout="channels_last"``. NumPy, or a torch tensor
            on the CPU; a torch tensor is always written (N, C, H, W) and its strides tell the
            layout.
        w: Filters, (K, C / groups, h, w) in both layouts.
        b: One number per filter.
        stride: One number, or one per axis.
        padding: Zeros around: one number, one per axis, pairs (before, after) per axis, ``"same"``
            (output as large as the input; stride 1) or ``"valid"`` (none).
        dilation: One number, or one per axis.
        groups: Channels and filters are multiples of it.
        activation: ``none``, ``relu``, ``relu6``, ``silu`` or ``hardswish``, applied last.
        residual: Added before the activation; of the output's shape.
        layout: ``channels_first`` or ``channels_last``, for NumPy arrays.
        algorithm: ``auto``, ``exact`` (no transforms), or a name.
        tolerance: The largest error that ``auto`` accepts; see :func:`convsmith.conv.choice.plan`.
        tune: Whether to measure the candidates for this shape, once per machine.
        out: Where the result goes, instead of a new array.

    Returns:
        (N, K, H', W'), or (N, H', W', K), of the kind and type of x. float32 runs compiled; other
        types through the reference, in their own precision.

    Raises:
        ShapeError: If shapes do not fit.
        UsageError: If an argument makes no sense.

    >>> import numpy as np
    >>> image = np.arange(16, dtype="f4").reshape(1, 1, 4, 4)
    >>> conv2d(image, np.ones((1, 1, 3, 3), "f4"))
    array([[[[45., 54.],
             [81., 90.]]]], dtype=float32)
    """
    made: _A = _convolve(
        2, x, w, b, stride, padding, dilation, groups, activation, residual, layout, algorithm,
        tolerance, tune, out,
    )  # fmt: skip
    return made


def conv3d(
    x: _A, w: _A, b: _A | None = None, *, stride: int | Sequence[int] = 1, padding: Padding = 0,
    dilation: int | Sequence[int] = 1, groups: int = 1, activation: Activation = "none",
    residual: _A | None = None, layout: Layout | None = None, algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE, tune: bool = False, out: _A | None = None,
) -> _A:  # fmt: skip
    """Convolves (N, C, D, H, W) with (K, C / groups, d, h, w); see :func:`conv2d`.

    >>> import numpy as np
    >>> conv3d(np.ones((1, 1, 2, 2, 2), "f4"), np.ones((1, 1, 2, 2, 2), "f4"))
    array([[[[[8.]]]]], dtype=float32)
    """
    made: _A = _convolve(
        3, x, w, b, stride, padding, dilation, groups, activation, residual, layout, algorithm,
        tolerance, tune, out,
    )  # fmt: skip
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What a call says beside its arrays."""

    rank: int
    stride: int | Sequence[int]
    padding: Padding
    dilation: int | Sequence[int]
    groups: int
    activation: Activation
    layout: Layout
    algorithm: str
    tolerance: float
    tune: bool

    def spec(self, x: NDArray[Any], w: NDArray[Any], *, bias: bool, residual: bool) -> ConvSpec:
        """Returns the problem."""
        rank, last = self.rank, self.layout == "channels_last"
        for name, value in (("x", x), ("w", w)):
            if value.ndim != rank + 2:
                raise ShapeError(
                    f"{name} has shape {value.shape}, not {rank + 2} axes",
                    remedy=f"conv{rank}d takes a batch of images and filters, {rank + 2} axes each",
                )
        stride = per_axis("stride", self.stride, rank)
        dilation = per_axis("dilation", self.dilation, rank)
        channels = x.shape[-1 if last else 1]
        if w.shape[1] * self.groups != channels:
            raise ShapeError(
                f"w has {w.shape[1]} channels per group, x {channels} in {self.groups} groups",
                remedy="w is (filters, channels / groups, *kernel)",
            )
        return ConvSpec(
            batch=x.shape[0],
            size=x.shape[1:-1] if last else x.shape[2:],
            channels=channels,
            filters=w.shape[0],
            kernel=w.shape[2:],
            stride=stride,
            dilation=dilation,
            padding=pairs_per_axis(self.padding, w.shape[2:], stride, dilation),
            groups=self.groups,
            layout=self.layout,
            bias=bias,
            residual=residual,
            activation=self.activation,
        )

    def plan(self, spec: ConvSpec) -> ConvPlan:
        """Returns how to compute it."""
        return plan(spec, algorithm=self.algorithm, tolerance=self.tolerance, tune=self.tune)


def _convolve(
    rank: int, x: Any, w: Any, b: Any, stride: int | Sequence[int], padding: Padding,
    dilation: int | Sequence[int], groups: int, activation: Activation, residual: Any,
    layout: Layout | None, algorithm: str, tolerance: float, tune: bool, out: Any,
) -> Any:  # fmt: skip
    given = arrays_of(rank, layout, x, w, b, residual, out)
    options = _Options(
        rank=rank, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation, layout=given.layout, algorithm=algorithm, tolerance=tolerance,
        tune=tune,
    )  # fmt: skip
    images, added, into = given.images
    spec = options.spec(
        images, given.weights, bias=given.bias is not None, residual=added is not None
    )
    made = options.plan(spec)
    if out is None:
        into, out = given.result(spec.output_shape)
    _run(made, images, given.weights, given.bias, added, into)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a call was given, as NumPy arrays that share the memory of tensors.

    Attributes:
        images: x first, then what else has its layout; ``None`` for nothing.
        weights: In the order of both layouts.
        bias: One number per filter, or ``None``.
        layout: How the images lie.
        result: Returns a new array of a shape, and the same memory as the caller knows images.
    """

    images: tuple[Any, ...]
    weights: NDArray[Any]
    bias: NDArray[Any] | None
    layout: Layout
    result: Callable[[tuple[int, ...]], tuple[NDArray[Any], Any]]


def arrays_of(rank: int, layout: Layout | None, x: Any, w: Any, b: Any, *images: Any) -> Given:
    """Reads the arguments of a call, all NumPy arrays or all torch tensors.

    Args:
        rank: Spatial axes.
        layout: The layout that the caller named.
        x: The image.
        w: Weights.
        b: One number per filter, or nothing.
        images: More of x's kind, or nothing.

    Raises:
        UsageError: If something is neither, or cannot be read.
        ShapeError: If a tensor is no batch of images.
    """
    if not hasattr(x, "detach"):
        for name, value in (("x", x), ("w", w)):
            if not isinstance(value, np.ndarray):
                raise UsageError(
                    f"{name} is {type(value).__name__}, not a NumPy array or a torch tensor",
                    remedy="convert it first",
                )

        def empty(shape: tuple[int, ...]) -> tuple[NDArray[Any], Any]:
            made = np.empty(shape, x.dtype)
            return made, made

        return Given(
            images=(x, *images), weights=w, bias=b, layout=layout or "channels_first", result=empty
        )
    _check_tensors(x, w, b, *images)
    for tensor in (x, *images):
        if tensor is not None and tensor.dim() != rank + 2:
            raise ShapeError(
                f"a tensor has shape {tuple(tensor.shape)}, not {rank + 2} axes",
                remedy="the first axis counts images, the second channels",
            )
    forward, backward = (0, *range(2, rank + 2), 1), (0, rank + 1, *range(1, rank + 1))
    if layout is None and not x.is_contiguous() and x.permute(*forward).is_contiguous():
        layout = "channels_last"
    last = layout == "channels_last"

    def image(tensor: Any) -> Any:
        return None if tensor is None else _array(tensor.permute(*forward) if last else tensor)

    def fresh(shape: tuple[int, ...]) -> tuple[NDArray[Any], Any]:
        made = x.new_empty(shape)
        return made.numpy(), made.permute(*backward) if last else made

    return Given(
        images=tuple(map(image, (x, *images))),
        weights=_array(w),
        bias=None if b is None else _array(b),
        layout=layout or "channels_first",
        result=fresh,
    )


def _array(tensor: Any) -> NDArray[Any]:
    try:
        return cast("NDArray[Any]", tensor.numpy())
    except (TypeError, RuntimeError) as error:
        raise UsageError(
            f"a tensor of {tensor.dtype} cannot be read as an array: {error}",
            remedy="pass tensor.float()",
        ) from None


def _check_tensors(*tensors: Any) -> None:
    for tensor in tensors:
        if tensor is None:
            continue
        if not hasattr(tensor, "detach"):
            raise UsageError(
                f"x is a tensor, and with it comes a {type(tensor).__name__}",
                remedy="pass all as torch tensors or all as NumPy arrays",
            )
        if tensor.device.type != "cpu":
            raise UsageError(
                f"a tensor is on {tensor.device}",
                remedy="convsmith runs on the CPU: pass tensor.cpu()",
            )
        if tensor.requires_grad:
            raise UsageError(
                "a tensor requires a gradient, and this call records none",
                remedy="pass tensor.detach(), or use convsmith.accelerate for a network",
            )


def _run(
    made: ConvPlan, x: NDArray[Any], w: NDArray[Any], b: Any, residual: Any, out: NDArray[Any]
) -> None:
    if x.dtype == w.dtype == np.float32:
        if residual is not None:
            residual = np.ascontiguousarray(residual)
        made.prepare(w, b)(np.ascontiguousarray(x), out, residual=residual)
    else:
        _reference(made, x, w, b, residual, out)


def _reference(
    made: ConvPlan, x: NDArray[Any], w: NDArray[Any], b: Any, residual: Any, out: NDArray[Any]
) -> None:
    """Convolves in the type of x: any float, or integers exactly."""
    spec = made.spec
    if x.dtype.kind not in "fiu" or w.dtype != x.dtype:
        raise UsageError(
            f"x is {x.dtype} and w {w.dtype}", remedy="pass both as the same type of real numbers"
        )
    if x.dtype.kind != "f":
        made = plan_with(spec, "direct")  # transforms have fractions
        if spec.activation not in ("none", "relu", "relu6"):
            raise UnsupportedOperatorError(
                f"{spec.activation} of integers", remedy="convert x and w to a float type"
            )
    y = made.method.reference(spec, x, w, made.tiling)
    if b is not None:
        y = y + (b if spec.layout == "channels_last" else np.reshape(b, (-1, *[1] * spec.rank)))
    if residual is not None:
        y = y + residual
    y = activated(spec.activation, y).astype(x.dtype, copy=False)
    if out.shape != y.shape or out.dtype != y.dtype:
        raise ShapeError(
            f"out is {out.dtype} of shape {out.shape}, not {y.dtype} of {y.shape}",
            remedy="pass a matching array, or none for a new one",
        )
    out[...] = y


def per_axis(name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * rank
    made = tuple(value)
    if len(made) != rank:
        raise UsageError(
            f"{name} {made} has {len(made)} entries for {rank} axes", remedy="give one per axis"
        )
    return made


def pairs_per_axis(
    padding: Padding, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:  # fmt: skip
    rank = len(kernel)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * rank
        if padding != "same":
            raise UsageError(
                f"there is no padding {padding!r}", remedy="give numbers, 'same' or 'valid'"
            )
        if set(stride) != {1}:
            raise UsageError(
                "padding 'same' with a stride depends on the framework",
                remedy="give the zeros before and after per axis",
            )
        spare = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in spare)
    if isinstance(padding, int):
        return ((padding, padding),) * rank
    made = tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding)
    if len(made) != rank:
        raise UsageError(
            f"padding {padding} has {len(made)} entries for {rank} axes",
            remedy="give one number or one pair (before, after) per axis",
        )
    return made
