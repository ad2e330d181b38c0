"""The whole rewrite: candidates, choice, rebuild, proof."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convsmith.analysis import Total, analyze
from convsmith.errors import BudgetError, DataError, PlanError, UsageError
from convsmith.graph import Graph, Node, operator_text
from convsmith.graph.operators import Conv
from convsmith.parallel import one_blas_thread
from convsmith.results import Progress, Result
from convsmith.rewrite.applying import check_belongs, replace_layers
from convsmith.rewrite.batches import check_batch
from convsmith.rewrite.choosing import (
    KEEP,
    Candidate,
    Currency,
    choose,
    dense_macs,
    tabulate,
)
from convsmith.rewrite.forms import spatial
from convsmith.rewrite.plan import Choice, Plan, chain_text
from convsmith.rewrite.rebuilding import Fitted, correct_means, rebuild
from convsmith.rewrite.sensitivity import measure
from convsmith.rewrite.statistics import Calibration, Moments, candidates, check_weights
from convsmith.rewrite.verifying import Verification, verify

__all__ = ["Rewriting", "budget_of", "rewrite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting(Result):
    """A rewritten network, and what became of it.

    Attributes:
        net: The rewritten network.
        plan: What stands for which layer.
        before: Costs of the original.
        after: Costs of the rewritten network.
        verification: What was lost on the calibration samples; ``None`` without any.
    """

    net: Graph
    plan: Plan
    before: Total
    after: Total
    verification: Verification | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the rewriting as JSON-ready data, schema ``convsmith.rewrite/1``."""
        metric = self.verification.metric if self.verification else None

        def side(total: Total, value: float | None) -> dict[str, Any]:
            return {
                "params": total.params,
                "macs": total.macs,
                "milliseconds": None,
                "metric": value,
            }

        return {
            "schema": "convsmith.rewrite/1",
            "plan": self.plan.to_dict(),
            "before": side(self.before, None if metric is None else metric.before),
            "after": side(self.after, None if metric is None else metric.after),
            "layers": [
                {
                    "name": choice.layer,
                    "form": choice.form,
                    "text": choice.text,
                    "macs_before": choice.macs_before,
                    "macs_after": choice.macs_after,
                    "error": choice.error,
                }
                for choice in self.plan.choices
            ],
            "verification": self.verification and self.verification.to_dict(),
        }


def rewrite(
    net: Graph,
    *,
    macs: float | None = None,
    params: float | None = None,
    plan: Plan | None = None,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
) -> Rewriting:
    """Makes a trained network cheaper without changing what its outputs see.

    Every convolution that the spatial form (N x 1 then 1 x N) can replace is fitted at a grid of
    ranks; what an error in it does to the output is measured; one candidate per layer is chosen
    under the budget; then all are refitted in execution order to what really reaches them.

    Args:
        net: A network with weights.
        macs: The budget: a share of the original's multiply-accumulates (at most 1), or, above
            1, their number.
        params: The same for parameters.
        plan: Instead of a budget: the ranks of this plan, fitted anew.
        calibration: Statistics from :func:`convsmith.calibrate`. Without it the weights alone
            are approximated, which loses much more; a warning says so.
        progress: Called during long steps.

    Raises:
        BudgetError: If the budget cannot be met.
        DataError: If the calibration belongs to another network, or weights or values in the
            network are NaN or infinite.
        PlanError: If the plan does.
        UsageError: If there is not exactly one of ``macs``, ``params`` and ``plan``.

    A budget that pays for the network as it is changes nothing:

    >>> from convsmith.graph import parse
    >>> net = parse("3@8 > conv 4 3 p1")
    >>> rewrite(net, macs=1.0).net is net
    True
    """
    options = {"macs": macs, "params": params, "plan": plan}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise UsageError(
            "a rewrite needs exactly one of macs=, params= and plan="
            + (f", not {' and '.join(given)}" if given else ""),
            remedy="such as macs=0.5",
        )
    before = analyze(net).total
    nodes = candidates(net)
    check_weights(net, nodes)
    if calibration is not None:
        _check_calibration(net, nodes, calibration)
    moments: Mapping[str, Moments] = {} if calibration is None else calibration.moments
    samples = () if calibration is None else calibration.samples
    chosen: dict[str, Candidate] = {}
    with one_blas_thread():
        if plan is None:
            currency: Currency = "macs" if macs is not None else "params"
            share = macs if macs is not None else params
            assert share is not None
            asked: Mapping[str, float] = {currency: share}
            total = getattr(before, currency)
            budget = budget_of(share, total, currency)
            if budget < total:
                _warn_without(calibration)
                layers = tabulate(net, moments, nodes, progress=progress)
                if samples:
                    layers = measure(net, layers, moments, samples, progress=progress)
                dense = sum(getattr(layer.candidates[0], currency) for layer in layers)
                try:
                    chosen = choose(layers, currency, budget, total - dense)
                except BudgetError as error:
                    raise error.at(net.source) from None
        else:
            chosen = _planned(net, plan, nodes, moments)
            asked = plan.budget
            if chosen:
                _warn_without(calibration)
        fitted = _fitted(net, chosen, calibration, progress)
        made = Plan(source=net.source, budget=asked, choices=_choices(net, nodes, chosen, fitted))
        result = replace_layers(net, made.chains)
        verification = (
            verify(net, result, samples, data="calibration samples", progress=progress)
            if samples
            else None
        )
    return Rewriting(
        net=result,
        plan=made,
        before=before,
        after=analyze(result).total,
        verification=verification,
    )


