"""The spectrum of an image, before and after a filter or the layers of a network.

The power of channel c at frequency f, in cycles per pixel from -1/2 to 1/2, is

    P(f) = |sum over o of w[o] (x_c[o] - m_c) exp(-2 pi i f . o)|^2 / sum of w^2,

averaged over channels (modified periodogram; Welch 1967, eq. 3). The window w is the product of two
Hann windows, without which the edges of a picture, where it does not continue, show as a cross; m_c
is the mean under the window, so P(0) = 0. The mean of P over all frequencies is the variance of
the windowed picture (Parseval).

Natural images have a power near 1 / f^2: their ``slope`` is about 2 (Field 1987).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.graph.evaluate import steps
from convsmith.results import Result
from convsmith.signal.character import RINGS, Character, character, orientation
from convsmith.signal.filters import filter_kernel
from convsmith.signal.response import frequencies

__all__ = ["ImageSpectrum", "PartSpectrum", "Window", "filtered", "image_spectrum", "power"]

Array = npt.NDArray[Any]
Window = Literal["hann", "none"]

_MOST_PIXELS = 1 << 24
_RINGS_OF_PROFILE = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartSpectrum:
    """One picture, or all maps of a layer, and where its power lies.

    Attributes:
        name: What it is.
        picture: (C, H, W).
        power: (H, W), P(f); frequencies ascend along each axis, 0 stands at size // 2.
        variance: The mean of ``power``.
        low, middle, high: Shares of the power with radius below 1/6, from there to 1/3, and above.
        centre: The mean radius in cycles per pixel, weighted with power.
        slope: a of the power law 1 / f^a that fits best, a line through the logarithms of
            ``profile``; ``None``: too small or too flat for one.
        direction: Degrees, along which the picture varies most; ``None``: along none.
        coherence: 1: all waves have one direction, 0: none stands out.
        profile: Mean power in rings of equal width up to radius 1/2.
    """

    name: str
    picture: Array
    power: Array
    variance: float
    low: float
    middle: float
    high: float
    centre: float
    slope: float | None
    direction: float | None
    coherence: float
    profile: tuple[float, ...]

    def to_dict(self, size: int) -> dict[str, Any]:
        """Returns it as JSON-ready data, the power as means over ``size`` x ``size`` cells."""
        height, width = self.power.shape
        return {
            "name": self.name,
            "shape": list(self.picture.shape),
            "variance": self.variance,
            "low": self.low,
            "middle": self.middle,
            "high": self.high,
            "centre": self.centre,
            "slope": self.slope,
            "direction": self.direction,
            "coherence": self.coherence,
            "profile": list(self.profile),
            "power": _cells(self.power, min(size, height), min(size, width)).tolist(),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSpectrum(Result):
    """An image in the frequency domain, before and after something was done to it.

    Attributes:
        source: The image.
        window: ``hann`` or ``none``.
        before: The image.
        filter: The name of the filter that it was sent through; empty: none.
        kernel: What kind of filter that is.
        network: The network that it was sent through; empty: none.
        layer: Up to which layer.
        after: What came out; of a layer all maps together.
        maps: The maps of the layer one by one, the first ones if there are many.
        left_out: How many more it has.
        size: Cells per axis of the power in JSON.
    """

    source: str
    window: Window
    before: PartSpectrum
    filter: str = ""
    kernel: Character | None = None
    network: str = ""
    layer: str = ""
    after: PartSpectrum | None = None
    maps: tuple[PartSpectrum, ...] = ()
    left_out: int = 0
    size: int = 32

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data, schema ``convsmith.image-spectrum/1``."""
        return {
            "schema": "convsmith.image-spectrum/1",
            "source": self.source,
            "window": self.window,
            "filter": self.filter or None,
            "kernel": self.kernel and self.kernel.to_dict(),
            "network": self.network or None,
            "layer": self.layer or None,
            "before": self.before.to_dict(self.size),
            "after": self.after and self.after.to_dict(self.size),
            "maps": [part.to_dict(self.size) for part in self.maps],
            "left_out": self.left_out,
        }


