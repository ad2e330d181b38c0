"""Fitting what a ReLU lets through: where it cuts to zero, the exact value does not matter.

For a layer whose output (through a batch norm or not) goes into a ReLU and nowhere else, the
targets ``y`` may be replaced by any ``z`` that the ReLU ``r`` maps alike. Zhang et al. 2015,
section 3.2, alternates between ``z`` and the fit ``y'``::

    min sum (r(y) - r(z))^2 + l (z - y')^2      z has a closed form, element by element

with the relaxation ``l`` growing, so that ``z`` is free first and the fit decides last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import run_chain
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Activation, Conv, Linear
from convsmith.parallel import spread
from convsmith.rewrite.following import batch_norm_behind, norm_map, only_reader

__all__ = ["RELAXATIONS", "Rectifier", "Step", "lifted", "rectifier"]

Array = npt.NDArray[Any]

RELAXATIONS = (0.01, 0.01, 0.1, 0.1, 1.0, 1.0)
"""``l`` of every round."""

ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One look at all samples.

    Attributes:
        loss: Squared error behind the ReLU, per sample.
        cross: How the covariance of the targets with the inputs changes, ``(C_out, n)``.
        mean: How the mean of the targets changes, ``(C_out,)``.
    """

    loss: float
    cross: Array
    mean: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rectifier:
    """The ReLU behind a layer, as it sees the layer's output: ``max(gain y + offset, 0)``."""

    gain: Array
    offset: Array

    def of(self, group: int, outs: int) -> Rectifier:
        """The same for one group of ``outs`` channels."""
        part = slice(group * outs, (group + 1) * outs)
        return Rectifier(gain=self.gain[part], offset=self.offset[part])

    def step(
        self, samples: Sequence[tuple[Array, Array]], weight: Array, bias: Array, relaxation: float
    ) -> Step:
        """Finds better targets for the present fit.

        Args:
            samples: Pairs of unfolded inputs ``(P, n)`` and wanted outputs ``(P, C_out)``.
            weight: The present fit, ``(C_out, n)``.
            bias: Its bias.
            relaxation: ``l``.
        """
        blocks = [
            (x[start : start + ROWS], y[start : start + ROWS])
            for x, y in samples
            for start in range(0, len(x), ROWS)
        ]
        count = sum(len(x) for x, _ in blocks)
        usable = np.abs(self.gain) > 1e-3 * np.abs(self.gain).max()
        inverse = np.where(usable, 1 / np.where(usable, self.gain, 1), 0)
        gain, offset, inverse, shift, matrix = (
            np.asarray(values, dtype=np.float32)
            for values in (
                self.gain,
                self.offset,
                inverse,
                self.gain * bias + self.offset,
                (self.gain[:, None] * weight).T,
            )
        )
        pull = np.float32(np.sqrt(relaxation / (1 + relaxation)))

        def look(block: tuple[Array, Array]) -> tuple[float, Array, Array, Array]:
            x, y = block
            fit = x @ matrix + shift
            before = gain * y + offset
            wanted = np.maximum(before, 0)
            loss = float(np.square(wanted - np.maximum(fit, 0)).sum(dtype=np.float64))
            # Either z stays where the fit is, or it goes from there towards what is wanted; above
            # zero the second is always better, below it only where little is missing.
            apart = wanted - fit
            moved = np.where(pull * apart <= wanted, apart / np.float32(1 + relaxation), 0)
            change = (fit + moved - before) * inverse
            products = change.T @ x
            sums = (values.sum(axis=0, dtype=np.float64) for values in (change, x))
            return loss, products.astype(np.float64), *sums

        found = spread(look, blocks)
        mean = np.sum([part[2] for part in found], axis=0) / count
        mean_x = np.sum([part[3] for part in found], axis=0) / count
        cross = np.sum([part[1] for part in found], axis=0) / count - np.outer(mean, mean_x)
        return Step(loss=sum(part[0] for part in found) / count, cross=cross, mean=mean)


def rectifier(net: Graph, node: Node) -> Rectifier | None:
    """The ReLU that is the only reader of a layer's output, if there is one."""
    assert isinstance(node.op, Conv | Linear)
    norm = batch_norm_behind(net, node)
    reader = only_reader(net, node.name if norm is None else norm.name)
    if reader is None or not isinstance(reader.op, Activation) or reader.op.kind != "relu":
        return None
    if norm is None:
        channels = node.op.channels
        return Rectifier(gain=np.ones(channels), offset=np.zeros(channels))
    found = norm_map(net, norm)
    return Rectifier(gain=found.scale, offset=found.shift)


def lifted(chain: Sequence[ConvStep], inputs: Iterable[Array]) -> tuple[ConvStep, ...]:
    """A chain with a ReLU between its layers that computes what it did.

    A bias ``c`` lifts what a layer makes above zero, as far as the inputs show, so the ReLU cuts
    nothing off; the next layer takes ``W c`` away again. That is exact at the borders too, as
    long as no layer but the first is padded. What training makes of the ReLU is its own affair.

    Args:
        chain: Layers that follow each other, the later ones without padding.
        inputs: What reaches the first.
    """
    least = [np.full(step.op.channels, np.inf) for step in chain[:-1]]
    for x in inputs:
        for index, step in enumerate(chain[:-1]):
            x = run_chain((step,), x)
            axes = tuple(axis for axis in range(x.ndim) if axis != 1)
            least[index] = np.minimum(least[index], x.min(axis=axes))
    made = []
    before: Array | None = None
    for index, step in enumerate(chain):
        weight = step.weight.astype(np.float64)
        bias = np.zeros(step.op.channels) if step.bias is None else step.bias.astype(np.float64)
        if before is not None:
            per_input = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
            outs, wide = per_input.shape
            groups = len(before) // wide
            shares = before.reshape(groups, wide)
            taken = np.einsum("gow,gw->go", per_input.reshape(groups, outs // groups, wide), shares)
            bias = bias - taken.ravel()
        last = index == len(chain) - 1
        before = None
        if not last:
            before = np.maximum(-least[index], 0)
            bias = bias + before
        made.append(
            replace(
                step,
                op=replace(step.op, bias=True),
                bias=bias.astype(step.weight.dtype),
                rectified=not last,
            )
        )
    return tuple(made)
