"""Sums over what stands in a layer's windows: all that a fit needs to know of the data.

For every output position the window is unfolded to a vector ``x`` per group of channels; the sums
are how many, ``sum x`` and ``sum x x^T``. They add up, so shards merge.
"""

from __future__ import annotations

import itertools
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
from convsmith.parallel import spread
from convsmith.rewrite.site import Site

__all__ = [
    "MOMENT_BYTES",
    "POSITIONS",
    "Moments",
    "Sums",
    "bytes_of_moments",
    "chosen_positions",
    "vectors",
]

Array = npt.NDArray[Any]

POSITIONS = 2048
"""Output positions per image and layer that enter the sums; all of them when there are fewer."""

MOMENT_BYTES = 1 << 30
"""The largest sums that are kept for one layer; a layer that needs more is fitted without."""

VECTOR_BYTES = 256 << 20
"""How many bytes of unfolded inputs are held at once."""

PANEL = 512
"""How many rows and columns of the products one thread computes at a time."""

RUNS = 4
"""Runs of vectors whose products are taken side by side, where there are few panels."""


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
        """Sums over ``(P, groups, n)`` in float64.

        The sums do not depend on how many threads there are.

        >>> Moments.of(np.array([[[1.0, 2.0]], [[3.0, 4.0]]])).second[0]
        array([[10., 14.],
               [14., 20.]])
        """
        sums = Sums(*vectors.shape[1:])
        sums.add(vectors)
        return sums.moments()

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


class Sums:
    """The sums of :class:`Moments` while they grow, in place.

    Args:
        groups: Of channels.
        width: Numbers in a group's vector.
    """

    def __init__(self, groups: int, width: int) -> None:
        self.count = 0
        self.first = np.zeros((groups, width))
        self.second = np.zeros((groups, width, width))
        """Of one group, only what lies in panels on and below the diagonal."""
        self.held: list[Array] = []
        """Vectors that wait until they are enough for their products to be worth their time."""

    def add(self, vectors: Array) -> None:
        """Adds ``(P, groups, n)``; holds on to fewer than ``n / 2`` vectors of one group."""
        self.count += len(vectors)
        if len(self.first) == 1:
            self.held.append(vectors[:, 0])
            if 2 * sum(map(len, self.held)) >= vectors.shape[2]:
                self._let_go()
            return

        def one(group: int) -> None:
            part = vectors[:, group].astype(np.float64)
            self.second[group] += part.T @ part
            self.first[group] += part.sum(axis=0)

        spread(one, range(len(self.first)))

    @property
    def squares(self) -> Array:
        """``sum x^T x`` of every group."""
        found: Array = np.trace(self.second, axis1=1, axis2=2)
        return found + sum(float(np.square(rows, dtype=np.float64).sum()) for rows in self.held)

    def moments(self) -> Moments:
        """The sums so far, whole; they must not grow any more."""
        self._let_go()
        second = self.second
        if len(second) == 1:
            for rows, columns in _panels(second.shape[1]):
                if rows != columns:
                    second[0, columns, rows] = second[0, rows, columns].T
        return Moments(count=self.count, first=self.first, second=second)

    def _let_go(self) -> None:
        """Adds the products of what is held, ``(P, n)``, the symmetric ones once."""
        if not self.held:
            return
        rows = self.held[0] if len(self.held) == 1 else np.concatenate(self.held)
        self.held = []
        panels = _panels(rows.shape[1])
        runs = np.array_split(rows, 1 if len(panels) > 2 * RUNS else RUNS)

        def product(place: tuple[Array, tuple[slice, slice]]) -> Array:
            run, (above, beside) = place
            left = run[:, above].astype(np.float64, copy=False)
            # The same array twice: the library then takes the symmetric product, half the work.
            right = left if above == beside else run[:, beside].astype(np.float64, copy=False)
            result: Array = left.T @ right
            return result

        made = spread(product, [(run, panel) for panel in panels for run in runs])

        def put(index: int) -> None:
            above, beside = panels[index]
            for part in made[index * len(runs) : (index + 1) * len(runs)]:
                self.second[0, above, beside] += part
            if above == beside:
                self.first[0, above] += rows[:, above].sum(axis=0, dtype=np.float64)

        spread(put, range(len(panels)))


def _panels(width: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the panels on and below the diagonal."""
    count = -(-width // PANEL)
    ends = [width * index // count for index in range(count + 1)]
    cuts = [slice(start, end) for start, end in itertools.pairwise(ends)]
    return [(rows, columns) for at, rows in enumerate(cuts) for columns in cuts[: at + 1]]


def vectors(
    node: Node,
    x: Array,
    positions: int,
    *,
    seed: int,
    first: int = 0,
    outputs: Array | None = None,
    dtype: npt.DTypeLike | None = None,
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
        dtype: Of the vectors; that of ``x`` by default.

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
    made_of = np.dtype(x.dtype if dtype is None else dtype)
    count = min(positions, math.prod(sizes))
    per_image = count * groups * (width + outs) * made_of.itemsize
    together = max(1, VECTOR_BYTES // max(per_image, 1))
    for start in range(0, len(x), together):
        images = range(start, min(start + together, len(x)))
        made = np.empty((len(images), count, groups, width + outs), made_of)

        def unfold(index: int, made: Array = made, start: int = start) -> None:
            at = chosen_positions(node.name, sizes, positions, seed, first + index)
            there: tuple[Any, ...] = (slice(None), *at)
            part = made[index - start]
            seen = np.moveaxis(x[index][there], 1, 0) if at else x[index][None]
            part[..., :width] = seen.reshape(count, groups, width)
            if outputs is not None:
                wanted = outputs[index][there].T if at else outputs[index][None]
                part[..., width:] = wanted.reshape(count, groups, outs)

        spread(unfold, images)
        yield made.reshape(-1, groups, width + outs)


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


def chosen_positions(
    name: str, outputs: tuple[int, ...], positions: int, seed: int, index: int
) -> tuple[Array, ...]:
    """The places, axis by axis, of at most so many positions of a layer's output: by chance.

    Args:
        name: The layer's name: every layer is seen at other places.
        outputs: The sizes of the output along its spatial axes.
        positions: How many; all of them when there are fewer.
        seed: Tells batches apart.
        index: Tells images apart.
    """
    total = math.prod(outputs)
    if total <= positions:
        chosen = np.arange(total)
    else:
        generator = np.random.default_rng((crc32(name.encode()), seed, index))
        chosen = np.sort(generator.choice(total, positions, replace=False))
    return tuple(np.unravel_index(chosen, outputs)) if outputs else ()
