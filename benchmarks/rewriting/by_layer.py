"""Large windows, one layer at a time: which form loses least at the same cost.

Every form is fitted to the layer's own inputs on the calibration images of one seed and judged on
others: the squared error of the layer's outputs over their variance there. Widths are the largest
that fit the budget; of forms with several free widths, the combination that fits best. Forms
whose widths are so coarse that they would leave a quarter of the budget are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from benchmarks.rewriting import tucker, weights_only
from benchmarks.rewriting.chains import Chain, Layer, channel_costs, layers, spatial_costs
from benchmarks.rewriting.measuring import as_graph, module_times
from benchmarks.rewriting.tasks import Images, Task
from benchmarks.storing import table as stored
from torch import nn

import convsmith as cs
from convsmith.graph import Graph
from convsmith.graph.operators import Conv
from convsmith.rewrite.fitting import Problem
from convsmith.rewrite.forms import FORMS, Form, Widths
from convsmith.rewrite.forms.form import chain_weight
from convsmith.rewrite.site import Kernels, LayerOp, Site, cost

__all__ = ["LayerRow", "compare", "parts"]

Array = npt.NDArray[Any]
ROUNDS = 4
NEAR = 0.85
"""Widths of the grid that cost less than this share of the budget are not tried."""

NOTE = "Squared error over the variance of the outputs, on other images; time in ONNX Runtime."

COARSE = 0.75
"""Forms that use less than this share of the budget are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One form at one layer.

    Attributes:
        layer: Its name.
        text: Its kernel and channels.
        form: The form, and what fitted it.
        budget: Share of the layer's multiply-accumulates.
        share: What is left of them, exactly.
        fitted: Squared error over variance on the images it was fitted to.
        error: The same on other images.
        time: Time of the layer over the original's in ONNX Runtime.
    """

    layer: str
    text: str
    form: str
    budget: float
    share: float
    fitted: float
    error: float
    time: float


def compare(
    task: Task, budgets: Sequence[float], *, seed: int, seconds: float, threads: int
) -> Iterator[LayerRow]:
    """Yields a row per layer with a window of 5x5 or more, budget and form."""
    net = as_graph(task.module, task)
    fit, held = task.split(seed)
    known, unseen = (_problems(net, images, task.positions) for images in (fit, held))
    for layer in layers(task.module, task.timed):
        if min(layer.weight.shape[2:]) < 5:
            continue
        site = Site.of(net, net.by_name[layer.name])
        for budget in budgets:
            made = {
                **_ours(site, known[layer.name], budget),
                **_weights_only(layer, budget),
            }
            modules = {name: found.module for name, found in made.items()}
            original = _module((site.op,), (site.weight[0],), layer.weight.shape[1])
            shape = (1, layer.weight.shape[1], *layer.size)
            times = module_times(original, modules, shape, seconds, threads)
            for name, found in made.items():
                yield LayerRow(
                    layer=layer.name,
                    text="{2}x{3}, {1} to {0}".format(*layer.weight.shape),
                    form=name,
                    budget=budget,
                    share=found.macs / layer.macs,
                    fitted=_relative(known[layer.name], found.dense),
                    error=_relative(unseen[layer.name], found.dense),
                    time=times[name],
                )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Made:
    """What stands for a layer: the one kernel that it amounts to, and its layers."""

    dense: Array
    macs: int
    module: nn.Module


def _problems(net: Graph, images: Images, positions: int) -> Mapping[str, Problem]:
    name = net.inputs[0].name
    calibration = cs.calibrate(net, [{name: x} for x in images.inputs], positions=positions)
    return {
        layer: Problem.of_layer(Site.of(net, net.by_name[layer]).weight[0], moments.covariance(0))
        for layer, moments in calibration.moments.items()
        if isinstance(net.by_name[layer].op, Conv)
    }


def _relative(problem: Problem, dense: Array) -> float:
    return problem.error(dense) / problem.energy


def _ours(site: Site, problem: Problem, budget: float) -> dict[str, _Made]:
    """Every form of convsmith that applies, each in its best variant."""
    found = {}
    for form in FORMS.values():
        if form.refusal(site):
            continue
        best: tuple[float, _Made] | None = None
        for variant in form.variants(site):
            fitter = form.fitter(problem, variant)
            for widths in _widths(form, site, variant, budget * site.cost[0]):
                kernels = fitter.fit(widths, rounds=ROUNDS)
                dense = form.weight(kernels, site.weight.shape[1:], variant)
                error = problem.error(dense)
                if best is None or error < best[0]:
                    ops = form.layout(site, variant, widths)
                    module = _module(ops, kernels, site.ins)
                    macs = cost(ops, site.x)[0]
                    best = error, _Made(dense=dense, macs=macs, module=module)
        if best is not None and best[1].macs > COARSE * budget * site.cost[0]:
            found[form.name] = best[1]
    return found


def _widths(form: Form, site: Site, variant: str, budget: float) -> list[Widths]:
    """The widest equal widths that fit the budget, and what else of the grid is near it."""

    def price(widths: Widths) -> float:
        if not form.admits(site, variant, widths):
            return float("inf")
        return cost(form.layout(site, variant, widths), site.x)[0]

    full = form.full(site, variant)
    found = {
        widths for widths in form.grid(site, variant) if NEAR * budget < price(widths) <= budget
    }
    for width in range(max(full), 0, -1):
        equal = tuple(min(width, most) for most in full)
        if price(equal) <= budget:
            found.add(equal)
            break
    return sorted(found)


def _weights_only(layer: Layer, budget: float) -> dict[str, _Made]:
    """The same windows split without looking at any image."""
    found: dict[str, Chain] = {}
    for name, form, per_rank in (
        ("spatial SVD, weights only", weights_only.spatial, spatial_costs),
        ("channel SVD, weights only", weights_only.channel, channel_costs),
    ):
        rank = int(budget * layer.macs / per_rank(layer))
        if rank:
            found[name] = form(layer, rank)
    if tucker.missing() == "":
        chains = tucker.chains_at((layer,), budget * layer.macs)
        if layer.name in chains:
            found["Tucker-2, weights only (tensorly-torch)"] = chains[layer.name]
    made = {}
    for name, chain in found.items():
        dense = chain_weight([step.weight for step in chain], layer.weight.shape[1])
        macs = sum(step.weight.size for step in chain) * layer.size[0] * layer.size[1]
        module = nn.Sequential(*(step.module() for step in chain))
        made[name] = _Made(dense=dense, macs=macs, module=module)
    return made


def _module(ops: Sequence[LayerOp], kernels: Kernels, ins: int) -> nn.Module:
    """Convolutions as torch modules, without bias."""
    made: list[nn.Module] = []
    for op, kernel in zip(ops, kernels, strict=True):
        assert isinstance(op, Conv)
        (top, bottom), (left, right) = op.padding
        assert (top, left) == (bottom, right)
        conv = nn.Conv2d(
            ins,
            op.channels,
            (op.kernel[0], op.kernel[1]),
            (op.stride[0], op.stride[1]),
            (top, left),
            (op.dilation[0], op.dilation[1]),
            op.groups,
            bias=False,
        )
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        made.append(conv)
        ins = op.channels
    return nn.Sequential(*made).eval()


def parts(rows: Sequence[LayerRow]) -> dict[str, dict[str, Any]]:
    """One table per layer, by its title: a row per form, its error and time at every budget."""
    made = {}
    for layer in dict.fromkeys(row.layer for row in rows):
        mine = [row for row in rows if row.layer == layer]
        budgets = sorted({row.budget for row in mine}, reverse=True)
        columns = ["form"]
        for budget in budgets:
            columns += [f"error at {budget:.0%}", "MACs", "time"]
        least = {b: min(row.error for row in mine if row.budget == b) for b in budgets}
        lines = []
        for form in dict.fromkeys(row.form for row in mine):
            cells = [form]
            for b in budgets:
                row = next((r for r in mine if (r.form, r.budget) == (form, b)), None)
                if row is None:
                    cells += ["", "", ""]
                else:
                    mark = " (least)" if row.error == least[b] else ""
                    cells += [f"{row.error:.4f}{mark}", f"{row.share:.0%}", f"{row.time:.0%}"]
            lines.append(cells)
        made[f"{layer}: {mine[0].text}"] = stored(columns, lines, note=NOTE)
    return made
