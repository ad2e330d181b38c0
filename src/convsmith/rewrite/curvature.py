"""How much an error in each output channel of a layer costs at the network's output.

To second order, a small change ``e`` of a layer's output at one position costs ``e^T H e / 2``,
with ``H = E[g g^T]`` the covariance of gradients of the loss: of the log-likelihood of classes
drawn from the network's own predictions for class scores (the Fisher information, which is the
curvature of the Kullback-Leibler divergence), of random directions for anything else (the
curvature of the squared error). No labels are needed. The same factor weighs the outputs in
K-FAC (Martens & Grosse 2015), which also supposes that positions are independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Graph, Node
from convsmith.graph.adjoint import gradients
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Linear, Softmax
from convsmith.parallel import spread
from convsmith.results import Progress
from convsmith.rewrite.batches import images_in, pieces
from convsmith.rewrite.site import Site

__all__ = ["curvatures"]

Array = npt.NDArray[Any]

PIECE_BYTES = 256 << 20
"""How many bytes the values of the images that run together may take; all of them are kept."""

DRAWS = 2
"""Gradients per image."""

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
    sums: dict[str, Array] = {}
    seen = 0
    random = np.random.default_rng(0)
    for sample in _spread(samples, images):
        for _, piece in pieces(net, sample, room=PIECE_BYTES / 8):
            values = evaluate(net, piece)
            for _ in range(DRAWS):
                given = {
                    o.value: _drawn(net, o.value, values[o.value], random) for o in net.outputs
                }
                found = gradients(net, values, given, set(sites))
                blocks = spread(lambda item: _outer(sites[item[0]], item[1]), found.items())
                for name, block in zip(found, blocks, strict=True):
                    if name in sums:
                        sums[name] += block
                    else:
                        sums[name] = block
            seen += images_in(piece)
            if progress is not None:
                progress("weighing errors", seen, images)
    draws = DRAWS * max(seen, 1)
    return {name: _shrunk(block / draws, draws) for name, block in sums.items()}


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


def _drawn(net: Graph, value: str, y: Array, random: np.random.Generator) -> Array:
    """The gradient of a loss whose curvature is that of the error, at its minimum."""
    if y.ndim != 2 or y.shape[1] < 2:
        return random.standard_normal(y.shape).astype(y.dtype)
    producer = net.producers.get(value)
    softmax = producer.op if producer is not None and isinstance(producer.op, Softmax) else None
    scores = y.astype(np.float64)
    if softmax is None:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    elif softmax.log:
        scores = np.exp(scores)
    likely = scores / scores.sum(axis=1, keepdims=True)
    drawn = (likely.cumsum(axis=1) > random.random((len(y), 1))).argmax(axis=1)
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


def _outer(site: Site, gradient: Array) -> Array:
    """``sum g g^T`` over images and positions, per group."""
    last = gradient if isinstance(site.op, Linear) else np.moveaxis(gradient, 1, -1)
    rows = last.reshape(-1, site.groups, site.outs)
    largest = float(np.abs(rows).max(initial=0.0)) or 1.0
    rows = rows / rows.dtype.type(largest)  # squares of small gradients would vanish
    made: Array = np.matmul(rows.transpose(1, 2, 0), rows.transpose(1, 0, 2))
    return made * np.float64(largest) ** 2
