"""``cs.spectrum``: every kernel of a network as the filter that it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import UsageError
from convsmith.graph import Graph, Node
from convsmith.graph.operators import Conv
from convsmith.results import Result
from convsmith.signal.character import Character, character
from convsmith.signal.response import folded_share, response

__all__ = ["KernelSpectrum", "LayerSpectrum", "Spectrum", "spectrum"]

Array = npt.NDArray[Any]

_SCORED = 4096  # kernels of a layer that are scored: evenly chosen, if it has more
_GRID = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelSpectrum:
    """One kernel: what one filter does to one channel.

    Attributes:
        filter: The output channel.
        channel: The input channel, counted over all groups.
        taps: The kernel, (h, w) or (w,).
        magnitude: |H(f)|, frequencies ascending, 0 at size // 2.
        phase: The angle of H(f), radians.
        character: Its scores.
    """

    filter: int
    channel: int
    taps: Array
    magnitude: Array
    phase: Array
    character: Character

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data."""
        return {
            "filter": self.filter,
            "channel": self.channel,
            "taps": self.taps.tolist(),
            "magnitude": self.magnitude.tolist(),
            "phase": self.phase.tolist(),
            **self.character.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpectrum:
    """The kernels of one convolution together.

    Attributes:
        name: The layer.
        kernel: Sizes of its kernels.
        stride: Its stride.
        kernels: How many kernels it has: filters times channels per group.
        scored: How many of them were scored, evenly chosen.
        kinds: How many of those are of each kind, the most frequent first.
        oriented: How many of those are oriented.
        low, middle, high: Mean shares of the three rings of frequencies.
        separability: Mean rank-1 share.
        folded: The share of all kernels' energy above the Nyquist limit of the stride.
    """

    name: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    kernels: int
    scored: int
    kinds: tuple[tuple[str, int], ...]
    oriented: int
    low: float
    middle: float
    high: float
    separability: float
    folded: float

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data."""
        return {
            "name": self.name,
            "kernel": list(self.kernel),
            "stride": list(self.stride),
            "kernels": self.kernels,
            "scored": self.scored,
            "kinds": dict(self.kinds),
            "oriented": self.oriented,
            "low": self.low,
            "middle": self.middle,
            "high": self.high,
            "separability": self.separability,
            "folded": self.folded,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum(Result):
    """What the kernels of a network do in the frequency domain.

    Attributes:
        source: The network.
        layers: Every convolution with weights and kernels of one or two axes above 1.
        layer: The layer whose kernels are shown one by one.
        kernels: They, the first ones if there are many.
        left_out: How many more it has.
        size: Frequencies per axis of the kernels shown.
    """

    source: str
    layers: tuple[LayerSpectrum, ...]
    layer: str
    kernels: tuple[KernelSpectrum, ...]
    left_out: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data, schema ``convsmith.spectrum/1``."""
        return {
            "schema": "convsmith.spectrum/1",
            "source": self.source,
            "layers": [layer.to_dict() for layer in self.layers],
            "layer": self.layer,
            "size": self.size,
            "kernels": [kernel.to_dict() for kernel in self.kernels],
            "left_out": self.left_out,
        }


def spectrum(
    source: Graph | Array, layer: str | None = None, *, size: int = 32, most: int = 256
) -> Spectrum:
    """Returns what kernels pass, stop and turn, kernel by kernel and layer by layer.

    Args:
        source: A network with weights; or weights alone: one kernel (h, w) or (w,), some kernels
            (n, h, w), or the weight of a layer (K, C, h, w).
        layer: The layer whose kernels are shown one by one; by default the first.
        size: Frequencies per axis of the kernels shown, at least the kernel's size.
        most: How many kernels are shown.

    Raises:
        UsageError: If there is no kernel to look at, no such layer, or numbers are not finite.

    >>> sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    >>> spectrum(sobel).kernels[0].character.label
    'band-pass 0°'
    """
    if size < 2 or most < 1:
        raise UsageError(
            f"size {size} and most {most} show nothing", remedy="give a size of 2 or more"
        )
    if isinstance(source, Graph):
        found = _of_network(source)
        name = source.source
    else:
        found = [_of_array(np.asarray(source))]
        name = f"weights of shape {np.asarray(source).shape}"
    if not found:
        raise UsageError(
            "no convolution has weights and a kernel of one or two axes larger than 1",
            place=name,
            remedy="load a trained network: a file, or a module with weights",
        )
    names = [one.name for one in found]
    if layer is not None and layer not in names:
        near = get_close_matches(layer, names, 3) or names[:3]
        raise UsageError(
            f"no convolution to look at is called {layer!r}",
            place=name,
            remedy=f"choose for example {', '.join(near)}",
        )
    shown = next(one for one in found if layer is None or one.name == layer)
    return Spectrum(
        source=name,
        layers=tuple(_summary(one) for one in found),
        layer=shown.name,
        kernels=tuple(_kernel(shown, index, size) for index in range(min(most, _count(shown)))),
        left_out=max(_count(shown) - most, 0),
        size=max(size, *shown.weight.shape[2:]),
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """A weight (K, C / groups, *kernel), its axes of one tap left out."""

    name: str
    weight: Array
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def _count(layer: _Layer) -> int:
    return math.prod(layer.weight.shape[:2])


def _of_network(graph: Graph) -> list[_Layer]:
    return [made for node in graph.nodes if (made := _of_node(graph, node)) is not None]


def _of_node(graph: Graph, node: Node) -> _Layer | None:
    op = node.op
    if not isinstance(op, Conv) or op.transposed:
        return None
    weight = graph.constants[node.parameters[0]].data
    axes = [axis for axis, taps in enumerate(op.kernel) if taps > 1]
    if weight is None or not 1 <= len(axes) <= 2:
        return None
    kept = np.asarray(weight).reshape(*weight.shape[:2], *(op.kernel[axis] for axis in axes))
    return _Layer(
        name=node.name,
        weight=kept.astype(np.float64),
        stride=tuple(op.stride[axis] for axis in axes),
        dilation=tuple(op.dilation[axis] for axis in axes),
        groups=op.groups,
    )


def _of_array(weights: Array) -> _Layer:
    if weights.dtype.kind not in "fiu" or not 1 <= weights.ndim <= 4 or not weights.size:
        raise UsageError(
            f"{weights.dtype} of shape {weights.shape} is no kernel",
            remedy="give (w,), (h, w), (n, h, w) or (K, C, h, w), real numbers",
        )
    lead = {1: (1, 1), 2: (1, 1), 3: (len(weights), 1), 4: weights.shape[:2]}[weights.ndim]
    taps = weights.shape if weights.ndim < 3 else weights.shape[-2:]
    made = weights.reshape(*lead, *taps).astype(np.float64)
    ones = (1,) * len(taps)
    return _Layer(name="weights", weight=made, stride=ones, dilation=ones, groups=1)


def _summary(layer: _Layer) -> LayerSpectrum:
    weight, count = layer.weight, _count(layer)
    flat = weight.reshape(count, *weight.shape[2:])
    if not np.isfinite(flat).all():
        raise UsageError(
            "its weights have numbers that are not finite",
            place=layer.name,
            remedy="convsmith lint says which",
        )
    step = -(-count // _SCORED)
    made = [character(kernel, size=_grid(flat.shape[1:])) for kernel in flat[::step]]
    kinds = Counter(one.kind for one in made)
    return LayerSpectrum(
        name=layer.name,
        kernel=weight.shape[2:],
        stride=layer.stride,
        kernels=count,
        scored=len(made),
        kinds=tuple((str(kind), number) for kind, number in kinds.most_common()),
        oriented=sum(one.oriented for one in made),
        low=_mean([one.low for one in made]),
        middle=_mean([one.middle for one in made]),
        high=_mean([one.high for one in made]),
        separability=_mean([one.separability for one in made]),
        folded=folded_share(
            weight, layer.stride, layer.dilation, size=max(_GRID, *weight.shape[2:])
        ),
    )


def _grid(taps: Sequence[int]) -> int:
    """A coarser grid for many small kernels: their response is smooth."""
    return max(16, 4 * max(taps)) if max(taps) <= 16 else _GRID


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _kernel(layer: _Layer, index: int, size: int) -> KernelSpectrum:
    per = layer.weight.shape[1]
    number, inner = divmod(index, per)
    taps = layer.weight[number, inner]
    grid = response(taps, tuple(max(size, k) for k in taps.shape), axes=taps.ndim)
    group = number // (layer.weight.shape[0] // layer.groups)
    return KernelSpectrum(
        filter=number,
        channel=group * per + inner,
        taps=taps,
        magnitude=np.abs(grid),
        phase=np.angle(grid),
        character=character(taps),
    )