def image_spectrum(
    image: Array,
    *,
    filter: str | Array | None = None,  # noqa: A002 - what everyone calls it
    through: Graph | None = None,
    layer: str | None = None,
    window: Window = "hann",
    size: int = 32,
    most: int = 64,
    source: str = "",
) -> ImageSpectrum:
    """Returns where the power of an image lies, and what a filter or a network does to it.

    Args:
        image: (H, W) or (C, H, W), real; (C, H, W) of the network's input if there is one.
        filter: A name of :data:`~convsmith.signal.FILTERS`, or taps (h, w). Borders are mirrored.
        through: A network with weights, of one input.
        layer: Up to which of its layers; by default the first convolution.
        window: ``hann``, or ``none`` for the plain periodogram.
        size: Cells per axis of the power in JSON.
        most: How many maps are looked at one by one.
        source: What the image is called.

    Raises:
        UsageError: If it is no image, or there is no such filter or layer.
        DataError: If the network has no weights.

    >>> wave = np.cos(2 * np.pi * np.arange(64) / 4) * np.ones((64, 1))
    >>> found = image_spectrum(wave, filter="box:4")
    >>> found.before.direction, round(found.before.middle, 6), found.after.variance < 1e-3
    (0.0, 1.0, True)
    """
    if size < 2 or most < 1:
        raise UsageError(
            f"size {size} and most {most} show nothing", remedy="give a size of 2 or more"
        )
    if filter is not None and through is not None:
        raise UsageError("a filter and a network at once", remedy="give one of them")
    if layer is not None and through is None:
        raise UsageError(f"there is no network that has a layer {layer!r}", remedy="give one")
    pixels = _checked(image)
    before = _part("before", pixels, window)
    name = source or f"image of shape {np.asarray(image).shape}"
    if filter is not None:
        named = isinstance(filter, str)
        taps = filter_kernel(filter) if isinstance(filter, str) else np.asarray(filter, np.float64)
        return ImageSpectrum(
            source=name, window=window, size=size, before=before,
            filter=str(filter) if named else f"taps of shape {taps.shape}",
            kernel=character(taps), after=_part("after", filtered(pixels, taps), window),
        )  # fmt: skip
    if through is None:
        return ImageSpectrum(source=name, window=window, size=size, before=before)
    chosen = _layer(through, layer)
    maps = _maps(through, chosen, pixels)
    return ImageSpectrum(
        source=name, window=window, size=size, before=before, network=through.source, layer=chosen,
        after=_part(f"{len(maps)} maps" if len(maps) > 1 else "1 map", maps, window),
        maps=tuple(_part(f"map {i}", one[None], window) for i, one in enumerate(maps[:most])),
        left_out=max(len(maps) - most, 0),
    )  # fmt: skip


def _checked(image: Array) -> Array:
    given = np.asarray(image)
    fits = given.ndim in (2, 3) and given.size and min(given.shape[-2:]) >= 2
    if given.dtype.kind not in "fiub" or not fits:
        raise UsageError(
            f"{given.dtype} of shape {given.shape} is no image",
            remedy="give (H, W) or (C, H, W), real numbers, 2 pixels or more on each side",
        )
    if given.size > _MOST_PIXELS:
        raise UsageError(
            f"an image of {given.size:,} numbers is too large to hold with its spectrum",
            remedy=f"give a part of it, up to {_MOST_PIXELS:,}",
        )
    pixels = given.reshape(-1, *given.shape[-2:]).astype(np.float64)
    if not np.isfinite(pixels).all():
        raise UsageError("the image has numbers that are not finite", remedy="replace them")
    return pixels


