"""What can stand for each layer: every form, fitted at a grid of widths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Graph, Node
from convsmith.graph.operators import Conv, Linear
from convsmith.parallel import spread
from convsmith.results import Progress
from convsmith.rewrite.fitting import Problem
from convsmith.rewrite.following import Weighting, weighting_of
from convsmith.rewrite.forms import FORMS, KEEP, Form, Widths
from convsmith.rewrite.moments import Moments
from convsmith.rewrite.site import Kernels, LayerOp, Site, cost

__all__ = [
    "Candidate",
    "Layer",
    "group_problem",
    "joined",
    "replaceable",
    "tabulate",
    "weight_of",
]

Array = npt.NDArray[Any]

WIDE = 2048
"""Numbers in a window. A fit takes time in proportion to their square: beyond, fewer are tried."""

FEWEST = 3

ROUNDS = 2
"""Rounds of alternating least squares for a candidate; the chosen ones get more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One way to run a layer.

    Attributes:
        form: ``keep`` or the name of a form.
        variant: Which way the form is done.
        widths: Its free sizes; empty for ``keep``.
        ops: The layers that stand for the one.
        macs: Exact multiply-accumulates.
        params: Weights and biases.
        milliseconds: Measured, where time is what is paid with.
        error: Mean squared error of the layer's outputs over their variance, as fitted.
        loss: What it is predicted to do to the network's output.
        kernels: The fitted weights, ``(groups, C_out, C_in, *kernel)`` per layer of ``ops``;
            empty for ``keep``.
    """

    form: str
    macs: int
    params: int
    error: float
    loss: float
    variant: str = ""
    widths: Widths = ()
    ops: tuple[LayerOp, ...] = ()
    milliseconds: float = 0.0
    kernels: Kernels = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A layer and everything that can stand for it, the layer itself first."""

    name: str
    candidates: tuple[Candidate, ...]

    @property
    def kept(self) -> Candidate:
        """The layer as it is."""
        return self.candidates[0]


def replaceable(net: Graph, forms: Sequence[Form] | None = None) -> list[Node]:
    """The layers that one of some forms (by default any) applies to, in execution order.

    Left out are those that share their weights with another layer, those without weights, and
    those whose input is a constant or has no known shape.

    >>> from convsmith.graph import parse
    >>> replaceable(parse("3@8 > conv 4 3 p1"))  # its weights are shapes alone
    []
    """
    uses = Counter(name for node in net.nodes for name in (*node.parameters, *node.inputs))
    uses.update(output.value for output in net.outputs)
    tried = tuple(FORMS.values()) if forms is None else forms

    def fits(node: Node) -> bool:
        if not isinstance(node.op, Conv | Linear):
            return False
        plain = (
            all(net.constants[name].data is not None for name in node.parameters)
            and all(uses[name] == 1 for name in node.parameters)
            and net.shapes[node.inputs[0]] is not None
            and node.inputs[0] not in net.constants
        )
        if not plain:
            return False
        site = Site.of(net, node)
        return any(not form.refusal(site) for form in tried)

    return [node for node in net.nodes if fits(node)]


@dataclass(slots=True, eq=False)
class _Source:
    """What the fits of one layer share; made by whichever comes first, let go by the last.

    Attributes:
        net: The network.
        node: The layer.
        site: The same.
        moments: Its statistics, if there are any.
        curvature: How errors in its outputs count, if that is known.
        left: How many fits are still to come.
        lock: Held while something is made.
        weightings: How errors count, jointly or not.
        problems: The problem of an only group for each; those of several may be large together.
    """

    net: Graph
    node: Node
    site: Site
    moments: Moments | None
    curvature: Array | None
    left: int = 0
    lock: Lock = field(default_factory=Lock)
    weightings: dict[bool, Weighting] = field(default_factory=dict)
    problems: dict[bool, Problem] = field(default_factory=dict)

    def counts(self, jointly: bool) -> Weighting:
        """How errors in the output channels count."""
        with self.lock:
            if jointly not in self.weightings:
                self.weightings[jointly] = weighting_of(
                    self.net, self.node, self.site, self.curvature, jointly=jointly
                )
            return self.weightings[jointly]

    def problem(self, jointly: bool, group: int) -> Problem:
        """The problem of one group."""
        counts = self.counts(jointly)
        with self.lock:
            if jointly in self.problems:
                return self.problems[jointly]
            made = group_problem(self.site, self.moments, counts, group)
            if self.site.groups == 1:
                self.problems[jointly] = made
            return made

    def finish(self) -> bool:
        """Marks one fit as done; says whether it was the last."""
        with self.lock:
            self.left -= 1
            if not self.left:
                self.weightings.clear()
                self.problems.clear()
            return not self.left


def group_problem(site: Site, moments: Moments | None, counts: Weighting, group: int) -> Problem:
    """The problem of one group: to reproduce the layer's outputs, as they count.

    Args:
        site: The layer.
        moments: Its statistics; without any its inputs count as independent and of equal size,
            which makes every fit one of the weights alone.
        counts: How errors in the output channels count.
        group: Which group.
    """
    scaled = counts.applied(site.weight[group], group)
    covariance = np.eye(site.width) if moments is None else moments.covariance(group)
    return Problem.of_layer(scaled, covariance)


def joined(parts: Sequence[Kernels], counts: Weighting) -> Kernels:
    """The kernels of all groups together, the weighting of the outputs undone in the last one."""
    parts = [(*part[:-1], counts.undone(part[-1], group)) for group, part in enumerate(parts)]
    return tuple(np.stack([part[index] for part in parts]) for index in range(len(parts[0])))


