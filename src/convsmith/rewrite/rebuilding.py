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

import math
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
from convsmith.rewrite.batches import live_bytes, pieces
from convsmith.rewrite.choosing import (
    KEEP,
    Candidate,
    batch_norm_behind,
    norm_gain,
    output_scale,
    pair_costs,
)
from convsmith.rewrite.forms import spatial
from convsmith.rewrite.rectifying import RELAXATIONS, Rectifier, rectifier
from convsmith.rewrite.statistics import POSITIONS, Moments, vectors

__all__ = ["Fitted", "correct_means", "rebuild"]

Array = npt.NDArray[Any]

SHRINKAGE = 1e-4
"""``l`` above, relative to the mean diagonal of ``S_x'``."""

PAIR_BYTES = 2 << 30
"""How many bytes the values alive in both networks may take."""

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
        lost = weight - spatial.dense(factors, op.kernel)
        bias = bias + lost.reshape(op.channels, -1) @ moments.mean
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

    Early layers have large outputs: they are fitted on as many samples as memory has room for,
    and the others join when the values that are still to come are small enough.

    Args:
        net: The original network.
        chosen: A candidate per layer.
        samples: Calibration inputs.
        positions: Output positions per image and layer to fit to.
        progress: Called after each layer.
    """
    wanted = [n for n in net.nodes if n.name in chosen and chosen[n.name].form != KEEP]
    fitted: dict[str, Fitted] = {}
    if not wanted:
        return fitted
    waiting = _pairs(net, samples)
    pairs: list[_Pair] = []
    ahead = _bytes_ahead(net)
    last_use = {used: index for index, node in enumerate(net.nodes) for used in node.inputs}
    last_use.update((output.value, len(net.nodes)) for output in net.outputs)

    def advance(pair: _Pair, index: int) -> None:
        """Runs the node of this index in both networks, and forgets what it used last."""
        node = net.nodes[index]
        if node.name not in pair.original:
            pair.run_original(net, node)
        made = fitted.get(node.name)
        if made is None:
            pair.run_same(net, node)
        else:
            x = pair.rewritten[node.inputs[0]]
            pair.rewritten[node.name] = run_chain(made.chain, x).astype(x.dtype, copy=False)
        for used in {*node.inputs, *node.outputs}:
            if last_use.get(used, index) == index:
                pair.forget(used)

    for index, node in enumerate(net.nodes):
        while waiting and (
            not pairs or sum(p.size for p in pairs) + waiting[0].size <= PAIR_BYTES / ahead[index]
        ):
            pair = waiting.pop(0)
            for earlier in range(index):
                advance(pair, earlier)
            pairs.append(pair)
        if node in wanted:
            for pair in pairs:
                pair.run_original(net, node)
            fitted[node.name] = _fit(net, node, chosen[node.name], pairs, positions)
            if progress is not None:
                progress("rebuilding", len(fitted), len(wanted))
            if len(fitted) == len(wanted):
                break
        for pair in pairs:
            advance(pair, index)
    return fitted


@dataclass(slots=True)
class _Pair:
    """The values alive in both networks for some images; equal ones are the same object.

    Attributes:
        original: Values of the original network.
        rewritten: Values of the network rewritten so far.
        seed: Which sample the images come from.
        first: The place of the first of them in it.
        size: How much memory they take, in images of the size that the network was read with.
    """

    original: dict[str, Array]
    rewritten: dict[str, Array]
    seed: int
    first: int
    size: float

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


def _pairs(net: Graph, samples: Sequence[Mapping[str, Array]]) -> list[_Pair]:
    """The samples, cut so that many of them can join one after the other."""
    made = []
    for seed, sample in enumerate(samples):
        for first, piece in pieces(net, sample, room=PAIR_BYTES / 8):
            name = net.inputs[0].name
            size = piece[name].size / max(math.prod(net.inputs[0].shape[1:]), 1)
            made.append(_Pair(dict(piece), dict(piece), seed=seed, first=first, size=size))
    return made


def _bytes_ahead(net: Graph) -> list[int]:
    """The most bytes that one image takes in both networks, from each node to the end."""
    most = 1
    ahead = []
    for alive in reversed(live_bytes(net)):
        most = max(most, 2 * alive)
        ahead.append(most)
    return ahead[::-1]


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
    width, held = weight[0].size, 0
    for pair in pairs:
        wanted = pair.original[node.name]
        if owed is not None:
            wanted = wanted + owed(pair)
        x = pair.rewritten[node.inputs[0]]
        for block in vectors(node, x, positions, seed=pair.seed, first=pair.first, outputs=wanted):
            found = Moments.of(block)
            together = found if together is None else together + found
            if behind is not None and held < REFINE_BYTES:
                seen.append((block[:, :width], block[:, width:]))
                held += block.nbytes
    assert together is not None
    orders = []
    for order in spatial.ORDERS:
        macs, params = pair_costs(net, node, candidate.rank, order)
        full = spatial.full_rank(op, order, x.shape[1])
        if macs <= candidate.macs and params <= candidate.params and candidate.rank <= full:
            orders.append(order)
    problem = _Problem.of(weight, together, output_scale(net, node))
    fits = spread(lambda order: problem.fit(problem.targets, candidate.rank, order), orders)
    best = min(fits, key=lambda fit: fit.factors.error)
    if behind is not None:
        best = _refine(problem, best, behind, seen)
    chain = spatial.steps(op, best.factors, best.bias, weight.dtype)
    return Fitted(chain=chain, order=best.factors.order, error=problem.error(best))


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
    """One layer's rebuild: regularized statistics, ready for several targets.

    Attributes:
        weight: Of the layer, ``(C_out, C_in, k_h, k_w)``.
        scale: How much an error in each channel counts, ``(C_out,)``.
        covariance: ``S_x' + l I``.
        decomposed: Its Cholesky factor.
        shrink: ``l``.
        mean: Of the inputs.
        targets: The outputs of the original.
        energy: Their variance, scaled and summed over channels.
        unexplained: How much of it (and of what ``l`` adds) no convolution of this size explains.
    """

    weight: Array
    scale: Array
    covariance: Array
    decomposed: tuple[Array, bool]
    shrink: float
    mean: Array
    targets: _Targets
    energy: float
    unexplained: float

    @classmethod
    def of(cls, weight: Array, together: Moments, scale: Array) -> _Problem:
        """Takes the joint moments of inputs and wanted outputs apart."""
        width = weight[0].size
        joint, mean = together.covariance, together.mean
        covariance = joint[:width, :width].copy()
        shrink = SHRINKAGE * float(np.trace(covariance)) / width + 1e-30
        covariance[np.diag_indices_from(covariance)] += shrink
        energy = max(float(np.sum(joint.diagonal()[width:] * scale**2)), 0.0)
        problem = cls(
            weight=weight.astype(np.float64),
            scale=scale,
            covariance=covariance,
            decomposed=linalg.cho_factor(covariance, check_finite=False),
            shrink=shrink,
            mean=mean[:width],
            targets=_Targets(cross=joint[width:, :width], mean=mean[width:]),
            energy=energy,
            unexplained=0.0,
        )
        best, cross = problem.optimum(problem.targets)
        pull = shrink * float(np.sum((problem.weight * scale[:, None, None, None]) ** 2))
        return replace(problem, unexplained=max(energy + pull - float(np.sum(best * cross)), 0.0))

    def optimum(self, targets: _Targets) -> tuple[Array, Array]:
        """The best weights of any rank ``(C_out, n)``, scaled, and what they are solved from."""
        cross = targets.cross + self.shrink * self.weight.reshape(len(self.weight), -1)
        cross = cross * self.scale[:, None]
        best = linalg.cho_solve(self.decomposed, cross.T, check_finite=False).T
        return best, cross

    def fit(
        self, targets: _Targets, rank: int, order: spatial.Order, first: Array | None = None
    ) -> _Fit:
        """Fits the form, from scratch or from where an earlier fit ended."""
        best, cross = self.optimum(targets)
        energy = float(np.sum(best * cross)) + self.unexplained
        problem = spatial.Problem.of(
            best.reshape(self.weight.shape), self.covariance, cross, energy, order
        )
        if first is None:
            factors = spatial.fit(problem, spatial.start(problem)[:rank], rounds=ROUNDS)
        else:
            factors = spatial.fit(problem, first, rounds=REFINE_ROUNDS)
        factors = replace(factors, second=factors.second / self.scale[:, None])
        flat = spatial.dense(factors, self.weight.shape[2:]).reshape(len(self.weight), -1)
        return _Fit(factors=factors, bias=targets.mean - flat @ self.mean, flat=flat)

    def error(self, fit: _Fit) -> float:
        """Mean squared error of a fit's outputs over the variance of the original's."""
        if not self.energy:
            return 0.0
        made = np.sum((fit.flat @ self.covariance - self.shrink * fit.flat) * fit.flat, axis=1)
        shared = np.sum(fit.flat * self.targets.cross, axis=1)
        moved = np.square(fit.bias + fit.flat @ self.mean - self.targets.mean)
        gained = float(np.sum((made - 2 * shared + moved) * self.scale**2))
        return max(self.energy + gained, 0.0) / self.energy


def _refine(
    problem: _Problem, fit: _Fit, behind: Rectifier, seen: Sequence[tuple[Array, Array]]
) -> _Fit:
    """Improves a fit for the ReLU behind it; the best of all rounds is kept."""
    rank, order = len(fit.factors.first), fit.factors.order
    step = behind.step(seen, fit.flat, fit.bias, RELAXATIONS[0])
    best, least = fit, step.loss
    for relaxation in (*RELAXATIONS[1:], RELAXATIONS[-1]):
        targets = _Targets(
            cross=problem.targets.cross + step.cross, mean=problem.targets.mean + step.mean
        )
        fit = problem.fit(targets, rank, order, fit.factors.first)
        step = behind.step(seen, fit.flat, fit.bias, relaxation)
        if step.loss < least:
            best, least = fit, step.loss
    return best


def _owed_by_other_branch(net: Graph, node: Node) -> Callable[[_Pair], Array] | None:
    """What the branch that is added to this layer's output lost, in this layer's units."""
    norm = batch_norm_behind(net, node)
    value = node.name if norm is None else norm.name
    users = net.consumers.get(value, ())
    alone = len(users) == 1 and value not in {output.value for output in net.outputs}
    if not alone or not isinstance(users[0].op, Elementwise) or users[0].op.kind != "add":
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
