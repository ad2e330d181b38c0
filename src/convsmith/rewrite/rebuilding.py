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
from convsmith.rewrite.rectifying import RELAXATIONS, Rectifier, rectifier
from convsmith.rewrite.statistics import POSITIONS, Moments, outputs_at, unfolded

__all__ = ["Fitted", "correct_means", "rebuild"]

Array = npt.NDArray[Any]

SHRINKAGE = 1e-4
"""``l`` above, relative to the mean diagonal of ``S_x'``."""

REFINE_BYTES = 512 << 20
"""How many bytes of unfolded inputs are held to refine a layer in front of a ReLU."""

REFINE_ROUNDS = 6
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
        lost = weight.reshape(op.channels, -1) - spatial.dense(factors, op.kernel).reshape(
            op.channels, -1
        )
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
    behind = rectifier(net, node)
    owed = _owed_by_other_branch(net, node)
    together: Moments | None = None
    seen: list[tuple[Array, Array]] = []
    for seed, pair in enumerate(pairs):
        wanted = pair.original[node.name]
        if owed is not None:
            wanted = wanted + owed(pair)
        x = unfolded(node, pair.rewritten[node.inputs[0]], positions, seed)
        y = outputs_at(node, wanted, positions, seed)
        found = Moments.of(np.hstack([x, y]))
        together = found if together is None else together + found
        if behind is not None and sum(held.nbytes for held, _ in seen) < REFINE_BYTES:
            seen.append((x, y))
    assert together is not None
    shape = net.shape(node.inputs[0])
    orders = [
        order
        for order in spatial.ORDERS
        if spatial.macs(op, candidate.rank, order, shape) <= candidate.macs
    ]
    problem = _Problem.of(weight, together, output_scale(net, node))
    fits = spread(lambda order: problem.fit(problem.targets, candidate.rank, order), orders)
    best = min(fits, key=lambda fit: fit.factors.error)
    error = best.factors.error / problem.energy if problem.energy > 0 else 0.0
    if behind is not None:
        best = _refine(problem, best, behind, seen)
    chain = spatial.steps(op, best.factors, best.bias, weight.dtype)
    return Fitted(chain=chain, order=best.factors.order, error=error)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Targets:
    """What is wanted of a layer: covariance with its inputs ``(C_out, n)``, and mean."""

    cross: Array
    mean: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fit:
    """Factors for outputs as they are, their bias, and the dense weight ``(C_out, n)``."""

    factors: spatial.Factors
    bias: Array
    flat: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Problem:
    """One layer's rebuild: regularized statistics, ready for several targets."""

    weight: Array
    scale: Array
    covariance: Array
    decomposed: tuple[Array, bool]
    shrink: float
    mean: Array
    targets: _Targets
    energy: float

    @classmethod
    def of(cls, weight: Array, together: Moments, scale: Array) -> _Problem:
        """Takes the joint moments of inputs and wanted outputs apart."""
        width = weight[0].size
        joint, mean = together.covariance, together.mean
        covariance = joint[:width, :width].copy()
        shrink = SHRINKAGE * float(np.trace(covariance)) / width + 1e-30
        covariance[np.diag_indices_from(covariance)] += shrink
        return cls(
            weight=weight,
            scale=scale,
            covariance=covariance,
            decomposed=linalg.cho_factor(covariance, check_finite=False),
            shrink=shrink,
            mean=mean[:width],
            targets=_Targets(cross=joint[width:, :width], mean=mean[width:]),
            energy=max(float(np.sum(joint.diagonal()[width:] * scale**2)), 0.0),
        )

    def fit(
        self, targets: _Targets, rank: int, order: spatial.Order, first: Array | None = None
    ) -> _Fit:
        """Fits the form, from scratch or from where an earlier fit ended."""
        outs = len(self.weight)
        cross = targets.cross + self.shrink * self.weight.reshape(outs, -1)
        cross = cross * self.scale[:, None]
        best = linalg.cho_solve(self.decomposed, cross.T, check_finite=False).T
        problem = spatial.Problem.of(
            best.reshape(self.weight.shape), self.covariance, cross, self.energy, order
        )
        if first is None:
            factors = spatial.fit(problem, spatial.start(problem)[:rank], rounds=ROUNDS)
        else:
            factors = spatial.fit(problem, first, rounds=REFINE_ROUNDS)
        factors = replace(factors, second=factors.second / self.scale[:, None])
        flat = spatial.dense(factors, self.weight.shape[2:]).reshape(outs, -1)
        return _Fit(factors=factors, bias=targets.mean - flat @ self.mean, flat=flat)


def _refine(
    problem: _Problem, fit: _Fit, behind: Rectifier, seen: Sequence[tuple[Array, Array]]
) -> _Fit:
    """Improves a fit for the ReLU behind it; the best of all rounds is kept."""
    rank, order = len(fit.factors.first), fit.factors.order
    best, least = fit, np.inf
    for relaxation in (*RELAXATIONS, RELAXATIONS[-1]):
        step = behind.step(seen, fit.flat, fit.bias, relaxation)
        if step.loss < least:
            best, least = fit, step.loss
        targets = _Targets(
            cross=problem.targets.cross + step.cross, mean=problem.targets.mean + step.mean
        )
        fit = problem.fit(targets, rank, order, fit.factors.first)
    return best


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
