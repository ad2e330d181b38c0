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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import apply, node_arguments, run_chain
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Elementwise, Linear
from convsmith.parallel import spread
from convsmith.results import Progress
from convsmith.rewrite.batches import live_bytes, pieces
from convsmith.rewrite.candidates import Candidate, joined, weight_of
from convsmith.rewrite.fitting import Problem, product, solved
from convsmith.rewrite.following import (
    Weighting,
    batch_norm_behind,
    norm_map,
    only_reader,
    weighting_of,
)
from convsmith.rewrite.forms import FORMS, KEEP, Form
from convsmith.rewrite.moments import (
    MOMENT_BYTES,
    POSITIONS,
    Moments,
    Sums,
    bytes_of_moments,
    vectors,
)
from convsmith.rewrite.rectifying import RELAXATIONS, Rectifier, lifted, rectifier
from convsmith.rewrite.site import Kernels, LayerOp, Site, cost

__all__ = ["Fitted", "correct_means", "rebuild"]

Array = npt.NDArray[Any]

SHRINKAGE = 1e-4
"""``l`` above, relative to the mean diagonal of ``S_x'``."""

ENOUGH = 10
"""Windows for each number of a window, from which on a layer that keeps its size gets new weights;
fewer would fit the calibration images alone, and only its bias makes up for what was lost."""

PAIR_BYTES = 2 << 30
"""How many bytes the values alive in both networks may take."""

REFINE_BYTES = 512 << 20
"""How many bytes of unfolded inputs are held to refine a layer in front of a ReLU."""

REFINE_ROUNDS = 6
ROUNDS = 20
"""The fit stops earlier when it gains nothing any more."""

WIDE = 1024
"""Numbers in a window beyond which there are fewer rounds, as each takes longer; the fit goes on
from the candidate's then, in the one variant that was chosen."""

FEWEST_ROUNDS = 2
"""However wide the window."""

SUM_BYTES = 64 << 20
"""How many bytes of windows and outputs are gathered before sums are taken over them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A layer's replacement: the chain and the error it was fitted with."""

    chain: tuple[ConvStep, ...]
    variant: str
    error: float


def correct_means(net: Graph, node: Node, candidate: Candidate, moments: Moments | None) -> Fitted:
    """The replacement as tabulated, with the bias that keeps the mean of every channel."""
    site = Site.of(net, node)
    bias = site.bias
    if moments is not None:
        made = weight_of(site, FORMS[candidate.form], candidate.variant, candidate.kernels)
        lost = (site.weight - made).reshape(site.groups, site.outs, -1)
        bias = bias + np.einsum("gon,gn->go", lost, moments.mean).ravel()
    chain = site.steps(candidate.ops, candidate.kernels, bias)
    return Fitted(chain=chain, variant=candidate.variant, error=candidate.error)


