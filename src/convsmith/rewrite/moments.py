"""Sums over what stands in a layer's windows: all that a fit needs to know of the data.

For every output position the window is unfolded to a vector ``x`` per group of channels; the sums
are how many, ``sum x`` and ``sum x x^T``. They add up, so shards merge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from convsmith.graph import Node
from convsmith.graph.evaluate import pad_for_windows, windows
from convsmith.graph.operators import Conv, Linear
from convsmith.graph.shape import infer_shapes
from convsmith.parallel import spread, threads
from convsmith.rewrite.site import Site

__all__ = ["MOMENT_BYTES", "POSITIONS", "Moments", "bytes_of_moments", "vectors"]

Array = npt.NDArray[Any]

POSITIONS = 2048
"""Output positions per image and layer that enter the sums; all of them when there are fewer."""

BLOCK_BYTES = 32 << 20
"""How large a block of vectors may be while its products are taken."""

MOMENT_BYTES = 1 << 30
"""The largest sums that are kept for one layer; a layer that needs more is fitted without."""

VECTOR_BYTES = 256 << 20
"""How many bytes of unfolded inputs are held at once."""

PANEL = 1024
"""How many columns of the products one thread computes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Sums over the unfolded windows of one layer.

    Attributes:
        count: How many vectors.
        first: ``sum x``, ``(groups, n)``.
        second: ``sum x x^T``, ``(groups, n, n)``.
    """

    count: int
    first: Array
    second: Array

    @classmethod
    def of(cls, vectors: Array) -> Moments:
        """Sums over ``(P, groups, n)``, block by block in float64.

        The sums do not depend on how many threads there are.

        >>> Moments.of(np.array([[[1.0, 2.0]], [[3.0, 4.0]]])).second[0]
        array([[10., 14.],
               [14., 20.]])
        """
        _, groups, width = vectors.shape
        if groups == 1:
            second = _products(vectors[:, 0])[None]
        else:

            def one(group: int) -> Array:
                part = vectors[:, group].astype(np.float64)
                result: Array = part.T @ part
                return result

            second = np.stack(spread(one, range(groups)))
        first = vectors.sum(axis=0, dtype=np.float64)
        return cls(count=len(vectors), first=first, second=second.reshape(groups, width, width))

    @property
    def mean(self) -> Array:
        """``E[x]``, ``(groups, n)``."""
        mean: Array = self.first / self.count
        return mean

    def covariance(self, group: int) -> Array:
        """``E[(x - mu)(x - mu)^T]`` of one group; the bias takes care of the mean.

        Its diagonal is raised by what the difference may lose to rounding, so that inputs that
        never change give a matrix that can be used.
        """
        mean = self.first[group] / self.count
        covariance: Array = self.second[group] / self.count - np.outer(mean, mean)
        lost = 1e-12 * self.second[group].trace() / (self.count * len(mean))
        covariance[np.diag_indices_from(covariance)] += lost
        return covariance

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            count=self.count + other.count,
            first=self.first + other.first,
            second=self.second + other.second,
        )


def bytes_of_moments(site: Site) -> int:
    """How many bytes the sums of a layer take."""
    return 8 * site.groups * site.width**2


def _products(vectors: Array) -> Array:
    """``sum x x^T`` over the rows of ``(P, n)``."""
    width = vectors.shape[1]
    size = max(256, BLOCK_BYTES // (width * 8))

    def product(place: tuple[int, int]) -> Array:
        start, column = place
        part = vectors[start : start + size].astype(np.float64)
        result: Array = part[:, column:].T @ part[:, column : column + PANEL]
        return result

    second = np.zeros((width, width))
    places = [
        (start, column)
        for start in range(0, len(vectors), size)
        for column in range(0, width, PANEL)
    ]
    for group in range(0, len(places), threads()):
        some = places[group : group + threads()]
        for (_, column), panel in zip(some, spread(product, some), strict=True):
            second[column:, column : column + PANEL] += panel
    for column in range(PANEL, width, PANEL):  # what lies above the diagonal blocks
        second[:column, column : column + PANEL] = second[column : column + PANEL, :column].T
    return second


def vectors(
    node: Node, x: Array, positions: int, *, seed: int, first: int = 0, outputs: Array | None = None
) -> Iterator[Array]:
    """Unfolds the inputs of a layer at random positions, some images at a time.

    The positions of every image are drawn by the layer's name, ``seed`` and the image's place
    in its batch, so that every pass over the same batch sees the same ones.

    Args:
        node: A convolution, transposed or not, or a linear layer.
        x: Its inputs, ``(N, C_in, *spatial)`` or ``(N, ..., C_in)``.
        positions: Output positions per image; all of them when there are fewer.
        seed: Tells batches apart.
        first: The place of the first image of ``x`` in its batch.
        outputs: Values of the shape of its output to take at the same positions.

    Yields:
        Arrays ``(P, groups, n)``, or ``(P, groups, n + C_out / groups)`` with the outputs behind.
    """
    op = node.op
    assert isinstance(op, Conv | Linear)
    if isinstance(op, Linear):
        groups, kernel = 1, tuple[int, ...]()
        x = np.moveaxis(x, -1, 1)
        outputs = None if outputs is None else np.moveaxis(outputs, -1, 1)
        sizes = x.shape[2:]
    else:
        groups, kernel = op.groups, op.kernel
        x, op = _as_plain(op, x) if op.transposed else (pad_for_windows(op, x), op)
        x = windows(op, x)
        sizes = x.shape[2 : 2 + len(kernel)]
    width = x.shape[1] // groups * math.prod(kernel)
    outs = 0 if outputs is None else outputs.shape[1] // groups

    def image(index: int) -> Array:
        at = _chosen(node.name, sizes, positions, seed, first + index)
        there: tuple[Any, ...] = (slice(None), *at)
        count = len(at[0]) if at else 1
        part = np.empty((count, groups, width + outs), dtype=x.dtype)
        seen = np.moveaxis(x[index][there], 1, 0) if at else x[index][None]
        part[..., :width] = seen.reshape(count, groups, width)
        if outputs is not None:
            wanted = outputs[index][there].T if at else outputs[index][None]
            part[..., width:] = wanted.reshape(count, groups, outs)
        return part

    per_image = min(positions, math.prod(sizes)) * groups * (width + outs) * x.itemsize
    together = max(1, VECTOR_BYTES // max(per_image, 1))
    for start in range(0, len(x), together):
        yield np.concatenate(spread(image, range(start, min(start + together, len(x)))))


def _as_plain(op: Conv, x: Array) -> tuple[Array, Conv]:
    """A transposed convolution as a plain one: its input spread out, padded or cut, and that."""
    outputs = infer_shapes(op, x.shape)[0]
    assert outputs is not None
    reach = [d * (k - 1) for k, d in zip(op.kernel, op.dilation, strict=True)]
    lows = [low for low, _ in op.padding]
    sizes = tuple(out + far for out, far in zip(outputs[2:], reach, strict=True))
    plain = np.zeros((*x.shape[:2], *sizes), dtype=x.dtype)
    there, here = [slice(None)] * 2, [slice(None)] * 2
    for size, room, far, low, stride in zip(
        x.shape[2:], sizes, reach, lows, op.stride, strict=True
    ):
        # Element i stands at far - low + i * stride; what falls outside is not looked at.
        begin = max(0, -((far - low) // stride)) if far < low else 0
        end = min(size, -(-(room - (far - low)) // stride))
        start = far - low + begin * stride
        there.append(slice(start, start + max(end - begin - 1, 0) * stride + 1, stride))
        here.append(slice(begin, max(end, begin)))
        if end <= begin:
            there[-1] = slice(0, 0)
    plain[tuple(there)] = x[tuple(here)]
    ones = (1,) * len(op.kernel)
    return plain, replace(
        op, transposed=False, stride=ones, padding=((0, 0),) * len(ones),
        output_padding=(),
    )  # fmt: skip


def _chosen(
    name: str, outputs: tuple[int, ...], positions: int, seed: int, index: int
) -> tuple[Array, ...]:
    total = math.prod(outputs)
    if total <= positions:
        chosen = np.arange(total)
    else:
        generator = np.random.default_rng((crc32(name.encode()), seed, index))
        chosen = np.sort(generator.choice(total, positions, replace=False))
    return tuple(np.unravel_index(chosen, outputs)) if outputs else ()
