"""A compiled network: what :func:`convsmith.compile` returns."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.plan import Prepared
from convsmith.conv.spec import LAYOUTS, Layout
from convsmith.errors import DataError, ShapeError, UsageError
from convsmith.graph import Graph, Shape
from convsmith.parallel import limited_threads
from convsmith.parallel import threads as all_threads
from convsmith.results import Displayed, Result
from convsmith.runtime.choosing import choose_layout
from convsmith.runtime.executing import Executable
from convsmith.runtime.lowering import Options, lower_graph
from convsmith.runtime.lowering.lowering import PreparedKey
from convsmith.runtime.steps import Step

__all__ = ["Profile", "Program", "ProgramStep"]

Array = NDArray[Any]

_KEPT: Final = 8
"""Input sizes whose kernels and memory are kept."""

_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramStep:
    """One line of a program's table.

    Attributes:
        name: The value that it makes.
        nodes: The nodes of the network that it computes.
        text: What it computes.
        algorithm: How: an algorithm of convolution, ``map``, ``windows``, ``copy``, ``numpy``, ...
        layout: How its result lies; empty where that makes no difference.
        detail: The tiling.
        macs: Multiply-accumulate pairs of the definition, of convolutions and products.
        milliseconds: Measured alone, if it was.
    """

    name: str
    nodes: tuple[str, ...]
    text: str
    algorithm: str
    layout: str
    detail: str
    macs: int
    milliseconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the step as JSON-ready data."""
        return {
            "name": self.name,
            "nodes": list(self.nodes),
            "text": self.text,
            "algorithm": self.algorithm,
            "layout": self.layout or None,
            "detail": self.detail,
            "macs": self.macs,
            "milliseconds": self.milliseconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Result):
    """A program step by step, measured or not: what printing a program shows.

    Attributes:
        source: The network.
        threads: How many threads run it.
        layout: How images lie inside.
        inputs: Sizes by name.
        steps: In order.
        memory_bytes: What values take, sharing memory.
        separate_bytes: What they would take without sharing.
        scratch_bytes: What steps take inside.
        milliseconds: The whole network, if it was measured.
    """

    source: str
    threads: int
    layout: Layout
    inputs: Mapping[str, Shape]
    steps: tuple[ProgramStep, ...]
    memory_bytes: int
    separate_bytes: int
    scratch_bytes: int
    milliseconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the program as JSON-ready data (``convsmith.program/1``)."""
        return {
            "schema": "convsmith.program/1",
            "source": self.source,
            "threads": self.threads,
            "layout": self.layout,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "steps": [step.to_dict() for step in self.steps],
            "memory_bytes": self.memory_bytes,
            "separate_bytes": self.separate_bytes,
            "scratch_bytes": self.scratch_bytes,
            "milliseconds": self.milliseconds,
        }


class Program(Displayed):
    """A network that runs in compiled kernels; make one with :func:`convsmith.compile`.

    Any number of Python threads may call it at the same time. For inputs of other sizes than
    those of the network it is specialised when they first come, and remembers that.

    Attributes:
        graph: The network.
        threads: How many threads a run uses; ``None`` for what is set when it runs.
    """

    def __init__(
        self, graph: Graph, *, threads: int | None, options: Options, layout: Layout | None
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} is no number of threads", remedy="give 1 or more")
        self.graph, self.threads = graph, threads
        self._options, self._layout = options, layout
        self._prepared: dict[PreparedKey, Prepared] = {}
        self._lock = threading.Lock()
        self._made: dict[tuple[object, ...], Executable] = {}
        self._executable({value.name: value.shape for value in graph.inputs})

    # Running --------------------------------------------------------------------------

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Runs the network.

        Args:
            *inputs: One array or tensor per input, in order; or one mapping from names to them.
            **named: Inputs by name.

        Returns:
            The output, fresh memory, of the kind that was given (NumPy arrays, or torch tensors on
            the CPU); a dictionary by name if the network has several outputs.

        Raises:
            DataError: If inputs are missing, unknown, too many, or of another type.
            ShapeError: If their sizes do not fit the network.
        """
        given = self._named(inputs, named)
        tensors = any(hasattr(value, "detach") for value in given.values())
        arrays = {name: _array(name, value) for name, value in given.items()}
        made = self.run(arrays)
        results: dict[str, Any] = dict(made)
        if tensors:
            import torch

            results = {name: torch.from_numpy(array) for name, array in made.items()}
        return next(iter(results.values())) if len(results) == 1 else results

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the network on NumPy arrays by name and returns all outputs by name.

        Raises:
            DataError: If inputs are missing, unknown or of another type.
            ShapeError: If their sizes do not fit the network.
        """
        checked = self._checked(inputs)
        return self._executable({name: a.shape for name, a in checked.items()}).run(checked)

    def _named(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        names = [value.name for value in self.graph.inputs]
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return {**inputs[0], **named}
        if len(inputs) > len(names):
            raise DataError(
                f"{len(inputs)} inputs are given, the network has {len(names)}",
                remedy=f"it takes {', '.join(names) or 'none'}",
            )
        return {**dict(zip(names, inputs, strict=False)), **named}

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        known = {value.name: value for value in self.graph.inputs}
        for name in inputs:
            if name not in known:
                raise DataError(
                    f"there is no input {name!r}", remedy=f"the network takes {', '.join(known)}"
                )
        checked = {}
        for name, value in known.items():
            if name not in inputs:
                raise DataError(f"input {name!r} is missing", remedy="give an array for it")
            array = inputs[name]
            if not isinstance(array, np.ndarray):
                raise DataError(
                    f"input {name!r} is {type(array).__name__}, not an array",
                    remedy="pass a NumPy array or a torch tensor",
                )
            if array.dtype != value.dtype:
                raise DataError(
                    f"input {name!r} is {array.dtype}, the network takes {value.dtype}",
                    remedy=f"pass {name}.astype({value.dtype!r})",
                )
            if array.ndim != len(value.shape):
                raise ShapeError(
                    f"input {name!r} has shape {array.shape}, the network takes {value.shape}",
                    remedy="give as many axes",
                )
            checked[name] = array
        return checked

    # Specialising ---------------------------------------------------------------------

    def _executable(self, shapes: Mapping[str, Shape]) -> Executable:
        count = self.threads or all_threads()
        key = (count, *sorted(shapes.items()))
        with self._lock:
            found = self._made.get(key)
            if found is None:
                found = self._specialised(shapes, count)
                if len(self._made) >= _KEPT:
                    self._made.pop(next(iter(self._made)))
                self._made[key] = found
                self._forget_unused()
            return found

    def _forget_unused(self) -> None:
        """Lets go of weights that were packed for a layout or a size that is not kept."""
        used = {
            id(kept)
            for executable in self._made.values()
            for step in executable.lowered.steps
            for kept in step.keeps
        }
        self._prepared = {key: p for key, p in self._prepared.items() if id(p) in used}

    def _specialised(self, shapes: Mapping[str, Shape], count: int) -> Executable:
        graph = self.graph.with_inputs(dict(shapes))
        graph.shapes  # noqa: B018 - says now what does not fit
        # No limit where none is asked for: it would be one for everybody.
        with limited_threads(self.threads if self.threads != all_threads() else None):

            def lowered(layout: Layout) -> Executable:
                options = replace(self._options, layout=layout)
                return Executable(lower_graph(graph, options, self._prepared), count)

            if self._layout is not None:
                return lowered(self._layout)
            return choose_layout(lowered, LAYOUTS, graph, tune=self._options.tune)

    # Looking --------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """How images lie inside, for inputs of the network's own sizes."""
        return self._own().lowered.layout

    def _own(self) -> Executable:
        return self._executable({value.name: value.shape for value in self.graph.inputs})

    def profile(self, *inputs: Any, rounds: int = _ROUNDS, **named: Any) -> Profile:
        """Runs step by step and measures each: the median of some rounds, in milliseconds.

        Args:
            *inputs: As for a call.
            rounds: How often every step runs.
            **named: As for a call.
        """
        given = self._named(inputs, named)
        arrays = self._checked({name: _array(name, value) for name, value in given.items()})
        executable = self._executable({name: a.shape for name, a in arrays.items()})
        times = executable.profile(arrays, max(1, rounds))
        return self._described(executable, times)

    def describe(self) -> Profile:
        """Returns the steps without times, for the network's own sizes."""
        return self._described(self._own(), None)

    def _described(self, executable: Executable, times: list[float] | None) -> Profile:
        lowered = executable.lowered
        steps = tuple(
            _shown(step, None if times is None else times[index])
            for index, step in enumerate(lowered.steps)
        )
        return Profile(
            source=self.graph.source,
            threads=executable.members,
            layout=lowered.layout,
            inputs={value.name: value.shape for value in lowered.graph.inputs},
            steps=steps,
            memory_bytes=4 * executable.elements,
            separate_bytes=4 * executable.separate,
            scratch_bytes=4 * executable.scratch,
            milliseconds=None if times is None else sum(times),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the program as JSON-ready data (``convsmith.program/1``)."""
        return self.describe().to_dict()

    def __str__(self) -> str:
        return str(self.describe())

    def __repr__(self) -> str:
        steps = len(self._own().lowered.steps)
        return f"Program of {self.graph.source or 'a network'}: {steps} steps, {self.layout}"


def _shown(step: Step, milliseconds: float | None) -> ProgramStep:
    return ProgramStep(
        name=step.name,
        nodes=step.nodes,
        text=step.text,
        algorithm=step.algorithm,
        layout=step.layout,
        detail=step.detail,
        macs=step.macs,
        milliseconds=milliseconds,
    )


def _array(name: str, value: Any) -> Array:
    """Reads a tensor's memory as an array; arrays stay what they are."""
    if not hasattr(value, "detach"):
        return value  # type: ignore[no-any-return]  # checked against the network later
    if value.device.type != "cpu":
        raise DataError(
            f"input {name!r} is on {value.device}",
            remedy="convsmith runs on the CPU: pass tensor.cpu()",
        )
    if value.requires_grad:
        raise DataError(
            f"input {name!r} requires a gradient, and a program records none",
            remedy="pass tensor.detach(), or use convsmith.accelerate",
        )
    try:
        array: Array = value.numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"input {name!r} of {value.dtype} cannot be read as an array: {error}",
            remedy="pass tensor.float()",
        ) from None
    return array
