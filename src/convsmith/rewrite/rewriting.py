"""The whole rewrite: candidates, choice, rebuild, proof."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.parallel import one_blas_thread
from convsmith.results import Progress
from convsmith.rewrite.asking import check_nonlinearity
from convsmith.rewrite.choosing import Currency
from convsmith.rewrite.forms import KEEP
from convsmith.rewrite.measuring import Timings, side_by_side
from convsmith.rewrite.outcome import Rewriting
from convsmith.rewrite.plan import Plan
from convsmith.rewrite.planning import StrategyName
from convsmith.rewrite.statistics import Calibration
from convsmith.rewrite.task import Merges, Task

__all__ = [
    "Rewriting",
    "check_lift",
    "rewrite",
    "timed",
    "warn_without",
    "with_timings",
]


def rewrite(
    net: Graph,
    *,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    max_loss: float | None = None,
    plan: Plan | None = None,
    calibration: Calibration | None = None,
    strategy: StrategyName = "thorough",
    forms: Iterable[str] | None = None,
    only: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    nonlinearity: Literal["relu"] | None = None,
    merge: Merges = False,
    measure: Sequence[str] = (),
    progress: Progress | None = None,
) -> Rewriting:
    """Makes a trained network cheaper without changing what its outputs see.

    Every layer that a form can replace is fitted at a grid of widths; what an error in it does to
    the output is measured; one candidate per layer is chosen under the budget; then all are
    refitted in execution order to what really reaches them.

    Args:
        net: A network with weights.
        macs: The budget: a share of the original's multiply-accumulates (at most 1), or, above
            1, their number.
        params: The same for parameters.
        latency: The same for time on this machine, in convsmith's kernels (``cs.compile``): a
            share of the original's, or, above 1, milliseconds. Candidates that are not faster
            when measured are dropped.
        max_loss: Instead of a budget: how far the outputs may move on the calibration samples,
            measured; the multiply-accumulates are minimized. For class scores it is the
            Kullback-Leibler divergence of the predictions in nats, for anything else the squared
            error over the variance.
        plan: Instead of a budget: the forms and widths of this plan, fitted anew.
        calibration: Statistics from :func:`convsmith.calibrate`. Without it the weights alone
            are approximated, which loses much more; a warning says so.
        strategy: ``fast`` tries the two forms that win most often at a few widths; ``thorough``
            all that lose little without training, on a fine grid.
        forms: Names of the forms to try instead.
        only: Names of the only layers that may be replaced.
        exclude: Names of layers that stay as they are.
        nonlinearity: ``relu`` puts a ReLU between the layers of stacks, lifted so that on the
            calibration samples it changes nothing: something for training to use.
        merge: Whether layers that one layer replaces exactly are merged first
            (:func:`convsmith.merge`), or the names of the rules to merge by. The budget is still
            one of ``net``, the calibration too, and the plan, which says what is merged, is for
            it; ``only`` and ``exclude`` name layers of the merged network.
        measure: Runtimes that both networks are timed in at the end, in turns: ``convsmith``,
            ``onnxruntime``, ...
        progress: Called during long steps.

    Raises:
        BudgetError: If the budget cannot be met.
        DataError: If the calibration belongs to another network, or weights or values in the
            network are NaN or infinite.
        PlanError: If the plan does.
        UsageError: If there is not exactly one of ``macs``, ``params``, ``latency``,
            ``max_loss`` and ``plan``, or a form, layer or strategy is unknown.

    A budget that pays for the network as it is changes nothing:

    >>> from convsmith.graph import parse
    >>> net = parse("3@8 > conv 4 3 p1")
    >>> rewrite(net, macs=1.0).net is net
    True
    """
    options = {
        "macs": macs,
        "params": params,
        "latency": latency,
        "max_loss": max_loss,
        "plan": plan,
    }
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise UsageError(
            "a rewrite needs exactly one of macs=, params=, latency=, max_loss= and plan="
            + (f", not {' and '.join(given)}" if given else ""),
            remedy="such as macs=0.5",
        )
    if plan is not None:
        choosing = {"forms": forms is not None, "only": only is not None}
        choosing |= {"exclude": tuple(exclude) != (), "merge": merge is not False}
        told = [name for name, given in choosing.items() if given]
        if told:
            raise UsageError(
                "the plan says which layers are merged and replaced, and by what",
                place=" and ".join(told),
                remedy="edit the plan, or give a budget",
            )
    forms = None if forms is None else tuple(forms)
    if plan is None:
        check_nonlinearity(nonlinearity, strategy, forms)
    check_lift(nonlinearity, calibration)
    task = Task.begin(
        net,
        calibration,
        progress,
        merge=merge,
        merges=() if plan is None else plan.merges,
        relu=nonlinearity is not None,
    )
    with one_blas_thread():
        if plan is not None:
            if any(choice.form != KEEP for choice in plan.choices):
                warn_without(calibration)
            return timed(task.planned(plan, strategy), measure)
        shares: dict[Currency, float | None] = {"macs": macs, "params": params}
        for currency, share in shares.items():
            if share is not None and task.affords(share, currency):
                return timed(task.kept({currency: share}), measure)
        warn_without(calibration)
        table = task.table(strategy=strategy, forms=forms, only=only, exclude=exclude)
        if latency is not None:
            made = task.timed(table, latency)
            measure = tuple(dict.fromkeys(("convsmith", *measure)))
        elif max_loss is not None:
            made = task.losing(table, max_loss)
        for currency, share in shares.items():
            if share is not None:
                made = task.within(table, share, currency)
    return timed(made, measure)


def check_lift(name: str | None, calibration: Calibration | None) -> None:
    """Checks that there are samples to lift a nonlinearity by, where one is asked for.

    Raises:
        UsageError: If there are none.
    """
    if name is not None and (calibration is None or not calibration.samples):
        raise UsageError(
            "nonlinearity= needs calibration samples to see how far it must be lifted",
            remedy="give calibration=convsmith.calibrate(net, batches)",
        )


def timed(made: Rewriting, runtimes: Iterable[str], *, tune: bool = True) -> Rewriting:
    """The rewriting with both networks timed in turns; a note says if nothing was gained.

    Args:
        made: The rewriting.
        runtimes: Where.
        tune: Whether convsmith measures its algorithms first, where this machine has not.
    """
    names = list(runtimes)
    if not names:
        return made
    return with_timings(made, side_by_side(made.original, made.net, names, tune=tune))


def with_timings(made: Rewriting, timings: Timings) -> Rewriting:
    """The rewriting with measured times; a note says if nothing was gained."""
    made = replace(made, timings=timings)
    slow = [name for name, gained in made.speedups.items() if gained <= 1]
    if not slow or not made.plan.chains:
        return made
    remedy = "exclude some layers"
    if "latency" not in made.plan.budget:
        remedy = f"give a budget of latency instead, or {remedy}"
    note = (
        f"it is not faster in {' and '.join(slow)}"
        f" ({', '.join(f'{made.speedups[name]:.2f}x' for name in slow)}), so it is no improvement"
        f" there: {remedy}"
    )
    return replace(made, notes=(*made.notes, note))


def warn_without(calibration: Calibration | None) -> None:
    """Warns that there are no statistics, if there are none."""
    if calibration is None:
        warnings.warn(
            "no calibration data: the weights alone are approximated, which loses much more",
            stacklevel=3,
        )
