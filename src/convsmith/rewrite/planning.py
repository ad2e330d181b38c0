"""The table that every choice is made from: candidates per layer, what they cost, what they lose.

Made once for a network and its calibration; any number of budgets can then be chosen from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from convsmith.errors import BudgetError, UsageError
from convsmith.graph import Graph, Node
from convsmith.results import Progress
from convsmith.rewrite.candidates import Candidate, Layer, replaceable, tabulate
from convsmith.rewrite.choosing import Currency, cheapest, choose, cost_of
from convsmith.rewrite.curvature import curvatures
from convsmith.rewrite.forms import Form, named
from convsmith.rewrite.sensitivity import measure
from convsmith.rewrite.statistics import Calibration

__all__ = ["STRATEGIES", "Strategy", "StrategyName", "Table", "table_of", "work_of"]

Array = npt.NDArray[Any]
StrategyName = Literal["fast", "thorough"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How much work goes into a choice.

    Attributes:
        forms: The forms that are tried unless others are asked for; ``None`` for all that lose
            little without training.
        about: About how many widths per form and variant.
        rounds: Rounds of alternating least squares per candidate.
        probes: Candidates per layer that are put into the network to see what they do.
        images: How many images they see.
        refit: Whether layers that keep their size are fitted to what reaches them, too.
        weighed: How many images are run backwards to see how errors count.
    """

    forms: tuple[str, ...] | None
    about: int | None
    rounds: int
    probes: int
    images: int
    refit: bool
    weighed: int


STRATEGIES: dict[StrategyName, Strategy] = {
    "fast": Strategy(
        forms=("spatial", "channel"),
        about=8,
        rounds=1,
        probes=4,
        images=16,
        refit=False,
        weighed=24,
    ),
    "thorough": Strategy(
        forms=None, about=None, rounds=2, probes=6, images=96, refit=True, weighed=256
    ),
}


def work_of(strategy: StrategyName) -> Strategy:
    """The strategy of this name.

    Raises:
        UsageError: If there is none.
    """
    if strategy not in STRATEGIES:
        raise UsageError(
            f"there is no strategy {strategy!r}", remedy=f"choose {' or '.join(STRATEGIES)}"
        )
    return STRATEGIES[strategy]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Everything that can stand for every layer.

    Attributes:
        net: The network.
        layers: The layers that may be replaced, with their candidates.
        curved: How errors in their outputs count.
        refit: Layers that get new weights where they keep their size, to make up for what was
            lost before them.
    """

    net: Graph
    layers: tuple[Layer, ...]
    curved: Mapping[str, Array]
    refit: frozenset[str]

    def within(self, currency: Currency, budget: float, total: float) -> dict[str, Candidate]:
        """Picks the least loss at a cost of at most ``budget`` for the whole network.

        Args:
            currency: What is paid with.
            budget: For the whole network.
            total: What the whole network costs as it is.

        Raises:
            BudgetError: If that cannot be met.
        """
        own = sum(cost_of(layer.kept, currency) for layer in self.layers)
        try:
            return choose(self.layers, currency, budget, total - own)
        except BudgetError as error:
            raise error.at(self.net.source) from None

    def losing(self, currency: Currency, most: float) -> dict[str, Candidate]:
        """Picks the least cost at a predicted loss of at most ``most``."""
        return cheapest(self.layers, currency, most)


def table_of(
    net: Graph,
    calibration: Calibration | None,
    *,
    strategy: StrategyName,
    forms: Iterable[str] | None,
    only: Iterable[str] | None,
    exclude: Iterable[str],
    progress: Progress | None,
) -> Table:
    """Fits candidates to every layer, and measures what they do to the network's output.

    Args:
        net: The network.
        calibration: Its statistics; ``None`` to go by the weights alone.
        strategy: How much work to do.
        forms: Names of the forms to try.
        only: Names of the only layers that may be replaced.
        exclude: Names of layers that stay as they are.
        progress: Called during long steps.

    Raises:
        UsageError: If there is no such strategy, form or layer.
    """
    work = work_of(strategy)
    tried = named(work.forms if forms is None else forms)
    nodes = _allowed(net, tried, only, exclude)
    moments = {} if calibration is None else calibration.moments
    samples = () if calibration is None else calibration.samples
    curved = curvatures(net, nodes, samples, images=work.weighed, progress=progress)
    layers = tabulate(
        net,
        moments,
        nodes,
        curved=curved,
        forms=tried,
        rounds=work.rounds,
        about=work.about,
        progress=progress,
    )
    if samples:
        layers = measure(
            net,
            layers,
            moments,
            samples,
            probes=work.probes,
            images=work.images,
            progress=progress,
        )
    refit = frozenset(node.name for node in nodes if work.refit and samples)
    return Table(net=net, layers=tuple(layers), curved=curved, refit=refit)


def _allowed(
    net: Graph, forms: Sequence[Form], only: Iterable[str] | None, exclude: Iterable[str]
) -> list[Node]:
    nodes = replaceable(net, forms)
    wanted, unwanted = None if only is None else set(only), set(exclude)
    unknown = sorted(((wanted or set()) | unwanted) - set(net.by_name))
    if unknown:
        raise UsageError(
            "the network has no layer of this name",
            place=unknown[0],
            remedy="convsmith analyze lists the layers",
        )
    return [
        node
        for node in nodes
        if node.name not in unwanted and (wanted is None or node.name in wanted)
    ]
