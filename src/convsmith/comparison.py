"""Compares a convolution with what could stand for it, or networks with each other.

Source -> graph -> rows -> measured milliseconds. The numbers are those of
:mod:`convsmith.analysis.comparing`; a :class:`Clock` adds the times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from convsmith.analysis.comparing import Comparison, Width, arrangements, side_by_side
from convsmith.errors import UsageError
from convsmith.graph import Graph, parse
from convsmith.graph.operators import Unsupported
from convsmith.results import Progress
from convsmith.runtime import timing
from convsmith.runtime.weights import random_weights
from convsmith.sources import load

__all__ = ["Clock", "Measured", "Runtime", "RuntimeClock", "compare"]

Array = npt.NDArray[Any]

Runtime = Literal["convsmith", "onnxruntime"]
"""What runs the networks that are timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a clock found.

    Attributes:
        milliseconds: By the name of the graph.
        clock: What measured them, in words.
        runtime: What ran the graphs, in one word; empty where nothing known did.
    """

    milliseconds: Mapping[str, float]
    clock: str
    runtime: str = ""


class Clock(Protocol):
    """Whatever can say how long networks take."""

    def __call__(self, graphs: Mapping[str, Graph]) -> Measured:
        """Times the networks against each other, in turns where their inputs allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeClock:
    """Times networks in one runtime, in turns; weights that are absent are random.

    Attributes:
        runtime: ``convsmith``, its own compiled kernels, which take networks in float32; or
            ``onnxruntime``. Without one: convsmith, but ONNX Runtime where a network is not in
            float32, or has an operator that convsmith does not know.
        threads: How many threads a network may use; all cores by default.
        seconds: How long the rounds of one set of networks go on.
        tune: Whether convsmith first measures which algorithm is the fastest for every
            convolution that is new to this machine, which takes seconds each; without it
            predictions choose.
    """

    runtime: Runtime | None = None
    threads: int | None = None
    seconds: float = 5.0
    tune: bool = True

    def __call__(self, graphs: Mapping[str, Graph]) -> Measured:
        """Returns the median of every network's turns.

        Networks whose inputs differ are timed one set after the other.

        Raises:
            MissingDependencyError: If the runtime is not installed.
            SourceError: If ONNX Runtime cannot run one of them.
            OutputError: If one cannot be written as ONNX.
            DataError: If one is not in float32, which convsmith needs.
            UnsupportedOperatorError: If convsmith has no kernel for an operator.
        """
        sets: dict[object, dict[str, Graph]] = {}
        for name, graph in graphs.items():
            sets.setdefault(graph.inputs, {})[name] = random_weights(graph)
        runtime = self.runtime or _runtime_for(graphs.values())
        taken: dict[str, timing.Timing] = {}
        for members in sets.values():
            timed = timing.networks(
                members,
                _inputs(next(iter(members.values()))),
                runtimes=[runtime],
                threads=self.threads,
                seconds=self.seconds,
                tune=self.tune,
            )
            taken |= {name: by_runtime[runtime] for name, by_runtime in timed.items()}
        one = next(iter(taken.values()))
        apart = max(each.spread / max(each.median, 1e-9) for each in taken.values())
        turns = "" if len(sets) == 1 else "; not in turns, their inputs differ"
        return Measured(
            milliseconds={name: each.median for name, each in taken.items()},
            clock=f"{one.engine} {one.version}, {one.threads}"
            f" thread{'s' * (one.threads != 1)}, median of {one.runs} turns, quartiles up to"
            f" {100 * apart:.0f} % of it apart{turns}",
            runtime=runtime,
        )


def _runtime_for(graphs: Iterable[Graph]) -> Runtime:
    """Which runtime times networks unless one is asked for."""
    for graph in graphs:
        types = {value.dtype for value in graph.inputs}
        types |= {constant.dtype for constant in graph.constants.values()}
        if any("float" in each and each != "float32" for each in types):
            return "onnxruntime"
        if any(isinstance(node.op, Unsupported) for node in graph.nodes):
            return "onnxruntime"
    return "convsmith"


def _inputs(graph: Graph) -> dict[str, Array]:
    random = np.random.default_rng(0)
    return {
        value.name: random.normal(size=value.shape).astype(value.dtype)
        if value.dtype.startswith("float")
        else np.zeros(value.shape, value.dtype)
        for value in graph.inputs
    }


def compare(
    source: object,
    layer: str | None = None,
    *,
    against: Sequence[object] = (),
    width: Width = "keep",
    activation: str | None = None,
    measure: bool = False,
    clock: Clock | None = None,
    input: object = None,  # noqa: A002 - the published name
    progress: Progress | None = None,
) -> Comparison:
    """Compares a convolution with every cheaper arrangement that sees the same field.

    Args:
        source: Whatever ``convsmith.load`` reads: notation of one convolution, or a network.
        layer: The convolution in it; needed when there are several.
        against: Other networks or modules: then whole networks are compared, side by side,
            with the first of them.
        width: How wide the middle of an arrangement is: ``keep`` (as the output; a bottleneck
            half the narrower of input and output, a quarter when it expands again),
            ``equal-cost`` (the most with which it costs no more MACs), or a number of channels.
        activation: What stands between two convolutions, in the notation, or ``none``; by
            default what follows the layer, else ``relu``.
        measure: Whether to measure milliseconds, in turns.
        clock: What measures them; by default a :class:`RuntimeClock`: convsmith's own kernels,
            or ONNX Runtime where they do not take the networks.
        input: Sizes of the input, as for ``convsmith.load``.
        progress: Called during long steps.

    Raises:
        ConvsmithError: Whatever is wrong with the network, the layer or the options.

    >>> found = compare("192@28 > conv 32 5 p2", width=16)
    >>> found.rows[0].macs, found.by_form["bottleneck"].macs
    (120422400, 12443648)
    """
    nets = [load(each, input) for each in (source, *against)]
    if len(nets) > 1 and layer is not None:
        raise UsageError(
            "a layer and several networks contradict each other",
            place=layer,
            remedy="compare the layer of one network, or whole networks",
        )
    if len(nets) > 1:
        found = side_by_side(nets)
        graphs = {row.form: net for row, net in zip(found.rows, nets, strict=True)}
    else:
        found = arrangements(nets[0], layer, width=width, activation=activation)
        graphs = {row.form: parse(row.text) for row in found.rows} if measure else {}
    if not measure:
        return found
    if progress is not None:
        progress("timing", 0, 0)
    measured = (clock or RuntimeClock())(graphs)
    return found.timed(measured.milliseconds, measured.clock, measured.runtime)
