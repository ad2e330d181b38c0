"""What candidates cost in time: measured on the kernels that will run them.

Counting multiplications misleads: thin layers use a machine worse than wide ones. So chains are
compiled and run. Measuring every width of every form would take long, and time between two
measured widths is nearly straight in the multiplications: the first choice is made with that, what
it takes is measured, and it is made again, until everything that is taken was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.conv.spec import Layout
from convsmith.graph import Constant, Graph, GraphBuilder
from convsmith.graph.shape import Shape, infer_shapes, parameter_shapes
from convsmith.results import Progress
from convsmith.rewrite.candidates import Candidate, Layer
from convsmith.rewrite.site import LayerOp
from convsmith.runtime.compiling import compile as compiled
from convsmith.runtime.interleaving import no_garbage
from convsmith.runtime.timing import Timing, networks

__all__ = ["Stopwatch", "Timings", "estimated", "random_inputs", "side_by_side", "speedups"]

Timings = Mapping[str, Mapping[str, Timing]]
"""Per runtime, how long networks took, by what they are called: ``before`` and ``after``."""

Array = npt.NDArray[Any]

WIDTHS = 3
"""How many widths of each form and variant are measured before the first choice."""

LEAST_SECONDS = 0.02
"""How long a chain runs at least while it is measured."""

RUNS = 7
"""How many turns that time is divided into; the median counts."""


class Stopwatch:
    """Measures chains of layers, each distinct one once.

    Attributes:
        threads: How many threads they may use; ``None`` for all that are granted.
        layout: How images lie in memory: as in the network that was measured first.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self.layout: Layout | None = None
        self._known: dict[tuple[Any, ...], float] = {}

    def chain(self, ops: Sequence[LayerOp], x: Shape) -> float:
        """Milliseconds of layers that follow each other, for an input of shape ``x``."""
        key = (tuple(ops), x)
        if key not in self._known:
            self._known[key] = self.network(_network(ops, x))
        return self._known[key]

    def network(self, net: Graph) -> float:
        """Milliseconds of a network, on random inputs of its own sizes."""
        inputs = random_inputs(net)
        program = compiled(net, threads=self.threads, layout=self.layout)
        self.layout = program.layout
        begin = perf_counter()
        program.run(inputs)
        program.run(inputs)
        once = (perf_counter() - begin) / 2
        repeats = max(1, round(LEAST_SECONDS / RUNS / max(once, 1e-6)))
        taken = []
        with no_garbage():
            for _ in range(RUNS):
                begin = perf_counter()
                for _ in range(repeats):
                    program.run(inputs)
                taken.append((perf_counter() - begin) / repeats)
        return 1e3 * median(taken)


def _network(ops: Sequence[LayerOp], x: Shape) -> Graph:
    random = np.random.default_rng(0)
    builder = GraphBuilder()
    value = builder.input("x", x)
    for index, op in enumerate(ops):
        names = [
            builder.constant(
                f"w{index}.{role}", Constant.of(random.normal(size=shape).astype(np.float32) / 8)
            )
            for role, shape in enumerate(parameter_shapes(op, x))
        ]
        value = builder.add(op, value, name=f"layer{index}", parameters=names)
        y = infer_shapes(op, x)[0]
        assert y is not None
        x = y
    return builder.build(value)


def estimated(
    layers: Sequence[Layer],
    inputs: Mapping[str, Shape],
    watch: Stopwatch,
    progress: Progress | None = None,
) -> list[Layer]:
    """Gives every candidate a time: measured for some widths, between them a straight line.

    Args:
        layers: The candidates.
        inputs: The shape of every layer's input.
        watch: What measures.
        progress: Called after each layer.
    """
    made = []
    for index, layer in enumerate(layers):
        x = inputs[layer.name]
        groups: dict[tuple[str, str], list[Candidate]] = {}
        for candidate in layer.candidates[1:]:
            groups.setdefault((candidate.form, candidate.variant), []).append(candidate)
        timed = [replace(layer.kept, milliseconds=watch.chain(layer.kept.ops, x))]
        for some in groups.values():
            some = sorted(some, key=lambda c: c.macs)
            places = sorted({round(i * (len(some) - 1) / (WIDTHS - 1)) for i in range(WIDTHS)})
            known = [watch.chain(some[place].ops, x) for place in places]
            macs = [some[place].macs for place in places]
            timed += [replace(c, milliseconds=float(np.interp(c.macs, macs, known))) for c in some]
        made.append(replace(layer, candidates=tuple(timed)))
        if progress is not None:
            progress("measuring time", index + 1, len(layers))
    return made


def random_inputs(net: Graph) -> dict[str, Array]:
    """Normal numbers of a network's own sizes; zeros for whole numbers, which may be indices."""
    random = np.random.default_rng(0)
    return {
        value.name: random.standard_normal(value.shape).astype(value.dtype)
        if "float" in value.dtype
        else np.zeros(value.shape, value.dtype)
        for value in net.inputs
    }


def side_by_side(
    before: Graph,
    after: Graph,
    runtimes: Sequence[str],
    *,
    modules: tuple[Any, Any] | None = None,
    tune: bool = True,
) -> Timings:
    """Times two networks in turns, on random inputs of their own sizes.

    Args:
        before: One network.
        after: The other one; it takes the same inputs.
        runtimes: Names of :data:`convsmith.runtime.runtimes.RUNTIMES`.
        modules: Their torch modules; torch runs these.
        tune: Whether convsmith measures its algorithms first, where this machine has not.

    Raises:
        MissingDependencyError: If a runtime is not installed.
        UsageError: If there is no such runtime.
    """
    names = tuple(dict.fromkeys(runtimes))
    if not names:
        return {}
    sides = ("before", "after")
    taken = networks(
        dict(zip(sides, (before, after), strict=True)),
        random_inputs(before),
        runtimes=names,
        modules=None if modules is None else dict(zip(sides, modules, strict=True)),
        tune=tune,
    )
    return {name: {side: taken[side][name] for side in sides} for name in names}


def speedups(timings: Timings) -> dict[str, float]:
    """How many times faster ``after`` is than ``before``: the median over the rounds."""
    return {name: both["before"].ratio(both["after"]) for name, both in timings.items()}
