"""What there is to rewrite: a network, merged first where that is asked for.

Budgets, costs, times and losses are those of the network as it was given; candidates and choices
those of the merged one, which computes the same with fewer layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convsmith.analysis import Total
from convsmith.errors import DataError
from convsmith.graph import Graph
from convsmith.graph.operators import Conv, Linear
from convsmith.results import Progress
from convsmith.rewrite.batches import images_in
from convsmith.rewrite.candidates import replaceable
from convsmith.rewrite.choosing import Currency
from convsmith.rewrite.job import Job, budget_of
from convsmith.rewrite.measuring import Stopwatch
from convsmith.rewrite.merging import Merge, repeat
from convsmith.rewrite.merging import merge as merged
from convsmith.rewrite.outcome import Rewriting
from convsmith.rewrite.plan import Plan
from convsmith.rewrite.planning import StrategyName, Table, table_of
from convsmith.rewrite.statistics import Calibration, check_weights
from convsmith.rewrite.statistics import calibrate as collected
from convsmith.rewrite.verifying import verify

__all__ = ["Merges", "Task", "carried_over"]

Merges = bool | str | Collection[str]
"""Whether to merge first: by all rules but ``concat``, or by those that are named."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A network to rewrite.

    Attributes:
        net: The network as it was given.
        before: What it costs.
        job: The work, on the merged network if something was merged.
        merges: What was merged.
        notes: What the reader should know of that.
    """

    net: Graph
    before: Total
    job: Job
    merges: tuple[Merge, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def begin(
        cls,
        net: Graph,
        calibration: Calibration | None,
        progress: Progress | None,
        *,
        merge: Merges = False,
        merges: tuple[Merge, ...] = (),
        relu: bool = False,
    ) -> Task:
        """Checks weights and calibration, and merges.

        Args:
            net: A network with weights.
            calibration: Its statistics.
            progress: Called during long steps.
            merge: Whether to merge, or by which rules.
            merges: Instead: what was merged before, to be merged once more.
            relu: Whether stacks get a ReLU between their layers.

        Raises:
            DataError: If weights, statistics or samples do not make sense, or do not belong to
                the network.
            PlanError: If something cannot be merged once more.
            UsageError: If there is no such rule.
        """
        check_weights(net, net.nodes)
        if calibration is not None:
            _check_moments(calibration)
        job = replace(Job.begin(net, calibration, progress), relu=relu)
        task = cls(net=net, before=job.before, job=job)
        if merge is not False:
            merging = merged(net, rules=None if merge is True else merge, progress=progress)
            made, merges = merging.net, merging.merges
            if not merges:
                return replace(task, notes=("there was nothing to merge",))
        elif merges:
            made = repeat(merges, net, progress=progress)
        else:
            return task
        notes: list[str] = []
        if calibration is not None:
            calibration = carried_over(calibration, net, made, notes, progress)
        job = replace(Job.begin(made, calibration, progress), relu=relu)
        return replace(task, job=job, merges=merges, notes=tuple(notes))

    def affords(self, share: float, currency: Currency) -> bool:
        """Whether a budget pays for the network as it is, merged.

        Raises:
            BudgetError: If that is no budget.
        """
        whole: float = getattr(self.before, currency)
        left: float = getattr(self.job.before, currency)
        return budget_of(share, whole, currency) >= left

    def table(
        self,
        *,
        strategy: StrategyName,
        forms: Iterable[str] | None,
        only: Iterable[str] | None,
        exclude: Iterable[str],
    ) -> Table:
        """Everything that can stand for every layer; see :func:`convsmith.rewrite`."""
        return table_of(
            self.job.net,
            self.job.calibration,
            strategy=strategy,
            forms=forms,
            only=only,
            exclude=exclude,
            progress=self.job.progress,
        )

    # Outcomes ---------------------------------------------------------------------------

    def kept(self, budget: Mapping[str, float]) -> Rewriting:
        """The network with all its layers; merged, if it was to be."""
        return self._whole(self.job.finish({}, budget), budget)

    def within(self, table: Table, share: float, currency: Currency) -> Rewriting:
        """The network that loses least at a cost of at most a share of the given one's.

        Raises:
            BudgetError: If no choice of candidates is that cheap.
        """
        budget: dict[str, float] = {currency: share}
        most = budget_of(share, getattr(self.before, currency), currency)
        chosen = table.within(currency, most, getattr(self.job.before, currency))
        return self._whole(self.job.finish(chosen, budget, table), budget)

    def timed(self, table: Table, latency: float, watch: Stopwatch | None = None) -> Rewriting:
        """The network that loses least and takes at most a share of the given one's time.

        Raises:
            BudgetError: If no choice of candidates is that fast.
        """
        budget, share = {"latency": latency}, latency
        if self.merges and latency <= 1:
            watch = watch or Stopwatch()
            budget_of(latency, 1, "latency")
            share = latency * watch.network(self.net) / watch.network(self.job.net)
            if share >= 1:  # merging alone makes it that fast
                return self.kept(budget)
        return self._whole(self.job.timed(table, share, watch), budget)

    def losing(self, table: Table, most: float) -> Rewriting:
        """The cheapest network that loses at most so much on the calibration samples."""
        return self._whole(self.job.losing(table, most), {"max_loss": most})

    def planned(self, plan: Plan, strategy: StrategyName) -> Rewriting:
        """The network that a plan describes, fitted anew."""
        return self._whole(self.job.planned(plan, strategy), plan.budget)

    def _whole(self, made: Rewriting, budget: Mapping[str, float]) -> Rewriting:
        """The outcome as one of the network that was given, not of the merged one."""
        notes = [*self.notes]
        if self.job.relu and all(choice.form != "stack" for choice in made.plan.choices):
            notes.append("no layer became a stack, so there is no nonlinearity anywhere")
        made = replace(made, notes=(*notes, *made.notes))
        if not self.merges:
            return made
        verification = made.verification
        if verification is not None:
            whole = verify(
                self.net,
                made.net,
                self.job.samples,
                data=verification.data,
                progress=self.job.progress,
            )
            verification = replace(whole, layers=verification.layers)
        plan = replace(
            made.plan,
            budget=budget,
            merges=self.merges,
            inputs=tuple(value.shape for value in self.net.inputs),
        )
        return replace(
            made, original=self.net, plan=plan, before=self.before, verification=verification
        )


def _check_moments(calibration: Calibration) -> None:
    for name, moments in calibration.moments.items():
        if not (np.isfinite(moments.first).all() and np.isfinite(moments.second).all()):
            raise DataError(
                "the calibration's statistics of this layer hold NaN or infinity",
                place=name,
                remedy="calibrate again",
            )


def carried_over(
    calibration: Calibration,
    net: Graph,
    merged: Graph,
    notes: list[str],
    progress: Progress | None = None,
) -> Calibration:
    """The calibration of a network as one of its merged form.

    Layers that still read what they read keep their statistics; those of others are collected
    from the images that were kept.

    Args:
        calibration: Of ``net``.
        net: The network.
        merged: The same, merged.
        notes: Gets a sentence if fewer images are left for some layers.
        progress: Called after each batch.

    Raises:
        DataError: If no images were kept, but some layers need them.
    """
    kept: dict[str, Any] = {}
    others: list[str] = []
    for node in replaceable(merged):
        if not _reads_the_same(net, merged, node.name):
            others.append(node.name)
        elif node.name in calibration.moments:
            kept[node.name] = calibration.moments[node.name]
    if not others:
        return replace(calibration, moments=kept)
    if not calibration.samples:
        raise DataError(
            "merging changes what this layer reads, and the calibration kept no images to see it",
            place=others[0],
            remedy="calibrate convsmith.merge(net).net, and rewrite that",
        )
    found = collected(
        merged, calibration.samples, positions=calibration.positions, progress=progress
    ).moments
    left = sum(map(images_in, calibration.samples))
    if left < calibration.images:
        layers = f"{len(others)} merged layer{'s' if len(others) > 1 else ''}"
        notes.append(
            f"the statistics of {layers} come from the {left:,} images that the calibration kept"
            f" of {calibration.images:,}"
        )
    fresh = {name: found[name] for name in others if name in found}
    return replace(calibration, moments=kept | fresh)


def _reads_the_same(net: Graph, merged: Graph, name: str) -> bool:
    """Whether a layer of a merged network sees the windows that it saw before."""
    node, before = merged.by_name[name], net.by_name.get(name)
    assert isinstance(node.op, Conv | Linear)
    if before is None or not isinstance(before.op, Conv | Linear):
        return False
    if replace(before.op, bias=node.op.bias) != node.op:
        return False
    value = node.inputs[0]
    maker = merged.producers.get(value)
    if maker is not None and maker is not net.by_name.get(maker.name):
        old = net.by_name.get(maker.name)
        if old is not None and old.provenance.replaces:
            return False  # its name before is not to be told from an older one
        value = maker.provenance.replaces or value
    return value == before.inputs[0]
