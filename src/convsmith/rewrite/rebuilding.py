"""The asymmetric rebuild: every layer refitted to what really reaches it.

Original and rewritten network run side by side over the calibration samples, node by node. The
inputs ``x'`` of a layer come from the network rewritten so far, its targets ``y`` from the
original, so each layer makes up for what the layers before it lost (Zhang et al. 2015, section
3.3)::

    W* = (C_yx' + l W) (S_x' + l I)^-1        b = mean(y) - W' mean(x')

and the form is fitted to ``W*`` in the norm of ``S_x'``. Where the output goes straight into an
addition (through a batch norm or not), the target also covers what the other branch lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import apply, node_arguments, run_chain
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Elementwise
from convsmith.parallel import spread
from convsmith.results import Progress
from convsmith.rewrite.choosing import (
    KEEP,
    Candidate,
    batch_norm_behind,
    norm_gain,
    output_scale,
)
from convsmith.rewrite.forms import spatial
from convsmith.rewrite.statistics import POSITIONS, Moments, outputs_at, unfolded

__all__ = ["Fitted", "correct_means", "rebuild"]

Array = npt.NDArray[Any]

SHRINKAGE = 1e-4
"""``l`` above, relative to the mean diagonal of ``S_x'``."""

ROUNDS = 20
"""The fit stops earlier when it gains nothing any more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A layer's replacement: the chain and the error it was fitted with."""

    chain: tuple[ConvStep, ...]
    order: spatial.Order
    error: float


def correct_means(net: Graph, node: Node, candidate: Candidate, moments: Moments | None) -> Fitted:
    """The replacement as tabulated, with the bias that keeps the mean of every channel."""
    op, factors = node.op, candidate.factors
    assert isinstance(op, Conv)
    assert factors is not None
    weight = np.asarray(net.parameter(node, "weight").data)
    bias = np.zeros(op.channels)
    if op.bias:
        bias = bias + np.asarray(net.parameter(node, "bias").data)
    if moments is not None:
        lost = weight.reshape(op.channels, -1) - _flat(factors, op)
        bias = bias + lost @ moments.mean
    chain = spatial.steps(op, factors, bias, weight.dtype)
    return Fitted(chain=chain, order=factors.order, error=candidate.error)


def rebuild(
    net: Graph,
    chosen: Mapping[str, Candidate],
    samples: Sequence[Mapping[str, Array]],
    *,
    positions: int = POSITIONS,
    progress: Progress | None = None,
) -> dict[str, Fitted]:
    """Fits the chosen rank of every layer again, in execution order.

    Args:
        net: The original network.
        chosen: A candidate per layer.
        samples: Calibration inputs.
        positions: Output positions per image and layer to fit to.
        progress: Called after each layer.
    """
    pairs = [_Pair(dict(sample), dict(sample)) for sample in samples]
    pending = Counter(used for node in net.nodes for used in node.inputs)
    pending.update(output.value for output in net.outputs)
    wanted = sum(candidate.form != KEEP for candidate in chosen.values())
    fitted: dict[str, Fitted] = {}
    for node in net.nodes:
        if len(fitted) == wanted:
            break
        for pair in pairs:
            pair.run_original(net, node)
        candidate = chosen.get(node.name)
        if candidate is None or candidate.form == KEEP:
            for pair in pairs:
                pair.run_same(net, node)
        else:
            made = _fit(net, node, candidate, pairs, positions)
            fitted[node.name] = made
            for pair in pairs:
                pair.rewritten[node.name] = run_chain(made.chain, pair.rewritten[node.inputs[0]])
            if progress is not None:
                progress("rebuilding", len(fitted), wanted)
        for used in node.inputs:
            pending[used] -= 1
            if not pending[used]:
                for pair in pairs:
                    pair.forget(used)
    return fitted


