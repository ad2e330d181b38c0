"""Runs a lowered network: memory, addresses, and as few calls as possible.

All kernels between two NumPy steps are one program of :mod:`convsmith.kernel.threads`: one call,
however many layers. A *runner* has memory of its own, so that several Python threads run the same
network at the same time, each with a runner.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv import plan as planning
from convsmith.conv.plan import aligned
from convsmith.kernel.address import address
from convsmith.kernel.threads import Program as Kernels
from convsmith.kernel.threads import run
from convsmith.runtime.arena import Lifetime, place
from convsmith.runtime.lowering import Lowered
from convsmith.runtime.steps import Scratch, Step, Storage, Tensor, Word

__all__ = ["Executable"]

Array = NDArray[Any]

_IDLE = 4
"""Runners that are kept when nobody uses them."""


class Executable:
    """A lowered network with a place for everything; any number of Python threads may run it.

    Attributes:
        lowered: The steps.
        elements: float32 elements of the memory for values.
        scratch: float32 elements of the memory for what happens inside a step.
        separate: How many elements the values would take side by side.
    """

    def __init__(self, lowered: Lowered, members: int) -> None:
        self.lowered, self.members = lowered, members
        self.offsets, self.elements, self.separate = _plan(lowered)
        self.scratch = max((step.scratch for step in lowered.steps), default=0)
        self._lock = threading.Lock()
        self._idle: list[_Runner] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the network on arrays of the right types and shapes."""
        runner = self._take()
        try:
            return runner.run(inputs)
        finally:
            self._give(runner)

    def profile(self, inputs: Mapping[str, Array], rounds: int) -> list[float]:
        """Returns the milliseconds of every step: the median over rounds, one step at a time."""
        runner = self._take()
        try:
            return runner.profile(inputs, rounds)
        finally:
            self._give(runner)

    def _take(self) -> _Runner:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Runner(self)

    def _give(self, runner: _Runner) -> None:
        with self._lock:
            if len(self._idle) < _IDLE:
                self._idle.append(runner)