def weight_of(site: Site, form: Form, variant: str, kernels: Kernels) -> Array:
    """What fitted kernels amount to: weights of the shape of the site's."""
    return np.stack(
        [
            form.weight(tuple(k[group] for k in kernels), site.shape, variant)
            for group in range(site.groups)
        ]
    )


def tabulate(
    net: Graph,
    moments: Mapping[str, Moments],
    layers: Sequence[Node],
    *,
    curved: Mapping[str, Array] | None = None,
    forms: Sequence[Form] | None = None,
    widths: Widths | None = None,
    variant: str | None = None,
    rounds: int = ROUNDS,
    about: int | None = None,
    progress: Progress | None = None,
) -> list[Layer]:
    """Fits forms to every layer at every width of their grids.

    Args:
        net: The network.
        moments: Statistics per layer; a layer without any is fitted as if its inputs were
            independent and of equal size, which is what approximates its weights alone.
        layers: Its replaceable layers.
        curved: How errors in the outputs of a layer count, from :func:`curvatures`.
        forms: Which forms; by default those that are tried without being asked for.
        widths: These widths instead of the grid.
        variant: This variant alone.
        rounds: Rounds of alternating least squares per candidate.
        about: At most about so many widths per form and variant; fewer for very wide windows.
        progress: Called after each layer.
    """
    curved = curved or {}
    tried = tuple(f for f in FORMS.values() if f.automatic) if forms is None else tuple(forms)
    jobs: list[tuple[int, Form, str]] = []
    sites = [Site.of(net, node) for node in layers]
    for index, site in enumerate(sites):
        for form in tried:
            if not form.refusal(site):
                jobs += [(index, form, v) for v in form.variants(site) if variant in (None, v)]
    sources = [
        _Source(net, node, site, moments.get(node.name), curved.get(node.name))
        for node, site in zip(layers, sites, strict=True)
    ]
    for index, _, _ in jobs:
        sources[index].left += 1
    done: list[int] = []

    def one(job: tuple[int, Form, str]) -> list[Candidate]:
        index, form, way = job
        made = _fit_grid(sources[index], form, way, widths, rounds, about)
        if sources[index].finish():
            done.append(index)
            if progress is not None:
                progress("fitting candidates", len(done), len({index for index, _, _ in jobs}))
        return made

    # What takes longest goes first, so that no thread ends alone with it.
    order = sorted(range(len(jobs)), key=lambda j: -_effort(sites[jobs[j][0]]))
    fitted = dict(zip(order, spread(one, [jobs[j] for j in order], singly=True), strict=True))
    found: list[list[Candidate]] = [[] for _ in sites]
    for place, (index, _, _) in enumerate(jobs):
        found[index] += fitted[place]
    return [
        Layer(name=site.name, candidates=(_kept(site), *_useful(some)))
        for site, some in zip(sites, found, strict=True)
    ]


def _kept(site: Site) -> Candidate:
    macs, params = site.cost
    return Candidate(form=KEEP, ops=(site.op,), macs=macs, params=params, error=0.0, loss=0.0)


def _effort(site: Site) -> int:
    """About how long fits to a layer take, relative to other layers."""
    return site.groups * (site.width + site.outs) ** 3


def _fit_grid(
    source: _Source,
    form: Form,
    variant: str,
    widths: Widths | None,
    rounds: int,
    about: int | None,
) -> list[Candidate]:
    site, jointly = source.site, form.mixes(variant)
    dense = site.cost[0]
    grid = [widths] if widths is not None else list(form.grid(site, variant))
    costs = {}
    for some in grid:
        if form.admits(site, variant, some):
            ops = form.layout(site, variant, some)
            macs, params = cost(ops, site.x, learnable=site.learnable)
            if macs < dense:
                costs[some] = (ops, macs, params)
    if about is not None and site.width > WIDE:
        about = max(about * WIDE // site.width, FEWEST)
    if about is not None and len(costs) > about:
        listed = list(costs)
        places = {round(i * (len(listed) - 1) / (about - 1)) for i in range(about)}
        costs = {listed[place]: costs[listed[place]] for place in sorted(places)}
    if not costs:
        return []
    parts: dict[Widths, list[Kernels]] = {some: [] for some in costs}
    lost = dict.fromkeys(costs, 0.0)
    energy = 0.0
    shape = site.shape
    for group in range(site.groups):  # one at a time: the covariances may be large
        problem = source.problem(jointly, group)
        fitter = form.fitter(problem, variant)
        energy += problem.energy
        for some in costs:
            kernels = fitter.fit(some, rounds=rounds)
            lost[some] += problem.error(form.weight(kernels, shape, variant))
            parts[some].append(kernels)
    counts = source.counts(jointly)
    stored = np.float64 if site.dtype == np.float64 else np.float32
    made = []
    for some, (ops, macs, params) in costs.items():
        error = lost[some] / energy if energy > 0 else 0.0
        kernels = joined(parts[some], counts)
        made.append(
            Candidate(
                form=form.name,
                variant=variant,
                widths=some,
                ops=ops,
                macs=macs,
                params=params,
                error=error,
                loss=error,
                kernels=tuple(kernel.astype(stored) for kernel in kernels),
            )
        )
    return made


def _useful(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other of the same form and variant beats, cheap to dear."""
    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda c: (c.macs, c.error, c.params)):
        rivals = (k for k in kept if (k.form, k.variant) == (one.form, one.variant))
        if not any(k.error <= one.error and k.params <= one.params for k in rivals):
            kept.append(one)
    return kept
