"""The methods, each behind the same two calls: prepare once, then a network for any share."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.rewriting import aimet, balf, tucker, weights_only
from benchmarks.rewriting.chains import Chain, Layer, Unreachable, layers, replaced
from benchmarks.rewriting.measuring import as_graph, macs, metric
from benchmarks.rewriting.tasks import Images, Task, folded
from torch import nn

import convsmith as cs
from convsmith.errors import BudgetError
from convsmith.graph import Graph
from convsmith.parallel import one_blas_thread
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.forms import KEEP
from convsmith.rewrite.planning import StrategyName
from convsmith.rewrite.rebuilding import correct_means
from convsmith.rewrite.task import Task as RewriteTask

__all__ = ["METHODS", "Method", "Prepared", "Setting"]

Chains = dict[str, Chain]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """What all methods are given.

    Attributes:
        task: The network.
        fit: Images for statistics.
        tune: Others, to choose by.
        threads: For everything.
        strategy: How much work convsmith does.
        variants: Whether methods that are helped by it also get the network folded, and with its
            first convolution kept.
    """

    task: Task
    fit: Images
    tune: Images
    threads: int
    strategy: StrategyName = "thorough"
    variants: bool = True


class Prepared:
    """A method that has seen the calibration images; networks are made once per share.

    Args:
        make: Makes the network.
        sketch: Makes one of the same layers with other weights, for a method that takes long:
            it takes as much time, which is all that is asked while a share is searched for.

    Attributes:
        times: Measured times over the original's, by share, of those that were timed alone.
    """

    def __init__(
        self, make: Callable[[float], Graph], sketch: Callable[[float], Graph] | None = None
    ) -> None:
        self._make = make
        self._sketch = sketch
        self._made: dict[float, Graph] = {}
        self.times: dict[float, float] = {}

    def at(self, share: float) -> Graph:
        """A network of at most this share of the original's multiply-accumulates.

        Raises:
            Unreachable: If the method has none.
        """
        if share not in self._made:
            self._made[share] = self._make(share)
        return self._made[share]

    def to_time(self, share: float) -> Graph:
        """A network that takes as long as that.

        Raises:
            Unreachable: If the method has none.
        """
        return self.at(share) if self._sketch is None else self._sketch(share)


_Prepare = Callable[[Setting], Prepared]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """A way to make a network cheaper.

    Attributes:
        name: In the tables.
        prepare: Everything that does not depend on the budget.
        missing: Why it cannot run here; empty when it can.
        version: Of the package that does it.
        seeded: Whether calibration images have any influence.
    """

    name: str
    prepare: _Prepare
    missing: Callable[[], str] = field(default=lambda: "")
    version: Callable[[], str] = field(default=lambda: "")
    seeded: bool = True


def _ours(setting: Setting) -> Prepared:
    """What ``convsmith.rewrite`` does, with the candidates fitted once for all budgets."""
    net = as_graph(setting.task.module, setting.task)
    name = net.inputs[0].name
    calibration = cs.calibrate(
        net, [{name: x} for x in setting.fit.inputs], positions=setting.task.positions
    )
    task = RewriteTask.begin(net, calibration, None)
    with one_blas_thread():
        table = task.table(strategy=setting.strategy, forms=None, only=None, exclude=())

    def make(share: float) -> Graph:
        try:
            with one_blas_thread():
                return task.within(table, share, "macs").net
        except BudgetError as error:
            raise Unreachable(str(error)) from None

    def sketch(share: float) -> Graph:
        try:
            chosen = table.within("macs", share * task.before.macs, task.before.macs)
        except BudgetError as error:
            raise Unreachable(str(error)) from None
        chains = {
            layer: correct_means(net, net.by_name[layer], taken, calibration.moments.get(layer))
            for layer, taken in chosen.items()
            if taken.form != KEEP
        }
        return replace_layers(net, {layer: made.chain for layer, made in chains.items()})

    return Prepared(make, sketch)


_ChainsAt = Callable[[tuple[Layer, ...], float], Chains]
"""Chains for layers to replace, under a budget of multiply-accumulates of these layers."""


def _by_chains(maker: Callable[[Setting, nn.Module, tuple[Layer, ...]], _ChainsAt]) -> _Prepare:
    """A method that replaces convolutions of a module by chains.

    It is given the network as it is and with batch normalization folded, with the first
    convolution to replace and to keep (as is often done by hand); which of these becomes its
    result is decided on the tuning images, at every share.
    """

    def prepare(setting: Setting) -> Prepared:
        task = setting.task
        total = macs(as_graph(task.module, task))
        variants: list[tuple[nn.Module, tuple[Layer, ...], _ChainsAt]] = []
        for module in (task.module, folded(task.module) if setting.variants else None):
            if module is not None:
                found = layers(module, task.timed)
                chains_at = maker(setting, module, found)
                kept = (found, found[1:]) if setting.variants else (found,)
                variants += [(module, some, chains_at) for some in kept]

        def make(share: float) -> Graph:
            nets = []
            for module, found, chains_at in variants:
                rest = total - sum(layer.macs for layer in found)
                try:
                    chains = chains_at(found, share * total - rest)
                except Unreachable:
                    continue
                nets.append(as_graph(replaced(module, chains), task))
            if not nets:
                raise Unreachable(f"no setting reaches {share:.0%} of the multiplications")
            return _best(setting, nets)

        return Prepared(make)

    return prepare


def _best(setting: Setting, nets: Sequence[Graph]) -> Graph:
    """The one that does best on the tuning images."""
    if len(nets) == 1:
        return nets[0]
    return max(nets, key=lambda net: metric(net, setting.task, setting.tune, setting.threads))


def _spatial(*_: object) -> _ChainsAt:
    return partial(weights_only.chains_at, weights_only.spatial)


def _channel(*_: object) -> _ChainsAt:
    return partial(weights_only.chains_at, weights_only.channel)


def _tucker(*_: object) -> _ChainsAt:
    return tucker.chains_at


def _balf(setting: Setting, module: nn.Module, found: tuple[Layer, ...]) -> _ChainsAt:
    moments = balf.second_moments(module, found, setting.fit, setting.task.positions)
    parts = {layer.name: balf.whiten(layer, moments[layer.name]) for layer in found}
    return lambda some, budget: balf.chains_at(some, parts, budget)


_aimet_version = ""


def _aimet(setting: Setting) -> Prepared:
    """AIMET is given the network as it is, which its form prefers, and the tuning images."""
    global _aimet_version
    task = setting.task
    found = layers(task.module, task.timed)
    total = macs(as_graph(task.module, task))
    rest = total - sum(layer.macs for layer in found)
    made, _aimet_version = aimet.compressed(task, task.module, found, setting.tune, setting.threads)

    def make(share: float) -> Graph:
        some = aimet.fitting(made, share * total - rest)
        return _best(setting, [as_graph(replaced(task.module, one), task) for one in some])

    return Prepared(make)


def _version(*packages: str) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


METHODS = {
    "convsmith": Method(name="convsmith", prepare=_ours, version=lambda: _version("convsmith")),
    "aimet": Method(
        name="AIMET spatial SVD, greedy",
        prepare=_aimet,
        missing=lambda: "" if aimet.python() else "AIMET_PYTHON names no interpreter",
        version=lambda: f"aimet-torch {_aimet_version}",
    ),
    "balf": Method(name="BALF (re-implemented)", prepare=_by_chains(_balf)),
    "tensorly": Method(
        name="tensorly-torch Tucker-2, VBMF",
        prepare=_by_chains(_tucker),
        missing=tucker.missing,
        version=lambda: _version("tensorly-torch", "tensorly"),
        seeded=False,
    ),
    "spatial": Method(name="spatial SVD, weights only", prepare=_by_chains(_spatial), seeded=False),
    "channel": Method(name="channel SVD, weights only", prepare=_by_chains(_channel), seeded=False),
}
"""By the name that the command line knows them under."""
