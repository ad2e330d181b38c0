"""``cs.compile``: a network in, something that runs it fast out."""

from __future__ import annotations

from convsmith.conv.choice import DEFAULT_TOLERANCE
from convsmith.conv.spec import LAYOUTS, Layout
from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.results import Progress
from convsmith.runtime.lowering import Options
from convsmith.runtime.program import Program
from convsmith.sources import load

__all__ = ["compile"]


def compile(  # noqa: A001 - the published name
    net: object,
    *,
    threads: int | None = None,
    tune: bool = True,
    tolerance: float = DEFAULT_TOLERANCE,
    algorithm: str = "auto",
    layout: Layout | None = None,
    input: object = None,  # noqa: A002 - the published name
    progress: Progress | None = None,
) -> Program:
    """Compiles a network for this machine.

    Batch normalizations become part of the convolutions before them, exactly; biases, residual
    additions and activations happen before a convolution's output is stored; values that never live
    at the same time share memory; all layers are one call. Operators without a kernel run by their
    definition in NumPy, so every network that :func:`convsmith.graph.evaluate` computes runs.

    Args:
        net: A network with weights, or whatever ``convsmith.load`` reads.
        threads: How many threads it uses; by default what ``convsmith.set_threads`` says when it
            runs.
        tune: Whether to measure, for shapes that this machine has not measured: the candidates of
            every convolution, and both layouts of the whole network. Takes seconds to a minute,
            once per machine; without it predictions choose. Where the weights of all layers are
            more than the caches hold, every layer's choice is the one for weights that come from
            memory.
        tolerance: The largest error of a convolution: expected root mean square over that of direct
            convolution in float32.
        algorithm: ``auto``; ``exact`` for sums of just the products of the definition; or a name,
            for the convolutions that it takes.
        layout: How images lie inside: ``channels_first``, ``channels_last``, or the faster one.
        input: Sizes of the input, as for ``convsmith.load``.
        progress: Called node by node.

    Raises:
        DataError: If weights are absent.
        UnsupportedOperatorError: If an operator cannot be computed; names the node.
        UsageError: If an argument makes no sense.

    >>> import numpy as np
    >>> from convsmith.graph import parse
    >>> program = compile(parse("1@2 > relu"), tune=False)
    >>> program(np.array([[[[-1, 2], [3, -4]]]], np.float32)).ravel()
    array([0., 2., 3., 0.], dtype=float32)
    """
    if not tolerance >= 1:
        raise UsageError(
            f"tolerance {tolerance} is below 1, the error of direct convolution",
            remedy="give 1 or more, or algorithm='exact'",
        )
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(
            f"there is no layout {layout!r}", remedy=f"choose one of {', '.join(LAYOUTS)}"
        )
    graph = net if isinstance(net, Graph) and input is None else load(net, input=input)
    options = Options(tolerance=tolerance, algorithm=algorithm, tune=tune, progress=progress)
    return Program(graph, threads=threads, options=options, layout=layout)
