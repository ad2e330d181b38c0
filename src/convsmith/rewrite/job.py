"""The work of a rewrite: from a choice of candidates to a network with its proof."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convsmith.analysis import Total, analyze
from convsmith.errors import BudgetError, DataError, PlanError, UsageError
from convsmith.graph import Graph, Node, operator_text
from convsmith.results import Progress
from convsmith.rewrite.advice import advise
from convsmith.rewrite.applying import check_belongs, layout_of, norm_of, replace_layers
from convsmith.rewrite.batches import check_batch
from convsmith.rewrite.candidates import Candidate, replaceable, tabulate
from convsmith.rewrite.curvature import curvatures
from convsmith.rewrite.forms import FORMS, KEEP, REFIT
from convsmith.rewrite.measuring import Stopwatch, estimated
from convsmith.rewrite.moments import MOMENT_BYTES, bytes_of_moments
from convsmith.rewrite.outcome import Rewriting
from convsmith.rewrite.plan import Choice, Plan, chain_text
from convsmith.rewrite.planning import StrategyName, Table, work_of
from convsmith.rewrite.rebuilding import Fitted, correct_means, rebuild
from convsmith.rewrite.site import Site, cost
from convsmith.rewrite.statistics import Calibration, check_weights
from convsmith.rewrite.verifying import verify

__all__ = ["Job", "budget_of"]

SEARCHES = 6
"""How many networks are made to find the cheapest one within a bound on the loss."""

ATTEMPTS = 3
"""How many networks are made to find one that is as fast as asked for."""

CONFIRMATIONS = 12
"""How often a choice by time is made again with what was measured."""

SLACK = 0.02
"""By how much a measured time may exceed the one asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A network with its calibration, checked: what every rewrite of it begins with.

    Attributes:
        net: The network.
        calibration: Its statistics.
        before: What it costs.
        progress: Called during long steps.
        relu: Whether stacks get a ReLU between their layers.
    """

    net: Graph
    calibration: Calibration | None
    before: Total
    progress: Progress | None
    relu: bool = False

    @classmethod
    def begin(cls, net: Graph, calibration: Calibration | None, progress: Progress | None) -> Job:
        """Checks weights and calibration."""
        nodes = replaceable(net)
        check_weights(net, nodes)
        if calibration is not None:
            _check_calibration(net, nodes, calibration)
        return cls(net=net, calibration=calibration, before=analyze(net).total, progress=progress)

    @property
    def samples(self) -> tuple[Mapping[str, Any], ...]:
        """The inputs that were kept."""
        return () if self.calibration is None else self.calibration.samples

    def finish(
        self,
        chosen: Mapping[str, Candidate],
        budget: Mapping[str, float],
        table: Table | None = None,
    ) -> Rewriting:
        """Fits what was chosen in execution order, and measures what was lost.

        Args:
            chosen: A candidate per layer.
            budget: What was asked for.
            table: What it was chosen from: says which layers are refitted, and how errors count.
        """
        curved, refit = ({}, frozenset()) if table is None else (table.curved, table.refit)
        fitted = self._fitted(chosen, curved, refit)
        choices = _choices(self.net, chosen, fitted)
        made = Plan(
            source=self.net.source,
            budget=budget,
            choices=choices,
            advice=advise(self.net, choices),
        )
        result = replace_layers(self.net, made.chains)
        verification = (
            verify(
                self.net,
                result,
                self.samples,
                data="calibration samples",
                progress=self.progress,
            )
            if self.samples
            else None
        )
        return Rewriting(
            original=self.net,
            net=result,
            plan=made,
            before=self.before,
            after=analyze(result).total,
            verification=verification,
            notes=() if self.calibration is None else self.calibration.notes,
        )

    def losing(self, table: Table, most: float) -> Rewriting:
        """The cheapest network that loses at most ``most`` on the calibration samples.

        Predicted losses of layers add up to more or less than what they lose together: the bound
        on the prediction is moved until the measured loss is just inside.

        Raises:
            UsageError: If there are no samples to measure on, or the bound is no positive number.
        """
        if not 0 < most < math.inf:
            raise UsageError(f"max_loss={most} is no bound", remedy="give a number such as 0.01")
        if not self.samples:
            raise UsageError(
                "max_loss= needs calibration samples to measure the loss on",
                remedy="give calibration=convsmith.calibrate(net, batches)",
            )
        budget = {"max_loss": most}
        best: Rewriting | None = None
        low, high, bound = 0.0, math.inf, most
        for _ in range(SEARCHES):
            made = self.finish(table.losing("macs", bound), budget, table)
            assert made.verification is not None
            if made.verification.loss <= most:
                low = bound
                if made.after.macs < (self.before if best is None else best.after).macs:
                    best = made
            else:
                high = bound
            if high < math.inf and high - low < 0.1 * high:
                break
            bound = 2 * bound if high == math.inf else (low + high) / 2
        return best or self.finish({}, budget)

    def timed(self, table: Table, latency: float, watch: Stopwatch | None = None) -> Rewriting:
        """The network that loses least and takes at most a share of the original's time.

        Args:
            table: What to choose from.
            latency: The share, or, above 1, milliseconds.
            watch: What measures; one that already knows the candidates saves their time.

        Raises:
            BudgetError: If no choice of candidates is that fast.
        """
        watch = watch or Stopwatch()
        whole = watch.network(self.net)
        inputs = {
            layer.name: self.net.shape(self.net.by_name[layer.name].inputs[0])
            for layer in table.layers
        }
        layers = estimated(table.layers, inputs, watch, self.progress)
        table = replace(table, layers=tuple(layers))
        wanted = budget_of(latency, whole, "milliseconds")
        budget = {"latency": latency}
        aim = wanted
        for attempt in range(ATTEMPTS):
            chosen, table = self._confirmed(table, aim, whole, inputs, watch)
            made = self.finish(chosen, budget, table)
            now = watch.network(made.net)
            if now <= wanted * (1 + SLACK) or attempt == ATTEMPTS - 1:
                break
            aim -= min(now - wanted, 0.25 * aim)
        times = {layer.name: layer.kept.milliseconds for layer in table.layers}
        choices = tuple(
            replace(c, milliseconds=(times[c.layer], chosen[c.layer].milliseconds))
            if c.layer in chosen
            else c
            for c in made.plan.choices
        )
        notes = made.notes
        if now > wanted * (1 + SLACK):
            missed = (
                f"it takes {now:,.4g} ms, not the {wanted:,.4g} ms that were asked for: layers take"
                " longer together than one by one"
            )
            notes = (*notes, missed)
        return replace(made, plan=replace(made.plan, choices=choices), notes=notes)

    def _confirmed(
        self,
        table: Table,
        budget: float,
        whole: float,
        inputs: Mapping[str, Any],
        watch: Stopwatch,
    ) -> tuple[dict[str, Candidate], Table]:
        """A choice whose candidates were all measured."""
        chosen: dict[str, Candidate] = {}
        for _ in range(CONFIRMATIONS):
            chosen = table.within("milliseconds", budget, whole)
            wrong = False
            layers = []
            for layer in table.layers:
                taken = chosen[layer.name]
                real = watch.chain(taken.ops, inputs[layer.name])
                if abs(real - taken.milliseconds) > 1e-9:
                    wrong = True
                    swapped = tuple(
                        replace(c, milliseconds=real) if c is taken else c for c in layer.candidates
                    )
                    layer = replace(layer, candidates=swapped)
                    chosen[layer.name] = replace(taken, milliseconds=real)
                layers.append(layer)
            table = replace(table, layers=tuple(layers))
            if not wrong:
                break
        return chosen, table

    def planned(self, plan: Plan, strategy: StrategyName) -> Rewriting:
        """The network that a plan describes, fitted anew with the errors counting as they did."""
        changed = {choice.layer for choice in plan.choices if choice.form != KEEP}
        nodes = [node for node in replaceable(self.net) if node.name in changed]
        images = work_of(strategy).weighed
        curved = (
            curvatures(self.net, nodes, self.samples, images=images, progress=self.progress)
            if nodes
            else {}
        )
        refit = frozenset(choice.layer for choice in plan.choices if choice.form == REFIT)
        table = Table(net=self.net, layers=(), curved=curved, refit=refit)
        return self.finish(self._named(plan, curved), plan.budget, table)

    def _named(self, plan: Plan, curved: Mapping[str, Any]) -> dict[str, Candidate]:
        """The candidates that a plan names."""
        moments = {} if self.calibration is None else self.calibration.moments
        nodes = {node.name: node for node in replaceable(self.net)}
        chosen: dict[str, Candidate] = {}
        for choice in plan.choices:
            check_belongs(choice, self.net)
            if choice.form in (KEEP, REFIT):
                continue
            form = FORMS.get(choice.form)
            node = nodes.get(choice.layer)
            site = None if node is None else Site.of(self.net, node)
            if form is None or node is None or site is None or form.refusal(site):
                why = "" if form is None or site is None else f": {form.refusal(site)}"
                raise PlanError(
                    f"the form {choice.form!r} does not apply here{why}",
                    place=choice.layer,
                    remedy=f"use one of {', '.join((KEEP, *FORMS))} where it fits",
                )
            if not layout_of(choice, site):
                raise PlanError(
                    f"the form {choice.form!r} has no {choice.variant!r} with the widths"
                    f" {list(choice.widths)}",
                    place=choice.layer,
                    remedy=f"choose other widths, or the form {KEEP!r}",
                )
            made = tabulate(
                self.net,
                moments,
                [node],
                curved=curved,
                forms=[form],
                widths=choice.widths,
                variant=choice.variant,
            )[0].candidates[1:]
            if not made:
                raise PlanError(
                    f"with the widths {list(choice.widths)} it is not cheaper than the layer",
                    place=choice.layer,
                    remedy=f"choose smaller ones, or the form {KEEP!r}",
                )
            chosen[choice.layer] = made[0]
        return chosen

    def _fitted(
        self,
        chosen: Mapping[str, Candidate],
        curved: Mapping[str, Any],
        refit: Collection[str],
    ) -> dict[str, Fitted]:
        calibration = self.calibration
        if calibration is not None and calibration.samples:
            return rebuild(
                self.net,
                chosen,
                calibration.samples,
                curved=curved,
                refit=refit,
                relu=self.relu,
                positions=calibration.positions,
                progress=self.progress,
            )
        moments = {} if calibration is None else calibration.moments
        return {
            name: correct_means(self.net, self.net.by_name[name], candidate, moments.get(name))
            for name, candidate in chosen.items()
            if candidate.form != KEEP
        }


def budget_of(share: float, total: float, currency: str) -> float:
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
        site = Site.of(net, node)
        moments = calibration.moments.get(node.name)
        if moments is None and bytes_of_moments(site) > MOMENT_BYTES:
            continue
        if moments is None:
            raise DataError(
                "the calibration has no statistics of this layer",
                place=node.name,
                remedy="calibrate this very network",
            )
        if moments.first.shape != (site.groups, site.width):
            raise DataError(
                f"the calibration saw {moments.first.shape[0]} windows of"
                f" {moments.first.shape[1]} numbers, the layer has {site.groups} of {site.width}",
                place=node.name,
                remedy="calibrate this very network",
            )
    for index, sample in enumerate(calibration.samples):
        check_batch(net, sample, f"calibration sample {index + 1}")


def _choices(
    net: Graph, chosen: Mapping[str, Candidate], fitted: Mapping[str, Fitted]
) -> tuple[Choice, ...]:
    choices = []
    for node in replaceable(net):
        site, made = Site.of(net, node), fitted.get(node.name)
        macs = site.cost[0]
        choice = Choice(
            layer=node.name,
            form=KEEP,
            text=operator_text(node.op),
            shape=net.parameter(node, "weight").shape,
            macs_before=macs,
            macs_after=macs,
            error=0.0,
            norm=norm_of(site.stored),
        )
        if made is not None:
            candidate = chosen.get(node.name)
            replaced = candidate is not None and candidate.form != KEEP
            choice = replace(
                choice,
                form=candidate.form if candidate is not None and replaced else REFIT,
                variant=made.variant,
                widths=candidate.widths if candidate is not None and replaced else (),
                text=chain_text(made.chain),
                macs_after=cost([step.op for step in made.chain], site.x)[0],
                error=made.error,
                chain=made.chain,
            )
        choices.append(choice)
    return tuple(choices)
