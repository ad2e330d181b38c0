"""What an error in one layer does to the network's output, measured.

For a few ranks of every layer the fitted pair takes the layer's place, nothing else changes, and
the output is compared with the original's on a few samples. Between the measured ranks the loss
is interpolated over the layer's own error, both in logarithms, and made monotone: extrapolating
from a single probe misleads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError, ShapeError
from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import apply, evaluate, node_arguments, run_chain
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Softmax
from convsmith.parallel import spread
from convsmith.results import Progress
from convsmith.rewrite.candidates import Candidate, Layer
from convsmith.rewrite.moments import Moments
from convsmith.rewrite.rebuilding import correct_means

__all__ = ["measure", "output_loss"]

Array = npt.NDArray[Any]

PROBE_BYTES = 768 << 20
"""How many bytes the values of the probed samples may take."""

PROBE_IMAGES = 96
PROBE_SIDE = 96
"""Networks from image to image are probed on the middle of each sample, this large."""

PROBES = 4


def measure(
    net: Graph,
    layers: Sequence[Layer],
    moments: Mapping[str, Moments],
    samples: Sequence[Mapping[str, Array]],
    *,
    probes: int = PROBES,
    images: int = PROBE_IMAGES,
    progress: Progress | None = None,
) -> list[Layer]:
    """Returns the layers with the ``loss`` of every candidate measured or interpolated.

    Args:
        net: The network.
        layers: Its layers with fitted candidates.
        moments: Statistics per layer.
        samples: Calibration inputs.
        probes: How many candidates of each layer are put into the network.
        images: How many images they see.
        progress: Called after each layer.

    Raises:
        DataError: If the network's output is NaN or infinite for a sample.
    """
    few = _few(net, _cropped(net, samples), images)
    seen = [evaluate(net, sample) for sample in few]
    for output in net.outputs:
        if not all(np.isfinite(values[output.value]).all() for values in seen):
            raise DataError(
                "this output holds NaN or infinity for a calibration sample",
                place=output.name,
                remedy="check the weights, and how the images are normalized",
            )
    measured = []
    for index, layer in enumerate(layers):
        measured.append(_measure_layer(net, layer, moments.get(layer.name), seen, probes))
        if progress is not None:
            progress("measuring sensitivity", index + 1, len(layers))
    return measured


def _cropped(net: Graph, samples: Sequence[Mapping[str, Array]]) -> Sequence[Mapping[str, Array]]:
    """The middle of every sample, if the network turns images into images."""
    rank = len(net.inputs[0].shape)
    if rank < 3 or len(net.inputs) > 1 or any(len(net.shape(o.value)) != rank for o in net.outputs):
        return samples
    name = net.inputs[0].name
    crops = [{name: _middle(sample[name])} for sample in samples]
    try:
        for shape in {crop[name].shape for crop in crops}:
            net.with_inputs({name: shape}).shapes  # noqa: B018 - raises if the sizes do not fit
    except ShapeError:
        return samples
    return crops


def _middle(x: Array) -> Array:
    window = [slice(None), slice(None)]
    for size in x.shape[2:]:
        start = max(0, (size - PROBE_SIDE) // 2) // 16 * 16
        window.append(slice(start, start + min(size, PROBE_SIDE)))
    return x[tuple(window)]


def _few(net: Graph, samples: Sequence[Mapping[str, Array]], most: int) -> list[dict[str, Array]]:
    """As many images, from the front of each sample, as the memory allows."""
    wanted = net.inputs[0].name
    held = sum(math.prod(shape) for shape in net.shapes.values() if shape is not None)
    per_element = held / max(math.prod(net.inputs[0].shape), 1)
    few: list[dict[str, Array]] = []
    images, room = 0, float(PROBE_BYTES)
    share = max(1, -(-most // max(len(samples), 1)))
    for sample in samples:
        one = sample[wanted][:1].size * per_element * 4
        fitting = int(room // max(one, 1.0))
        count = min(share, len(sample[wanted]), most - images, fitting)
        count = max(count, 0 if few else 1)
        if count:
            few.append({name: array[:count] for name, array in sample.items()})
            images += count
            room -= count * one
    return few


def _measure_layer(
    net: Graph,
    layer: Layer,
    moments: Moments | None,
    seen: Sequence[Mapping[str, Array]],
    probes: int,
) -> Layer:
    kept, *others = layer.candidates
    if not others:
        return layer
    node = net.by_name[layer.name]
    picked = _spaced(others, probes)
    chains = spread(lambda one: correct_means(net, node, one, moments).chain, picked)
    moved = spread(
        lambda place: _probe(net, node, *place),
        [(chain, values) for chain in chains for values in seen],
    )
    totals = np.array(moved).reshape(len(picked), len(seen)).mean(axis=1)
    found = sorted(
        (max(one.error, 1e-12), float(loss)) for one, loss in zip(picked, totals, strict=True)
    )
    errors = np.log([error for error, _ in found])
    losses = np.maximum.accumulate(np.log([max(loss, 1e-12) for _, loss in found]))
    rated = [
        replace(c, loss=float(np.exp(np.interp(np.log(max(c.error, 1e-12)), errors, losses))))
        for c in others
    ]
    return replace(layer, candidates=(kept, *rated))


def _spaced(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Some candidates whose errors are spread over those of all, both ends among them."""
    ordered = sorted(candidates, key=lambda c: c.error)
    if len(ordered) <= count:
        return ordered
    errors = np.log([max(c.error, 1e-12) for c in ordered])
    wanted = np.linspace(errors[0], errors[-1], count)
    picks = {int(np.argmin(np.abs(errors - goal))) for goal in wanted}
    return [ordered[index] for index in sorted(picks)]