@dataclass(slots=True)
class _Pair:
    """The values alive in both networks for one sample; equal ones are the same object."""

    original: dict[str, Array]
    rewritten: dict[str, Array]

    def run_original(self, net: Graph, node: Node) -> None:
        inputs, parameters = node_arguments(net, node, self.original)
        self.original.update(zip(node.outputs, apply(node.op, inputs, parameters), strict=True))

    def run_same(self, net: Graph, node: Node) -> None:
        """Runs an untouched node in the rewritten network, unless its inputs are the same."""
        if all(self.rewritten.get(u) is self.original.get(u) for u in node.inputs):
            self.rewritten.update((name, self.original[name]) for name in node.outputs)
            return
        inputs, parameters = node_arguments(net, node, self.rewritten)
        self.rewritten.update(zip(node.outputs, apply(node.op, inputs, parameters), strict=True))

    def forget(self, value: str) -> None:
        self.original.pop(value, None)
        self.rewritten.pop(value, None)


def _fit(
    net: Graph, node: Node, candidate: Candidate, pairs: Sequence[_Pair], positions: int
) -> Fitted:
    op = node.op
    assert isinstance(op, Conv)
    weight = np.asarray(net.parameter(node, "weight").data)
    flat = weight.reshape(op.channels, -1).astype(np.float64)
    scale = output_scale(net, node)
    owed = _owed_by_other_branch(net, node)
    together: Moments | None = None
    for seed, pair in enumerate(pairs):
        wanted = pair.original[node.name]
        if owed is not None:
            wanted = wanted + owed(pair)
        x = unfolded(node, pair.rewritten[node.inputs[0]], positions, seed)
        found = Moments.of(np.hstack([x, outputs_at(node, wanted, positions, seed)]))
        together = found if together is None else together + found
    assert together is not None
    width = flat.shape[1]
    joint, mean = together.covariance, together.mean
    covariance = joint[:width, :width].copy()
    cross = joint[width:, :width] * scale[:, None]
    energy = max(float(np.sum(joint.diagonal()[width:] * scale**2)), 0.0)
    shrink = SHRINKAGE * float(np.trace(covariance)) / len(covariance) + 1e-30
    covariance[np.diag_indices_from(covariance)] += shrink
    cross += shrink * flat * scale[:, None]
    best = linalg.solve(covariance, cross.T, assume_a="pos", check_finite=False).T
    shape = net.shape(node.inputs[0])

    def one(order: spatial.Order) -> spatial.Factors:
        problem = spatial.Problem.of(best.reshape(weight.shape), covariance, cross, energy, order)
        start = spatial.start(problem)[: candidate.rank]
        return spatial.fit(problem, start, rounds=ROUNDS)

    orders = [
        o for o in spatial.ORDERS if spatial.macs(op, candidate.rank, o, shape) <= candidate.macs
    ]
    factors = min(spread(one, orders), key=lambda f: f.error)
    error = factors.error / energy if energy > 0 else 0.0
    factors = replace(factors, second=factors.second / scale[:, None])
    bias = mean[width:] - _flat(factors, op) @ mean[:width]
    chain = spatial.steps(op, factors, bias, weight.dtype)
    return Fitted(chain=chain, order=factors.order, error=error)


def _flat(factors: spatial.Factors, op: Conv) -> Array:
    return spatial.dense(factors, op.kernel).reshape(op.channels, -1)


def _owed_by_other_branch(net: Graph, node: Node) -> Callable[[_Pair], Array] | None:
    """What the branch that is added to this layer's output lost, in this layer's units."""
    norm = batch_norm_behind(net, node)
    value = node.name if norm is None else norm.name
    users = net.consumers.get(value, ())
    if len(users) != 1 or not isinstance(users[0].op, Elementwise) or users[0].op.kind != "add":
        return None
    others = [used for used in users[0].inputs if used != value]
    if len(others) != 1 or others[0] in net.constants:
        return None
    other = others[0]
    if net.shapes[other] != net.shapes[value]:
        return None
    gain = np.ones(1) if norm is None else norm_gain(net, norm)
    usable = np.abs(gain) > 1e-2 * np.abs(gain).max()
    column = (1, -1, *(1,) * (len(net.shape(value)) - 2))
    inverse = np.where(usable, 1 / np.where(usable, gain, 1), 0).reshape(column)

    def owed(pair: _Pair) -> Array:
        if other not in pair.original or other not in pair.rewritten:
            return np.zeros(1)  # that branch comes later
        lost = pair.original[other] - pair.rewritten[other]
        return np.asarray(lost * inverse.astype(lost.dtype))

    return owed