def rebuild(
    net: Graph,
    chosen: Mapping[str, Candidate],
    samples: Sequence[Mapping[str, Array]],
    *,
    curved: Mapping[str, Array] | None = None,
    refit: Collection[str] = (),
    relu: bool = False,
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
        curved: How errors in the outputs of a layer count, from :func:`curvatures`.
        refit: Layers that keep their size but get new weights, to make up for what was lost
            before them.
        relu: Whether stacks get a ReLU between their layers that changes nothing yet.
        positions: Output positions per image and layer to fit to.
        progress: Called after each layer.
    """
    changed = {name for name, candidate in chosen.items() if candidate.form != KEEP}
    wanted = [n for n in net.nodes if n.name in changed or n.name in refit]
    fitted: dict[str, Fitted] = {}
    if not changed:
        return fitted
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

    done = 0
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
            candidate = chosen[node.name] if node.name in changed else None
            if candidate is not None or any(pair.apart(node) for pair in pairs):
                fitted[node.name] = _fit(
                    net, node, candidate, pairs, positions, (curved or {}).get(node.name)
                )
                if relu and candidate is not None and candidate.form == "stack":
                    seen = [pair.rewritten[node.inputs[0]] for pair in pairs]
                    chain = lifted(fitted[node.name].chain, seen)
                    fitted[node.name] = replace(fitted[node.name], chain=chain)
            done += 1
            if progress is not None:
                progress("rebuilding", done, len(wanted))
            if done == len(wanted):
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

    def apart(self, node: Node) -> bool:
        """Whether anything that a node reads has changed."""
        return any(self.rewritten[used] is not self.original[used] for used in node.inputs)

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
    net: Graph,
    node: Node,
    candidate: Candidate | None,
    pairs: Sequence[_Pair],
    positions: int,
    curvature: Array | None,
) -> Fitted:
    site = Site.of(net, node)
    if bytes_of_moments(site) > MOMENT_BYTES:
        return _fit_mean(net, node, candidate, pairs)
    behind = None if candidate is None else rectifier(net, node)
    owed = _owed_by_other_branch(net, node)
    sums = Sums(site.groups, site.width + site.outs)
    seen: list[Array] = []
    held = 0

    def blocks() -> Iterator[Array]:
        for pair in pairs:
            wanted = pair.original[node.name]
            if owed is not None:
                wanted = wanted + owed(pair)
            x = pair.rewritten[node.inputs[0]]
            yield from vectors(node, x, positions, seed=pair.seed, first=pair.first, outputs=wanted)

    for block in _gathered(blocks()):
        sums.add(block)
        if behind is not None and held < REFINE_BYTES:
            seen.append(block)
            held += block.nbytes
    form = None if candidate is None else FORMS[candidate.form]
    jointly = candidate is None or form is None or form.mixes(candidate.variant)
    counts = weighting_of(net, node, site, curvature, jointly=jointly)
    problem = _Problem.of(site, sums.moments(), counts)
    if candidate is None or form is None:
        return problem.refitted(weights=sums.count >= ENOUGH * site.width)
    if site.width > WIDE:
        best = problem.fit(problem.targets, candidate, form, candidate.variant, candidate.kernels)
    else:
        ways = [
            way
            for way in form.variants(site)
            if way == candidate.variant
            or (form.mixes(way) == jointly and _as_cheap(site, form, way, candidate))
        ]
        fits = spread(lambda way: problem.fit(problem.targets, candidate, form, way), ways)
        best = min(fits, key=problem.error)
    if behind is not None:
        best = _refine(problem, best, candidate, form, behind, seen)
    ops = form.layout(site, best.variant, candidate.widths)
    chain = site.steps(ops, best.kernels, best.bias.ravel())
    return Fitted(chain=chain, variant=best.variant, error=problem.error(best))


def _gathered(blocks: Iterable[Array]) -> Iterator[Array]:
    """The same rows in blocks of about ``SUM_BYTES`` or more."""
    waiting: list[Array] = []
    for block in blocks:
        waiting.append(block)
        if sum(part.nbytes for part in waiting) >= SUM_BYTES:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _rounds(most: int, width: int) -> int:
    """How many rounds there are for a window of so many numbers."""
    return most if width <= WIDE else max(round(most * (WIDE / width) ** 2), FEWEST_ROUNDS)


def _fit_mean(
    net: Graph, node: Node, candidate: Candidate | None, pairs: Sequence[_Pair]
) -> Fitted:
    """The replacement as tabulated, with the bias that gives every channel its mean back."""
    site = Site.of(net, node)
    ops: tuple[LayerOp, ...] = (replace(site.op, bias=True),)
    kernels: Kernels = (site.weight,)
    variant, error = "", 0.0
    if candidate is not None:
        ops, kernels = candidate.ops, candidate.kernels
        variant, error = candidate.variant, candidate.error
    chain = site.steps(ops, kernels, site.bias)
    apart = np.zeros(site.groups * site.outs)
    count = 0
    for pair in pairs:
        lost = pair.original[node.name] - run_chain(chain, pair.rewritten[node.inputs[0]])
        lost = lost if isinstance(node.op, Linear) else np.moveaxis(lost, 1, -1)
        apart += lost.reshape(-1, lost.shape[-1]).sum(axis=0, dtype=np.float64)
        count += lost.size // lost.shape[-1]
    chain = site.steps(ops, kernels, site.bias + apart / count)
    return Fitted(chain=chain, variant=variant, error=error)


def _as_cheap(site: Site, form: Form, variant: str, candidate: Candidate) -> bool:
    """Whether another variant may stand in for a candidate: it costs no more of anything."""
    if candidate.milliseconds or not form.admits(site, variant, candidate.widths):
        return False
    macs, params = cost(form.layout(site, variant, candidate.widths), site.x)
    return macs <= candidate.macs and (params <= candidate.params or not site.learnable)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Targets:
    """What is wanted of a layer: covariance with its inputs ``(groups, C_out, n)``, and mean."""

    cross: Array
    mean: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fit:
    """Kernels for outputs as they are, their bias, and what they amount to ``(groups, o, n)``."""

    variant: str
    kernels: Kernels
    bias: Array
    flat: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Problem:
    """One layer's rebuild: regularized statistics, ready for several targets.

    Attributes:
        site: The layer.
        counts: How errors in the channels count.
        bases: The problem of every group, with ``S_x' + l I`` and the outputs of the original.
        decomposed: The Cholesky factors of its covariance.
        shrink: ``l`` of every group.
        mean: Of the inputs, ``(groups, n)``.
        targets: The outputs of the original.
        energy: Their variance, scaled and summed over channels, per group.
    """

    site: Site
    counts: Weighting
    bases: tuple[Problem, ...]
    decomposed: tuple[tuple[Array, bool], ...]
    shrink: tuple[float, ...]
    mean: Array
    targets: _Targets
    energy: tuple[float, ...]

    @classmethod
    def of(cls, site: Site, together: Moments, counts: Weighting) -> _Problem:
        """Takes the joint moments of inputs and wanted outputs apart."""
        width = site.width
        mean = together.mean
        bases, decomposed, shrinks, crosses, energies = [], [], [], [], []
        for group in range(site.groups):
            joint = together.covariance(group)
            covariance = joint[:width, :width].copy()
            shrink = SHRINKAGE * float(np.trace(covariance)) / width + 1e-30
            covariance[np.diag_indices_from(covariance)] += shrink
            factor = linalg.cho_factor(covariance, check_finite=False)
            wanted = counts.applied(joint[width:, width:], group)
            energy = max(float(np.sum(wanted * counts.root[group])), 0.0)
            own = site.weight[group].reshape(site.outs, -1)
            cross = counts.applied(joint[width:, :width] + shrink * own, group)
            best = solved(factor, cross)
            # What no layer of this size explains is lost whatever stands here.
            pull = shrink * float(np.sum(np.square(counts.applied(own, group))))
            base = Problem(
                weight=best.reshape(site.shape),
                covariance=covariance,
                target=cross,
                energy=max(energy + pull, float(np.sum(best * cross))),
            )
            bases.append(base)
            decomposed.append(factor)
            shrinks.append(shrink)
            crosses.append(joint[width:, :width].copy())
            energies.append(energy)
        return cls(
            site=site,
            counts=counts,
            bases=tuple(bases),
            decomposed=tuple(decomposed),
            shrink=tuple(shrinks),
            mean=mean[:, :width],
            targets=_Targets(cross=np.stack(crosses), mean=mean[:, width:]),
            energy=tuple(energies),
        )

    def toward(self, targets: _Targets, group: int) -> Problem:
        """The problem of a group with other targets."""
        base = self.bases[group]
        if targets is self.targets:
            return base
        own = self.site.weight[group].reshape(self.site.outs, -1)
        cross = self.counts.applied(targets.cross[group] + self.shrink[group] * own, group)
        factor, lower = self.decomposed[group]
        factor = base.once("factor", lambda: factor.astype(base.working, copy=False))
        best = solved((factor, lower), cross.astype(base.working, copy=False))
        return replace(
            base,
            weight=best.reshape(self.site.shape),
            target=cross,
            energy=float(np.sum(best * cross)) + base.unexplained,
        )

    def fit(
        self,
        targets: _Targets,
        candidate: Candidate,
        form: Form,
        variant: str,
        first: Kernels | None = None,
    ) -> _Fit:
        """Fits the form, from scratch or from where an earlier fit ended."""
        site = self.site
        if first is not None:  # the weighting was undone in the last kernel
            last = [self.counts.applied(part, g) for g, part in enumerate(first[-1])]
            first = (*first[:-1], np.stack(last))
        rounds = _rounds(ROUNDS if targets is self.targets else REFINE_ROUNDS, site.width)
        parts = []
        for group in range(site.groups):
            problem = self.toward(targets, group)
            parts.append(
                form.fitter(problem, variant).fit(
                    candidate.widths,
                    rounds=rounds,
                    first=None if first is None else tuple(kernel[group] for kernel in first),
                )
            )
        kernels = joined(parts, self.counts)
        flat = weight_of(site, form, variant, kernels).reshape(site.groups, site.outs, -1)
        bias = targets.mean - np.einsum("gon,gn->go", flat, self.mean)
        return _Fit(variant=variant, kernels=kernels, bias=bias, flat=flat)

    def refitted(self, *, weights: bool) -> Fitted:
        """The layer itself with the best weights for what reaches it now, or the best bias."""
        site = self.site
        flat = np.stack(
            [
                self.counts.undone(self.bases[group].weight.reshape(site.outs, -1), group)
                if weights
                else site.weight[group].reshape(site.outs, -1)
                for group in range(site.groups)
            ]
        )
        bias = self.targets.mean - np.einsum("gon,gn->go", flat, self.mean)
        kernel = flat.reshape(site.groups, *site.shape)
        fit = _Fit(variant="", kernels=(kernel,), bias=bias, flat=flat)
        chain = site.steps((replace(site.op, bias=True),), (kernel,), bias.ravel())
        return Fitted(chain=chain, variant="", error=self.error(fit))

    def error(self, fit: _Fit) -> float:
        """Mean squared error of a fit's outputs over the variance of the original's."""
        energy = sum(self.energy)
        if not energy:
            return 0.0
        gained = 0.0
        for group, flat in enumerate(fit.flat):
            seen = self.counts.applied(flat, group)
            plain = product(seen, self.bases[group].covariance) - self.shrink[group] * seen
            shared = self.counts.applied(self.targets.cross[group], group)
            moved = fit.bias[group] + flat @ self.mean[group] - self.targets.mean[group]
            gained += float(np.sum((plain - 2 * shared) * seen))
            gained += float(np.sum(np.square(self.counts.applied(moved, group))))
        return max(energy + gained, 0.0) / energy


def _refine(
    problem: _Problem,
    fit: _Fit,
    candidate: Candidate,
    form: Form,
    behind: Rectifier,
    seen: Sequence[Array],
) -> _Fit:
    """Improves a fit for the ReLU behind it; the best of all rounds is kept."""

    def looked(fit: _Fit, relaxation: float) -> tuple[float, _Targets]:
        """What the fit loses behind the ReLU, and better targets for it."""
        width = problem.site.width
        steps = [
            behind.of(group, problem.site.outs).step(
                [(block[:, group, :width], block[:, group, width:]) for block in seen],
                fit.flat[group],
                fit.bias[group],
                relaxation,
            )
            for group in range(problem.site.groups)
        ]
        targets = _Targets(
            cross=problem.targets.cross + np.stack([step.cross for step in steps]),
            mean=problem.targets.mean + np.stack([step.mean for step in steps]),
        )
        return sum(step.loss for step in steps), targets

    best = fit
    relaxations = RELAXATIONS[:: 1 if problem.site.width <= WIDE else 2]
    least, targets = looked(fit, relaxations[0])
    for relaxation in (*relaxations[1:], relaxations[-1]):
        fit = problem.fit(targets, candidate, form, fit.variant, fit.kernels)
        loss, targets = looked(fit, relaxation)
        if loss < least:
            best, least = fit, loss
    return best


def _owed_by_other_branch(net: Graph, node: Node) -> Callable[[_Pair], Array] | None:
    """What the branch that is added to this layer's output lost, in this layer's units."""
    norm = batch_norm_behind(net, node)
    value = node.name if norm is None else norm.name
    reader = only_reader(net, value)
    if reader is None or not isinstance(reader.op, Elementwise) or reader.op.kind != "add":
        return None
    others = [used for used in reader.inputs if used != value]
    if len(others) != 1 or others[0] in net.constants:
        return None
    other = others[0]
    if net.shapes[other] != net.shapes[value]:
        return None
    gain = np.ones(1) if norm is None else norm_map(net, norm).scale
    usable = np.abs(gain) > 1e-2 * np.abs(gain).max()
    axes = len(net.shape(value))
    linear = isinstance(node.op, Linear)
    column = (*(1,) * (axes - 1), -1) if linear else (1, -1, *(1,) * (axes - 2))
    inverse = np.where(usable, 1 / np.where(usable, gain, 1), 0).reshape(column)

    def owed(pair: _Pair) -> Array:
        if other not in pair.original or other not in pair.rewritten:
            return np.zeros(1)  # that branch comes later
        lost = pair.original[other] - pair.rewritten[other]
        return np.asarray(lost * inverse.astype(lost.dtype))

    return owed