def _probe(net: Graph, node: Node, chain: Sequence[ConvStep], values: Mapping[str, Array]) -> float:
    """The loss at the output with this one layer replaced.

    Only what depends on the layer is computed again, and forgotten after its last use.
    """
    x = values[node.inputs[0]]
    changed = {node.name: run_chain(chain, x).astype(x.dtype, copy=False)}
    later = net.nodes[net.nodes.index(node) + 1 :]
    pending = Counter(used for one in later for used in one.inputs)
    pending.update(output.value for output in net.outputs)
    for one in later:
        if any(used in changed for used in one.inputs):
            reads = [used for used in one.inputs if used not in net.constants]
            known = {used: (changed if used in changed else values)[used] for used in reads}
            arguments, parameters = node_arguments(net, one, known)
            made = apply(one.op, arguments, parameters)
            changed.update(zip(one.outputs, made, strict=True))
        for used in one.inputs:
            pending[used] -= 1
            if not pending[used]:
                changed.pop(used, None)
    return sum(
        output_loss(net, output.value, values[output.value], changed[output.value])
        for output in net.outputs
        if output.value in changed
    )


def output_loss(net: Graph, value: str, before: Array, after: Array) -> float:
    """How far an output moved.

    Class scores, ``(N, classes)``: the Kullback-Leibler divergence of their softmax. Anything
    else: the squared error over the variance.
    """
    before, after = before.astype(np.float64), after.astype(np.float64)
    if before.ndim == 2 and before.shape[1] > 1:
        producer = net.producers.get(value)
        one, two = (
            (np.log(np.maximum(v, 1e-30)) if _is_softmax(producer) else _log_softmax(v))
            for v in (before, after)
        )
        return float(np.sum(np.exp(one) * (one - two), axis=1).mean())
    spread = np.square(before - before.mean()).sum()
    return float(np.square(after - before).sum() / max(spread, 1e-30))


def _is_softmax(node: Node | None) -> bool:
    return node is not None and isinstance(node.op, Softmax) and not node.op.log


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
