"""What every convolution algorithm has: five things, the same for all.

Which specs it takes, its exact operation count, its error bound, its reference (plain NumPy, to be
read beside the formula), and its compiled form. One file of :mod:`convsmith.conv.algorithms` each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Unit
from convsmith.kernel.target import Target

__all__ = [
    "BATCH",
    "BIAS",
    "OUTPUT",
    "RESIDUAL",
    "WEIGHTS",
    "WORKSPACE",
    "Algorithm",
    "Lowered",
    "Operations",
    "Tiling",
    "X",
]

# The arguments of every kernel, by their place.
X: Final = 0
OUTPUT: Final = 1
WEIGHTS: Final = 2
BIAS: Final = 3
RESIDUAL: Final = 4
WORKSPACE: Final = 5
BATCH: Final = 6


class Tiling(Protocol):
    """How an algorithm cuts its work: a frozen dataclass of the algorithm's own.

    ``str`` is short and exact.
    """

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """What an algorithm computes in every run of a spec, its transforms included.

    What is done once, when weights are prepared, does not count.

    Attributes:
        mults: Multiplications.
        adds: Additions.
    """

    mults: int
    adds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """The compiled form of one algorithm for one spec, but for the compiling.

    Attributes:
        key: What decides the code, beside the sources and the target.
        functions: The kernels that ``write`` writes.
        write: Writes them.
        pack: Lays float32 weights of ``spec.weight_shape`` out for the kernels, once: one flat
            array.
        workspace: float32 elements that a run needs for (batch, threads).
        phases: (kernel, items) in order, for a batch.
        lanes: The bias is handed over with zeros behind it, to at least this many more elements.
    """

    key: str
    functions: tuple[str, ...]
    write: Callable[[Unit], None]
    pack: Callable[[NDArray[Any]], NDArray[Any]]
    workspace: Callable[[int, int], int]
    phases: Callable[[int], list[tuple[str, int]]]
    lanes: int = 64


class Algorithm(Protocol):
    """One way to convolve."""

    @property
    def name(self) -> str:
        """Its name, as ``algorithm=`` takes it."""

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a spec, or nothing."""

    def tilings(self, spec: ConvSpec, target: Target, threads: int) -> tuple[Any, ...]:
        """Returns the ways to cut the work that are worth measuring, the likely best first."""

    def operations(self, spec: ConvSpec, tiling: Any) -> Operations:
        """Returns what it computes, exactly."""

    def error_ratio(self, spec: ConvSpec, tiling: Any) -> float:
        """Returns its expected rms error over that of direct float32 convolution."""

    def error_bound(self, spec: ConvSpec, tiling: Any) -> float:
        """Returns a bound of an output's error, over sum |w| times max |x| of what it reads.

        What it reads is the window for direct sums and the tile, or the image, for transforms:
        there the neighbours' elements contribute rounding errors too.
        """

    def spread(self, spec: ConvSpec, tiling: Any) -> tuple[int, ...]:
        """Returns the sizes of the output tiles over which a NaN or Inf may spread, or all 1."""

    def reference(
        self, spec: ConvSpec, x: NDArray[Any], w: NDArray[Any], tiling: Any
    ) -> NDArray[Any]:
        """Returns the plain sums, without bias and activation, in the type of x; slow, readable."""

    def lower(self, spec: ConvSpec, target: Target, tiling: Any) -> Lowered:
        """Returns its compiled form."""
