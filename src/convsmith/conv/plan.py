"""Plans: which algorithm, cut how, for one convolution; prepared with weights, it runs.

    spec -> plan(spec) -> ConvPlan -> .prepare(weights, bias) -> Prepared -> (x) -> y

A plan is cheap and can be looked at; preparing lays the weights out once; running allocates nothing
but what it is not given.
"""

from __future__ import annotations

import ctypes
import threading
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import Algorithm, Lowered, Operations
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.spec import ConvSpec
from convsmith.errors import ShapeError, UnsupportedOperatorError, UsageError
from convsmith.kernel.address import address
from convsmith.kernel.machine import Compiled, compiled
from convsmith.kernel.peak import peak_gflops
from convsmith.kernel.target import Target, host
from convsmith.kernel.threads import Program, run
from convsmith.parallel import threads
from convsmith.results import Displayed

__all__ = ["ConvPlan", "Prepared", "workspace_poison"]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def aligned(elements: int) -> NDArray[np.float32]:
    """Returns an uninitialised array of float32 that starts on a cache line."""
    raw = np.empty(elements * 4 + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + elements * 4].view(np.float32)


@dataclass(frozen=True, kw_only=True)
class ConvPlan(Displayed):
    """How one convolution will be computed.

    Attributes:
        spec: The problem. Its batch is a prediction: any batch can be run.
        algorithm: The name of the algorithm.
        tiling: How the algorithm cuts its work.
        target: The machine.
        milliseconds: Measured time for ``spec.batch``, or ``None`` if it was not measured.
    """

    spec: ConvSpec
    algorithm: str
    tiling: Any
    target: Target
    milliseconds: float | None = None

    @property
    def method(self) -> Algorithm:
        """The algorithm itself."""
        return ALGORITHMS[self.algorithm]

    @cached_property
    def operations(self) -> Operations:
        """What it computes, exactly."""
        return self.method.operations(self.spec, self.tiling)

    @property
    def error_ratio(self) -> float:
        """Its expected rms error over that of direct convolution in float32."""
        return self.method.error_ratio(self.spec, self.tiling)

    @property
    def error_bound(self) -> float:
        """A bound of an output's error, over sum |w| times max |x| of what it reads."""
        return self.method.error_bound(self.spec, self.tiling)

    @property
    def spread(self) -> tuple[int, ...]:
        """The output tiles over which a NaN or Inf in the input spreads; all 1.

        As in direct convolution.
        """
        return self.method.spread(self.spec, self.tiling)

    @cached_property
    def lowered(self) -> Lowered:
        """Its compiled form, not yet compiled."""
        return self.method.lower(self.spec, self.target, self.tiling)

    @property
    def workspace_bytes(self) -> int:
        """Memory that a run takes beside input, output and packed weights."""
        return 4 * self.lowered.workspace(self.spec.batch, threads())

    @cached_property
    def predicted_effort(self) -> float:
        """Vector instructions of one thread, roughly: what grows with the time it will take.

        Operations where multiplying and adding pair up, and what the workspace costs to write and
        read. It knows no caches.
        """
        work = self.operations
        passes = 2.0 * self.workspace_bytes / 4
        return max(work.mults, work.adds) / self.target.lanes + passes

    @property
    def predicted_milliseconds(self) -> float:
        """The predicted effort at the peak that this machine's threads reach: a rough guess."""
        peak = _peak(self.target, threads())
        return 1e-6 * 2 * self.target.lanes * self.predicted_effort / peak

    def with_batch(self, batch: int) -> ConvPlan:
        """Returns the same plan for another number of images."""
        if batch == self.spec.batch:
            return self
        return replace(self, spec=self.spec.with_batch(batch), milliseconds=None)

    def prepare(self, weights: NDArray[Any], bias: NDArray[Any] | None = None) -> Prepared:
        """Lays weights out for the kernels, once, and compiles the kernels where that is needed.

        Args:
            weights: Of ``spec.weight_shape``; taken as float32.
            bias: One number per filter, if the spec has a bias.

        Raises:
            ShapeError: If they have other shapes.
            UsageError: If there is a bias and the spec has none, or the other way round.
        """
        return Prepared(self, weights, bias)

    def __repr__(self) -> str:
        spec = self.spec
        saved = spec.macs / max(self.operations.mults, 1)
        lines = [
            f"ConvPlan of {spec}",
            f"  algorithm    {self.algorithm} {self.tiling}",
            f"  operations   {self.operations.mults:,} multiplications ({saved:.2f} times fewer)",
            f"  workspace    {self.workspace_bytes:,} bytes",
            f"  error        {self.error_ratio:.2g} x direct, {self.error_bound:.1g} sum|w| max|x|",
        ]
        if set(self.spread) != {1}:
            lines.append(f"  NaN, Inf     spread over {'x'.join(map(str, self.spread))} outputs")
        if self.milliseconds is None:
            lines.append(f"  predicted    {self.predicted_milliseconds:.2g} ms")
        else:
            lines.append(f"  measured     {self.milliseconds:.4g} ms")
        return "\n".join(lines)