def filtered(image: Array, kernel: Array, *, border: Literal["mirror", "wrap"] = "mirror") -> Array:
    """Returns every channel of an image correlated with a kernel, as large as it was.

    A kernel of even size has its middle before the middle.

    Args:
        image: (C, H, W).
        kernel: (h, w).
        border: What lies around the image: itself, mirrored at its edge, or again and again.

    >>> filtered(np.arange(4.0).reshape(1, 1, 4), np.array([[-1.0, 0, 1]]), border="wrap").tolist()
    [[[-2.0, 2.0, 2.0, -2.0]]]
    """
    from scipy.signal import correlate  # slow to import, and lint needs this room

    if kernel.ndim != 2 or not kernel.size:
        raise UsageError(f"taps of shape {kernel.shape} are no filter", remedy="give (h, w)")
    around = [((k - 1) // 2, k // 2) for k in kernel.shape]
    mode: Any = "symmetric" if border == "mirror" else "wrap"
    wide = np.pad(np.asarray(image, np.float64), [(0, 0), *around], mode=mode)
    made = [correlate(channel, kernel, mode="valid") for channel in wide]
    return np.stack(made)


def power(image: Array, window: Window = "hann") -> Array:
    """Returns P(f) as this module defines it.

    Args:
        image: (C, H, W).
        window: ``hann`` or ``none``.

    Returns:
        float64, (H, W); frequencies ascend along each axis, 0 stands at size // 2.

    >>> power(np.array([[[1.0, -1.0], [1.0, -1.0]]]), "none").tolist()
    [[0.0, 0.0], [4.0, 0.0]]
    """
    if window not in ("hann", "none"):
        raise UsageError(f"there is no window {window!r}", remedy="choose hann or none")
    height, width = image.shape[-2:]
    weights = np.ones((height, width))
    if window == "hann":
        weights = np.outer(_hann(height), _hann(width))
    mean = (image * weights).sum((-2, -1), keepdims=True) / weights.sum()
    total = np.zeros((height, width))
    for channel in (image - mean) * weights:
        total += np.abs(np.fft.fft2(channel)) ** 2
    total[0, 0] = 0  # but for rounding it is
    return np.asarray(np.fft.fftshift(total / (len(image) * (weights**2).sum())))


def _hann(size: int) -> Array:
    """A periodic Hann window that is 0 nowhere."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size))


def _part(name: str, picture: Array, window: Window) -> PartSpectrum:
    found = power(picture, window)
    grids = np.meshgrid(*(frequencies(n) for n in found.shape), indexing="ij")
    radius = np.hypot(*grids)
    total = float(found.sum())
    # What is left of a constant is rounding.
    flat = total <= found.size * (1e-13 * float(np.abs(picture).max())) ** 2
    direction, coherence = (None, 0.0) if flat else orientation(found, grids)
    share = np.zeros_like(found) if flat else found / total
    profile = _profile(found, radius)
    return PartSpectrum(
        name=name,
        picture=picture,
        power=found,
        variance=total / found.size,
        low=float(share[radius < RINGS[0]].sum()),
        middle=float(share[(radius >= RINGS[0]) & (radius < RINGS[1])].sum()),
        high=float(share[radius >= RINGS[1]].sum()),
        centre=float((radius * share).sum()),
        slope=None if flat else _slope(profile),
        direction=direction,
        coherence=coherence,
        profile=profile,
    )


def _profile(found: Array, radius: Array) -> tuple[float, ...]:
    rings = max(min(_RINGS_OF_PROFILE, min(found.shape) // 4), 1)
    ring = np.minimum((radius * 2 * rings).astype(np.intp), rings)  # the last: the corners
    ring[radius == 0] = rings
    sums = np.bincount(ring.ravel(), found.ravel(), rings + 1)[:rings]
    counts = np.bincount(ring.ravel(), minlength=rings + 1)[:rings]
    return tuple((sums / np.maximum(counts, 1)).tolist())


def _slope(profile: tuple[float, ...]) -> float | None:
    rings = len(profile)
    known = [(math.log((i + 0.5) / rings), math.log(p)) for i, p in enumerate(profile) if p > 0]
    if rings < 4 or len(known) < rings:
        return None
    return -float(np.polyfit([x for x, _ in known], [y for _, y in known], 1)[0])


def _cells(found: Array, height: int, width: int) -> Array:
    """Means over cells of nearly equal size."""
    for axis, count in enumerate((height, width)):
        starts = np.arange(count) * found.shape[axis] // count
        sums = np.add.reduceat(found, starts, axis=axis)
        sizes = np.diff(np.append(starts, found.shape[axis]))
        found = sums / sizes.reshape((-1, 1) if axis == 0 else (1, -1))
    return found


def _layer(net: Graph, layer: str | None) -> str:
    names = [node.name for node in net.nodes]
    if layer is None:
        first = next((node.name for node in net.nodes if type(node.op).__name__ == "Conv"), None)
        if first is None:
            raise UsageError(
                "it has no convolution", place=net.source, remedy="say which layer with --layer"
            )
        return first
    if layer not in names:
        near = get_close_matches(layer, names, 3) or names[:3]
        raise UsageError(
            f"no layer is called {layer!r}",
            place=net.source,
            remedy=f"choose for example {', '.join(near)}",
        )
    return layer


def _maps(net: Graph, layer: str, pixels: Array) -> Array:
    """The feature maps of a layer, (K, H, W)."""
    if len(net.inputs) != 1:
        raise UsageError(
            f"it has {len(net.inputs)} inputs, and an image is one",
            place=net.source,
            remedy="give a network of one input",
        )
    wanted = net.inputs[0]
    if tuple(wanted.shape[1:]) != pixels.shape:
        raise UsageError(
            f"the image is {_sizes(pixels.shape)}, the network takes {_sizes(wanted.shape[1:])}",
            place=net.source,
            remedy="load the network for this size with --input",
        )
    batch: Mapping[str, Array] = {
        wanted.name: np.repeat(pixels[None].astype(np.float32), wanted.shape[0], axis=0)
    }
    for node, made in steps(net, batch):
        if node.name == layer:
            values = np.asarray(made[node.name], np.float64)
            break
    if values.ndim != 4 or min(values.shape[2:]) < 2:
        raise UsageError(
            f"it makes {_sizes(values.shape)}, which is no map of 2 x 2 or more",
            place=layer,
            remedy="choose a layer before the image is summed up",
        )
    if not np.isfinite(values[0]).all():
        raise UsageError(
            "it makes numbers that are not finite", place=layer, remedy="look at its weights"
        )
    return np.asarray(values[0])


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