def _warn_without(calibration: Calibration | None) -> None:
    if calibration is None:
        warnings.warn(
            "no calibration data: the weights alone are approximated, which loses much more",
            stacklevel=3,
        )


def budget_of(share: float, total: int, currency: str) -> float:
    """What may be spent: a share of the total (at most 1), or, above 1, the number itself.

    Raises:
        BudgetError: If that is no budget.

    >>> budget_of(0.5, 100, "macs"), budget_of(70, 100, "macs")
    (50.0, 70)
    """
    if not 0 < share < float("inf"):
        raise BudgetError(
            f"{currency}={share} is no budget",
            remedy="give a share such as 0.5, or a number of them",
        )
    return share * total if share <= 1 else share


def _check_calibration(net: Graph, nodes: Sequence[Node], calibration: Calibration) -> None:
    """Checks that a calibration was made with this network."""
    for node in nodes:
        moments = calibration.moments.get(node.name)
        if moments is None:
            raise DataError(
                "the calibration has no statistics of this layer",
                place=node.name,
                remedy="calibrate this very network",
            )
        width = math.prod(net.parameter(node, "weight").shape[1:])
        if len(moments.first) != width:
            raise DataError(
                f"the calibration saw windows of {len(moments.first)} numbers, the layer has"
                f" {width}",
                place=node.name,
                remedy="calibrate this very network",
            )
    for index, sample in enumerate(calibration.samples):
        check_batch(net, sample, f"calibration sample {index + 1}")


def _planned(
    net: Graph, plan: Plan, nodes: Sequence[Node], moments: Mapping[str, Moments]
) -> dict[str, Candidate]:
    """The candidates that a plan names."""
    by_name = {node.name: node for node in nodes}
    chosen: dict[str, Candidate] = {}
    for choice in plan.choices:
        check_belongs(choice, net)
        if choice.form == KEEP:
            continue
        if choice.form != spatial.NAME or choice.layer not in by_name:
            raise PlanError(
                f"the form {choice.form!r} does not apply here",
                place=choice.layer,
                remedy=f"use {spatial.NAME!r} on 2-D convolutions, or {KEEP!r}",
            )
        if choice.rank < 1:
            raise PlanError(
                f"rank {choice.rank} is no width",
                place=choice.layer,
                remedy=f"choose at least 1, or the form {KEEP!r}",
            )
        node = by_name[choice.layer]
        made = tabulate(net, moments, [node], ranks=[choice.rank])[0].candidates[1:]
        if not made:
            raise PlanError(
                f"rank {choice.rank} is not cheaper than the layer",
                place=choice.layer,
                remedy=f"choose a smaller one, or the form {KEEP!r}",
            )
        chosen[choice.layer] = made[0]
    return chosen


def _fitted(
    net: Graph,
    chosen: Mapping[str, Candidate],
    calibration: Calibration | None,
    progress: Progress | None,
) -> dict[str, Fitted]:
    if calibration is not None and calibration.samples:
        return rebuild(
            net,
            chosen,
            calibration.samples,
            positions=calibration.positions,
            progress=progress,
        )
    moments: Mapping[str, Moments] = {} if calibration is None else calibration.moments
    return {
        name: correct_means(net, net.by_name[name], candidate, moments.get(name))
        for name, candidate in chosen.items()
        if candidate.form != KEEP
    }


def _choices(
    net: Graph,
    nodes: Sequence[Node],
    chosen: Mapping[str, Candidate],
    fitted: Mapping[str, Fitted],
) -> tuple[Choice, ...]:
    choices = []
    for node in nodes:
        op, x = node.op, net.shape(node.inputs[0])
        assert isinstance(op, Conv)
        made, candidate = fitted.get(node.name), chosen.get(node.name)
        dense = dense_macs(net, node)
        shape = net.parameter(node, "weight").shape
        if made is None or candidate is None:
            choices.append(
                Choice(
                    layer=node.name,
                    form=KEEP,
                    rank=0,
                    order="",
                    text=operator_text(op),
                    shape=shape,
                    macs_before=dense,
                    macs_after=dense,
                    error=0.0,
                )
            )
            continue
        choices.append(
            Choice(
                layer=node.name,
                form=candidate.form,
                rank=candidate.rank,
                order=made.order,
                text=chain_text(made.chain),
                shape=shape,
                macs_before=dense,
                macs_after=spatial.macs(op, candidate.rank, made.order, x),
                error=made.error,
                chain=made.chain,
            )
        )
    return tuple(choices)
