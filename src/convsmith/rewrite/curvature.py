"""How much an error in each output channel of a layer costs at the network's output.

To second order, a small change ``e`` of a layer's output at one position costs ``e^T H e / 2``,
with ``H = E[g g^T]`` the covariance of gradients of the loss: of the log-likelihood of classes
drawn from the network's own predictions for class scores (the Fisher information, which is the
curvature of the Kullback-Leibler divergence), of random directions for anything else (the
curvature of the squared error). No labels are needed. The same factor weighs the outputs in
K-FAC (Martens & Grosse 2015), which also supposes that positions are independent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Graph, Node
from convsmith.graph.adjoint import gradients
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Linear, Softmax
from convsmith.parallel import spread, threads
from convsmith.results import Progress
from convsmith.rewrite.batches import images_in, pieces
from convsmith.rewrite.moments import chosen_positions
from convsmith.rewrite.site import Site

__all__ = ["curvatures"]

Array = npt.NDArray[Any]

PIECE_BYTES = 64 << 20
"""How many bytes the values of the images that one thread runs together may take, about, if there
are more than one: all of them are kept."""

DRAWS = 2
"""Gradients per image."""

POSITIONS = 256
"""Positions of a gradient that are looked at, or more:"""

LEAST_ROWS = 16384
ROWS = 16
"""At least so many positions of all gradients together, and so many for every output."""

SHRINKAGE = 0.1
"""Of its mean, added to a curvature for every channel per gradient that it was taken from."""


def curvatures(
    net: Graph,
    nodes: Sequence[Node],
    samples: Sequence[Mapping[str, Array]],
    *,
    images: int,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """The curvature of every layer's output, ``(groups, o, o)`` by name.

    Layers in front of an operator without a rule for gradients are left out.

    Args:
        net: The network.
        nodes: The layers.
        samples: Calibration inputs.
        images: How many images to take.
        progress: Called after each piece.
    """
    sites = {node.name: Site.of(net, node) for node in nodes}
    sums: dict[str, _Sum] = {}
    taken = _spread(samples, images)
    count = DRAWS * sum(map(images_in, taken))
    cut = [piece for sample in taken for _, piece in pieces(net, sample, room=PIECE_BYTES / 8)]
    starts = [0, *itertools.accumulate(map(images_in, cut))]

    def backwards(index: int) -> list[dict[str, Array]]:
        """The gradients of some images, at some positions: one for every draw."""
        values = evaluate(net, cut[index])
        return [
            {
                name: _some(sites[name], gradient, starts[index], draw, gradients=count)
                for name, gradient in gradients(
                    net, values, _drawn(net, values, starts[index], draw), set(sites)
                ).items()
            }
            for draw in range(DRAWS)
        ]

    together = 2 * threads()  # as many are held; the sums are taken in order all the same
    for start in range(0, len(cut), together):
        for found in spread(backwards, range(start, min(start + together, len(cut)))):
            for name in found[0]:
                sums.setdefault(name, _Sum(sites[name]))
            _add(sums, found)
        if progress is not None:
            progress("weighing errors", starts[min(start + together, len(cut))], count // DRAWS)
    blocks = zip(sums, spread(_Sum.total, sums.values()), strict=True)
    return {name: _shrunk(block / count, count) for name, block in blocks}


def _spread(samples: Sequence[Mapping[str, Array]], images: int) -> list[Mapping[str, Array]]:
    """So many images, from the front of every sample."""
    taken: list[Mapping[str, Array]] = []
    left = images
    for index, sample in enumerate(samples):
        share = -(-left // (len(samples) - index))
        count = min(share, images_in(sample))
        if count and all(len(array) == images_in(sample) for array in sample.values()):
            taken.append({name: array[:count] for name, array in sample.items()})
        elif count:
            taken.append(dict(sample))
        left -= count
    return taken


def _drawn(net: Graph, values: Mapping[str, Array], first: int, draw: int) -> dict[str, Array]:
    """The gradient of a loss whose curvature is that of the error, at its minimum, by output.

    Every image has its own random numbers, whatever it runs together with.
    """
    made = {}
    for index, output in enumerate(net.outputs):
        y = values[output.value]
        random = [np.random.default_rng((first + at, draw, index)) for at in range(len(y))]
        if y.ndim != 2 or y.shape[1] < 2:
            drawn = [one.standard_normal(y.shape[1:]) for one in random]
            made[output.value] = np.asarray(drawn).reshape(y.shape).astype(y.dtype)
        else:
            chance = np.array([one.random() for one in random])
            made[output.value] = _drawn_class(net, output.value, y, chance)
    return made


def _drawn_class(net: Graph, value: str, y: Array, chance: Array) -> Array:
    """The gradient of the log-likelihood of classes drawn from the predictions."""
    producer = net.producers.get(value)
    softmax = producer.op if producer is not None and isinstance(producer.op, Softmax) else None
    scores = y.astype(np.float64)
    if softmax is None:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    elif softmax.log:
        scores = np.exp(scores)
    likely = scores / scores.sum(axis=1, keepdims=True)
    drawn = (likely.cumsum(axis=1) > chance[:, None]).argmax(axis=1)
    picked = np.zeros_like(likely)
    picked[np.arange(len(y)), drawn] = 1
    if softmax is None:
        made = picked - likely
    else:
        made = picked if softmax.log else picked / np.maximum(likely, 1e-12)
    return np.asarray(made, dtype=y.dtype)


def _shrunk(curvature: Array, draws: int) -> Array:
    """Drawn towards the same in all directions, the more so the fewer gradients there were."""
    outs = curvature.shape[-1]
    mean = np.trace(curvature, axis1=1, axis2=2) / outs
    made: Array = curvature + (SHRINKAGE * outs / draws * mean)[:, None, None] * np.eye(outs)
    return made


def _some(site: Site, gradient: Array, first: int, draw: int, *, gradients: int) -> Array:
    """Gradients of a layer's output at some positions, ``(P, groups, o)``.

    As many that those of all images together tell every direction of the outputs apart; made so
    much larger that they stand for the others.

    Args:
        site: The layer.
        gradient: Of the layer's output, for some images.
        first: The place of the first image among all.
        draw: Tells gradients of the same images apart.
        gradients: How many there will be, of all images.
    """
    last = gradient if isinstance(site.op, Linear) else np.moveaxis(gradient, 1, -1)
    sizes = last.shape[1:-1]
    enough = max(POSITIONS, max(LEAST_ROWS, ROWS * site.outs) // gradients)
    if math.prod(sizes) > enough:
        places = [
            chosen_positions(site.name, sizes, enough, draw, first + index)
            for index in range(len(last))
        ]
        last = np.stack([image[at] for image, at in zip(last, places, strict=True)])
        last *= math.sqrt(math.prod(sizes) / enough)
    return np.ascontiguousarray(last).reshape(-1, site.groups, site.outs)


class _Sum:
    """``sum g g^T`` of one layer, ``(groups, o, o)``.

    Gradients are held until there are enough for their products to be worth their time.
    """

    def __init__(self, site: Site) -> None:
        self.outs = site.outs
        self.sum = np.zeros((site.groups, site.outs, site.outs))
        self.rows: list[Array] = []

    def add(self, rows: Array) -> None:
        """Adds ``(P, groups, o)``."""
        self.rows.append(rows)
        if sum(map(len, self.rows)) >= 2 * self.outs:
            self.total()

    def total(self) -> Array:
        """All so far."""
        if self.rows:
            rows = np.concatenate(self.rows)
            self.rows = []
            largest = float(np.abs(rows).max(initial=0.0)) or 1.0
            rows /= rows.dtype.type(largest)  # squares of small gradients would vanish
            some = np.matmul(rows.transpose(1, 2, 0), rows.transpose(1, 0, 2))
            self.sum += some * np.float64(largest) ** 2
        return self.sum


def _add(sums: Mapping[str, _Sum], found: Sequence[Mapping[str, Array]]) -> None:
    """Adds the gradients of all layers, draw by draw."""

    def one(name: str) -> None:
        for draw in found:
            sums[name].add(draw[name])

    spread(one, found[0])
