"""Which layout the images of a network have inside: by measurement, or by what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import numpy as np

from convsmith.conv.choice import choice_store
from convsmith.conv.spec import Layout
from convsmith.errors import ConvsmithError
from convsmith.graph import Graph
from convsmith.kernel.machine import sources_digest
from convsmith.kernel.store import digest
from convsmith.kernel.target import host
from convsmith.runtime.executing import Executable

__all__ = ["choose_layout"]

_SCHEMA: Final = "convsmith.layout/1"
_SECONDS: Final = 0.3  # spent on measuring one layout
_ROUNDS: Final = 5
_DEFAULT: Final[Layout] = "channels_last"


def choose_layout(
    lowered: Callable[[Layout], Executable],
    layouts: Sequence[Layout],
    graph: Graph,
    *,
    tune: bool,
) -> Executable:
    """Returns the network in the layout in which it is fastest.

    Args:
        lowered: Compiles it for a layout.
        layouts: To choose from.
        graph: The network at the sizes in question.
        tune: Whether to measure, where this machine has not measured yet; without it and without a
            measurement the images have their channels last.
    """
    if not any(len(shape or ()) > 2 for shape in graph.shapes.values()):
        return lowered("channels_first")
    key = _key(graph)
    known = _remembered(key)
    if known is None and not tune:
        return lowered(_DEFAULT)
    if known is not None and known in layouts:
        return lowered(known)
    made = {layout: lowered(layout) for layout in layouts}
    random = np.random.default_rng(0)
    inputs = {
        value.name: random.random(value.shape, np.float32).astype(value.dtype)
        for value in graph.inputs
    }
    best = dict.fromkeys(layouts, math.inf)
    try:
        with np.errstate(all="ignore"):
            for executable in made.values():
                executable.run(inputs)
            for _ in range(_ROUNDS):
                for layout, executable in made.items():
                    executable.run(inputs)  # finds its memory in the caches again
                    left = _SECONDS / _ROUNDS
                    while left > 0:
                        began = perf_counter()
                        executable.run(inputs)
                        took = perf_counter() - began
                        best[layout] = min(best[layout], took)
                        left -= took
    except ConvsmithError:
        return made[_DEFAULT]  # random inputs are none that it takes
    chosen = min(best, key=lambda layout: best[layout])
    times = {layout: 1e3 * seconds for layout, seconds in best.items()}
    text = json.dumps({"schema": _SCHEMA, "chosen": chosen, "milliseconds": times}, indent=1)
    choice_store().write(key, text.encode())
    return made[chosen]


def _key(graph: Graph) -> str:
    from convsmith.parallel import threads

    machine = host()
    return digest(
        _SCHEMA, str(graph), machine.cpu, str(machine.lanes), str(threads()), sources_digest()
    )


def _remembered(key: str) -> Layout | None:
    blob = choice_store().read(key)
    if blob is None:
        return None
    try:
        found = json.loads(blob)["chosen"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if found in ("channels_first", "channels_last") else None