@cache
def _peak(target: Target, members: int) -> float:
    """Operations per nanosecond, measured once in a process."""
    return peak_gflops(members, target=target)


_local = threading.local()
_KEPT = 512 << 20  # bytes: a larger workspace is given back after the run

workspace_poison: float | None = None
"""For tests: what the workspace is filled with before every run."""


def _workspace(elements: int) -> NDArray[np.float32]:
    held: NDArray[np.float32] | None = getattr(_local, "workspace", None)
    if held is None or held.size < elements:
        held = aligned(elements)
        if held.nbytes <= _KEPT:
            _local.workspace = held
    if workspace_poison is not None:
        held.fill(workspace_poison)
    return held


@dataclass(slots=True)
class _Call:
    """What the calls of one Python thread with one batch and number of threads have in common."""

    batch: int
    members: int
    arguments: ctypes.Array[ctypes.c_int64]
    program: Program
    workspace: int  # elements


class Prepared:
    """A convolution with its weights, ready to run. Any number of Python threads may call it."""

    def __init__(self, plan: ConvPlan, weights: NDArray[Any], bias: NDArray[Any] | None) -> None:
        spec = plan.spec
        weights = np.asarray(weights)
        if weights.shape != spec.weight_shape:
            raise ShapeError(
                f"the weights have shape {weights.shape}, not {spec.weight_shape}",
                remedy="weights are (filters, channels / groups, *kernel) in both layouts",
            )
        if (bias is not None) != spec.bias:
            raise UsageError(
                "the spec says that there is a bias" if spec.bias else "the spec has no bias",
                remedy="pass bias=" if spec.bias else "leave it out, or set bias=True in the spec",
            )
        lowered = plan.lowered
        self.plan = plan
        packed = lowered.pack(np.ascontiguousarray(weights, np.float32))
        self._weights = aligned(packed.size)
        self._weights[:] = packed
        self._bias = np.zeros(spec.filters + lowered.lanes, np.float32)
        if bias is not None:
            if np.shape(bias) != (spec.filters,):
                raise ShapeError(
                    f"the bias has shape {np.shape(bias)}, not ({spec.filters},)",
                    remedy="give one number per filter",
                )
            self._bias[: spec.filters] = bias
        self._code: Compiled = compiled(lowered.key, plan.target, lowered.functions, lowered.write)
        self._addresses = (self._weights.ctypes.data, self._bias.ctypes.data)
        self._shapes = (spec.input_shape, spec.output_shape)
        self._programs = threading.local()

    @property
    def addresses(self) -> tuple[int, int]:
        """Where the packed weights and the biases lie."""
        return self._addresses

    @property
    def weight_bytes(self) -> int:
        """What the packed weights take."""
        return self._weights.nbytes

    def copied(self) -> Prepared:
        """Returns the same convolution with its packed weights in memory of their own."""
        made = copy(self)
        made._weights = aligned(self._weights.size)
        made._weights[:] = self._weights
        made._addresses = (address(made._weights), self._addresses[1])
        return made

    def kernels(self, batch: int) -> list[tuple[int, int]]:
        """Returns (address of a kernel, number of items) in order, for a program of one's own."""
        phases = self.plan.lowered.phases(batch)
        return [(self._code.address(name), items) for name, items in phases]

    def __call__(
        self,
        x: NDArray[np.float32],
        out: NDArray[np.float32] | None = None,
        *,
        residual: NDArray[np.float32] | None = None,
        members: int | None = None,
    ) -> NDArray[np.float32]:
        """Convolves.

        Args:
            x: float32, C-contiguous, of ``spec.input_shape`` with any batch.
            out: Where the result goes, of ``spec.output_shape``; a new array by default. It may
                not share memory with ``x``; it may be ``residual`` itself.
            residual: Added before the activation, if the spec says so; of the output's shape.
            members: How many threads; by default :func:`convsmith.parallel.threads`.

        Raises:
            ShapeError: If a shape does not fit.
            UsageError: If a type, a layout in memory or an overlap is not as said.
        """
        spec = self.plan.spec
        takes, makes = self._shapes
        shape = checked(x, out, takes, makes)
        batch = shape[0]
        if out is None:
            out = np.empty(shape, np.float32)
        if (residual is not None) != spec.residual:
            raise UsageError(
                "a residual is missing" if spec.residual else "the spec has no residual",
                remedy="pass residual=" if spec.residual else "set residual=True in the spec",
            )
        if residual is not None:
            _check("residual", residual, shape, exact=True)
            same = address(residual) == address(out)
            if not same and np.may_share_memory(out, residual):
                raise UsageError(
                    "out and residual overlap in part",
                    remedy="pass the same array or separate ones",
                )
        added = 0 if residual is None else address(residual)
        self.run_addresses(address(x), address(out), added, batch, members)
        return out

    def run_addresses(
        self, x: int, out: int, residual: int, batch: int, members: int | None = None
    ) -> None:
        """Runs on addresses of float32 memory that the caller answers for."""
        if batch == 0:
            return
        count = threads() if members is None else members
        call: _Call | None = getattr(self._programs, "call", None)
        if call is None or call.batch != batch or call.members != count:
            call = self._programs.call = self._call(batch, count)
        workspace = _workspace(call.workspace)
        words: list[int | ctypes.c_int64] = [
            x, out, *self._addresses, residual, address(workspace), batch,
        ]  # fmt: skip
        call.arguments[: len(words)] = words
        run(call.program, count)

    def _call(self, batch: int, members: int) -> _Call:
        arguments = (ctypes.c_int64 * 8)()
        place = ctypes.addressof(arguments)
        program = Program((kernel, place, items) for kernel, items in self.kernels(batch))
        return _Call(
            batch, members, arguments, program, self.plan.lowered.workspace(batch, members)
        )


