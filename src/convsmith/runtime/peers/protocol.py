"""What a peer has: which convolutions it takes, and how one is made ready.

Everybody is treated alike. The weights are handed over once, before anything is timed. The input
lies in memory before a run begins, in the layout that the peer asks for: torch in channels_last has
it in channels_last, the others in channels_first, the only one they take from outside. So no peer
pays for bringing an image into another layout, however the layers of ours lie; what it rearranges
inside itself is its own affair and within its time. Bias and activation belong to the convolution.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.spec import ConvSpec

__all__ = ["Array", "Peer", "PeerConvolution", "first_from", "first_to", "no_residual"]

Array = NDArray[np.float32]


class PeerConvolution(Protocol):
    """One convolution that a peer has made ready."""

    def feed(self, x: Array) -> None:
        """Puts an input of ``spec.input_shape`` where the peer reads it; not timed.

        It is called before every turn: a run may overwrite its input.
        """

    def run(self) -> None:
        """Convolves what was fed; this is what is timed."""

    def result(self) -> Array:
        """Returns what the last run made, of ``spec.output_shape``; not timed."""


class Peer(Protocol):
    """Another library that convolves on the CPU."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def module(self) -> str:
        """The module that is there when it is installed."""

    @property
    def package(self) -> str:
        """The package that brings it, as package indexes call it."""

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a convolution, or nothing."""

    def using(self, threads: int) -> AbstractContextManager[None]:
        """Holds the library to so many threads, and gives back what it had."""

    def prepare(
        self, spec: ConvSpec, weights: NDArray[Any], bias: NDArray[Any] | None, threads: int
    ) -> PeerConvolution:
        """Makes a convolution ready.

        Args:
            spec: One that it does not refuse.
            weights: float32 of ``spec.weight_shape``.
            bias: float32, one number per filter, if the spec has a bias.
            threads: How many threads its runs use.
        """


def first_from(spec: ConvSpec, x: Array) -> Array:
    """Returns an image of the spec's layout in channels_first, contiguous.

    >>> spec = ConvSpec(size=(5,), channels=2, filters=1, kernel=(1,), layout="channels_last")
    >>> first_from(spec, np.zeros((1, 5, 2), np.float32)).shape
    (1, 2, 5)
    """
    return np.ascontiguousarray(np.moveaxis(x, -1, 1) if spec.layout == "channels_last" else x)


def first_to(spec: ConvSpec, y: Array) -> Array:
    """Returns an image in channels_first in the spec's layout, contiguous."""
    return np.ascontiguousarray(np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y)


def no_residual(spec: ConvSpec) -> str:
    """Returns why a convolution with a residual is not timed beside ours."""
    return "a residual is timed in convsmith alone" if spec.residual else ""