def _plan(lowered: Lowered) -> tuple[dict[int, int], int, int]:
    """Returns where each storage begins, how much there is, and how much without sharing."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    found: dict[int, Storage] = {}
    for index, step in enumerate(lowered.steps):
        for touched in step.touches():
            storage, _ = touched.resolve()
            if storage.kind == "arena":
                key = id(storage)
                found[key] = storage
                first.setdefault(key, index)
                last[key] = index
    keys = list(found)
    lives = [
        Lifetime(elements=found[key].elements, first=first[key], last=last[key]) for key in keys
    ]
    places, total = place(lives)
    offsets = dict(zip(keys, places, strict=True))
    return offsets, total, sum(life.elements for life in lives)


class _Runner:
    """Memory, arguments and programs of one run at a time."""

    def __init__(self, executable: Executable) -> None:
        self.executable = executable
        lowered = self.lowered = executable.lowered
        self.memory = aligned(max(executable.elements, 1))
        self.scratch = aligned(max(executable.scratch, 1))
        self.base = self.memory.ctypes.data
        self._patches: list[tuple[str, int, int, int]] = []
        blocks: dict[int, int] = {}
        words: list[int] = []
        for step in lowered.steps:
            for phase in step.phases:
                if id(phase.words) not in blocks:
                    blocks[id(phase.words)] = len(words)
                    words += [self._word(w, len(words) + i) for i, w in enumerate(phase.words)]
                    words += [0] * (-len(words) % 8)
        self.words = np.array(words or [0], np.int64)
        start = self.words.ctypes.data
        self.segments: list[Kernels | Step] = []
        self.of_step: list[Kernels | None] = []
        waiting: list[tuple[int, int, int]] = []
        for step in lowered.steps:
            phases = [
                (phase.function, start + 8 * blocks[id(phase.words)], phase.items)
                for phase in step.phases
            ]
            self.of_step.append(Kernels(phases) if phases else None)
            if step.call is None:
                waiting += phases
                continue
            if waiting:
                self.segments.append(Kernels(waiting))
            waiting = []
            self.segments.append(step)
        if waiting:
            self.segments.append(Kernels(waiting))
        self.shapes = [
            (name, tensor.shape)
            for name, tensor in lowered.outputs.items()
            if isinstance(tensor, Tensor)
        ]
        self.of_index = {
            tensor.storage.index: name
            for name, tensor in lowered.outputs.items()
            if isinstance(tensor, Tensor)
        }
        self.names = [value.name for value in lowered.graph.inputs]

    def _word(self, word: Word, at: int) -> int:
        if isinstance(word, int):
            return word
        if isinstance(word, Scratch):
            return int(self.scratch.ctypes.data) + 4 * word.offset
        storage, offset = word.storage.resolve(word.offset)
        if storage.kind in ("input", "output"):
            self._patches.append((storage.kind, storage.index, at, 4 * offset))
            return 0
        return self._start(storage) + 4 * offset

    def _start(self, storage: Storage) -> int:
        if storage.data is not None:
            return int(storage.data.ctypes.data)
        return int(self.base) + 4 * self.executable.offsets[id(storage)]

    def _bind(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Puts the caller's arrays where kernels find them; returns them and the outputs."""
        given = {
            name: np.ascontiguousarray(inputs[name]) if name in self.lowered.inputs else array
            for name, array in inputs.items()
        }
        made = {name: np.empty(shape, np.float32) for name, shape in self.shapes}
        starts = {name: address(array) for name, array in given.items()}
        ends = {name: address(array) for name, array in made.items()}
        for kind, index, at, offset in self._patches:
            if kind == "input":
                self.words[at] = starts[self.names[index]] + offset
            else:
                self.words[at] = ends[self.of_index[index]] + offset
        return given, made

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        given, made = self._bind(inputs)
        self._poison()
        others = {**self.lowered.held, **given}
        members = self.executable.members
        for segment in self.segments:
            if isinstance(segment, Kernels):
                run(segment, members)
            else:
                self._call(segment, others, given, made)
        return self._results(others, made)

    def profile(self, inputs: Mapping[str, Array], rounds: int) -> list[float]:
        given, made = self._bind(inputs)
        steps = self.lowered.steps
        taken: list[list[float]] = [[] for _ in steps]
        for _ in range(rounds + 1):
            others = {**self.lowered.held, **given}
            for index, (step, kernels) in enumerate(zip(steps, self.of_step, strict=True)):
                began = time.perf_counter()
                if kernels is not None:
                    run(kernels, self.executable.members)
                elif step.call is not None:
                    self._call(step, others, given, made)
                taken[index].append(1e3 * (time.perf_counter() - began))
        return [float(np.median(times[1:])) for times in taken]  # the first brings the caches up

    def _results(self, others: Mapping[str, Array], made: dict[str, Array]) -> dict[str, Array]:
        results: dict[str, Array] = {}
        for name, tensor in self.lowered.outputs.items():
            results[name] = np.array(others[tensor]) if isinstance(tensor, str) else made[name]
        return results

    def _poison(self) -> None:
        if planning.workspace_poison is not None:
            self.scratch.fill(planning.workspace_poison)
            self.memory.fill(planning.workspace_poison)

    # NumPy steps ----------------------------------------------------------------------

    def _call(
        self,
        step: Step,
        others: dict[str, Array],
        given: Mapping[str, Array],
        made: Mapping[str, Array],
    ) -> None:
        values = {name: self._view(tensor, given, made) for name, tensor in step.uses.items()}
        values.update({name: others[name] for name in step.others if name in others})
        assert step.call is not None
        for name, result in step.call(values).items():
            tensor = step.makes.get(name)
            if tensor is None:
                others[name] = result
            else:
                self._view(tensor, given, made)[...] = result

    def _view(self, tensor: Tensor, given: Mapping[str, Array], made: Mapping[str, Array]) -> Array:
        """A tensor as an array over its memory, its axes in the order of the network."""
        storage, offset = tensor.storage.resolve(tensor.offset)
        flat: Array
        if storage.kind == "input":
            flat = given[self.names[storage.index]].reshape(-1)
        elif storage.kind == "output":
            flat = made[self.of_index[storage.index]].reshape(-1)
        elif storage.data is not None:
            flat = storage.data
        else:
            begin = self.executable.offsets[id(storage)]
            flat = self.memory[begin : begin + storage.elements]
        dense = flat[offset : offset + tensor.elements]
        if not tensor.last:
            return dense.reshape(tensor.shape)
        shape: Sequence[int] = (tensor.shape[0], *tensor.shape[2:], tensor.shape[1])
        return np.moveaxis(dense.reshape(shape), -1, 1)
