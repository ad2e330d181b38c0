"""The layers that benchmarks/convolution.py times, in groups with a target each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from convsmith.conv.spec import LAYOUTS, ConvSpec

__all__ = ["GROUPS", "Group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Layers, and how much faster than the fastest peer they have to be.

    Attributes:
        what: In words.
        specs: The layers.
        mean: The least geometric mean of the ratios.
        least: The least of the ratios.
    """

    what: str
    specs: tuple[ConvSpec, ...]
    mean: float
    least: float


def _layer(
    channels: int,
    size: int,
    filters: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
) -> ConvSpec:
    """A square layer with bias and ReLU, padded to keep its size unless said otherwise."""
    around = kernel // 2 if padding is None else padding
    return ConvSpec(
        size=(size, size),
        channels=channels,
        filters=filters,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=((around, around), (around, around)),
        groups=groups,
        activation="relu",
    )


def _both(specs: Iterable[ConvSpec], batch: int = 1) -> tuple[ConvSpec, ...]:
    """The layers in both layouts, one layout after the other."""
    listed = [spec.with_batch(batch) for spec in specs]
    return tuple(replace(spec, layout=layout) for layout in LAYOUTS for spec in listed)


def _depthwise(channels: int, size: int, kernel: int, stride: int = 1) -> ConvSpec:
    return _layer(channels, size, channels, kernel, stride=stride, groups=channels)


_THREES = [
    _layer(channels, size, channels, 3)
    for channels, size in (
        (64, 224), (128, 112), (256, 56), (512, 28), (512, 14),
        (64, 56), (128, 28), (256, 14), (512, 7),
    )
]  # fmt: skip
_FIVES = [_layer(64, 56, 64, 5), _layer(32, 28, 96, 5)]
_STRIDED = [
    _layer(64, 56, 128, 3, stride=2),
    _layer(128, 28, 256, 3, stride=2),
    _layer(256, 14, 512, 3, stride=2),
    _layer(128, 56, 128, 3, stride=2),
    _layer(256, 28, 256, 3, stride=2),
    _layer(512, 14, 512, 3, stride=2),
]
_ONES = [
    _layer(channels, size, filters, 1)
    for channels, size, filters in (
        (256, 56, 256), (64, 56, 256), (256, 56, 64), (512, 28, 128), (128, 28, 512),
        (1024, 14, 256), (256, 14, 1024), (2048, 7, 512), (512, 7, 2048),
        (32, 112, 16), (16, 112, 96), (144, 56, 24), (320, 7, 1280),
    )
]  # fmt: skip
_MOBILE = [
    _depthwise(channels, size, 3, stride)
    for channels, size, stride in (
        (32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2),
        (384, 14, 1), (576, 14, 1), (576, 14, 2), (960, 7, 1),
    )
]  # fmt: skip
_LARGE = [
    _depthwise(channels, size, 31)
    for channels, size in ((128, 56), (256, 28), (512, 14), (512, 28))
]

GROUPS: dict[str, Group] = {
    "3x3": Group(what="3x3, batch 1", specs=_both(_THREES), mean=2.0, least=1.0),
    "3x3-batch": Group(what="3x3, batch 16", specs=_both(_THREES, 16), mean=2.0, least=1.0),
    "5x5": Group(what="5x5", specs=_both(_FIVES), mean=1.5, least=1.0),
    "7x7": Group(what="7x7", specs=_both([_layer(64, 56, 64, 7)]), mean=2.0, least=1.0),
    "stem": Group(
        what="7x7/2 of three channels",
        specs=_both([_layer(3, 224, 64, 7, stride=2)]),
        mean=1.0,
        least=1.0,
    ),
    "strided": Group(what="3x3/2", specs=_both(_STRIDED), mean=1.0, least=1.0),
    "1x1": Group(what="1x1", specs=_both(_ONES), mean=1.0, least=1.0),
    "depthwise": Group(
        what="3x3 depthwise, of MobileNet", specs=_both(_MOBILE), mean=1.0, least=1.0
    ),
    "31x31": Group(what="31x31 depthwise, of RepLKNet", specs=_both(_LARGE), mean=3.0, least=1.0),
}
"""Groups by name, in the order in which they run."""