def checked(
    x: NDArray[np.float32], out: NDArray[np.float32] | None, takes: tuple[int, ...],
    makes: tuple[int, ...],
) -> tuple[int, ...]:  # fmt: skip
    """Returns the shape of the output: ``makes`` with the batch of ``x``.

    Raises:
        ShapeError: If a shape does not fit.
        UsageError: If a type, a layout in memory or an overlap is not as it has to be.
    """
    _check("x", x, takes)
    shape = (x.shape[0], *makes[1:])
    if out is not None:
        _check("out", out, shape, exact=True)
        if not out.flags.writeable:
            raise UsageError("out is read-only", remedy="pass an array that can be written")
        if np.may_share_memory(out, x):
            raise UsageError(
                "out shares memory with x", remedy="pass another array, or none for a new one"
            )
    return shape


def _check(name: str, array: NDArray[Any], shape: tuple[int, ...], *, exact: bool = False) -> None:
    if not isinstance(array, np.ndarray):
        raise UsageError(
            f"{name} is {type(array).__name__}, not a NumPy array", remedy="convert it first"
        )
    if array.dtype != np.float32:
        raise UsageError(
            f"{name} is {array.dtype}, not float32", remedy=f"pass {name}.astype(numpy.float32)"
        )
    found = array.shape
    if found != shape and (exact or len(found) != len(shape) or found[1:] != shape[1:]):
        wanted = shape if exact else ("N", *shape[1:])
        raise ShapeError(
            f"{name} has shape {found}, not ({', '.join(map(str, wanted))})",
            remedy="make another plan for another size",
        )
    if not array.flags.c_contiguous:
        raise UsageError(
            f"{name} is not contiguous", remedy=f"pass numpy.ascontiguousarray({name})"
        )


def candidates(spec: ConvSpec, *, target: Target | None = None) -> list[ConvPlan]:
    """Returns every algorithm and tiling that takes a spec, in the order of :data:`ALGORITHMS`."""
    machine = target or host()
    return [
        ConvPlan(spec=spec, algorithm=name, tiling=tiling, target=machine)
        for name, method in ALGORITHMS.items()
        if not method.refuses(spec)
        for tiling in _tilings(method, spec, machine)
    ]


def _tilings(method: Algorithm, spec: ConvSpec, target: Target) -> tuple[Any, ...]:
    """Returns the tilings for a spec; for one of no images those for one."""
    return method.tilings(spec.with_batch(max(spec.batch, 1)), target, threads())


def plan_with(
    spec: ConvSpec, algorithm: str, tiling: Any = None, *, target: Target | None = None
) -> ConvPlan:
    """Returns a plan with a given algorithm.

    Raises:
        UsageError: If there is no such algorithm.
        UnsupportedOperatorError: If it does not take the spec.
    """
    if algorithm not in ALGORITHMS:
        raise UsageError(
            f"there is no algorithm {algorithm!r}",
            remedy=f"choose auto, exact or one of {', '.join(ALGORITHMS)}",
        )
    method = ALGORITHMS[algorithm]
    reason = method.refuses(spec)
    if reason:
        raise UnsupportedOperatorError(
            f"{algorithm} does not take {spec}: {reason}", remedy="choose auto or direct"
        )
    machine = target or host()
    if tiling is None:
        tiling = _tilings(method, spec, machine)[0]
    return ConvPlan(spec=spec, algorithm=algorithm, tiling=tiling, target=machine)
