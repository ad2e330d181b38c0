"""A spec in three spatial axes and per group: what kernels are written from."""

from __future__ import annotations

from dataclasses import dataclass

from convsmith.conv.spec import ConvSpec

__all__ = ["Geometry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Sizes with leading axes of 1, so that (L,), (H, W) and (D, H, W) are one case.

    Attributes:
        batch: Images.
        groups: Groups.
        channels: Input channels of one group.
        filters: Filters of one group.
        size: Input sizes (D, H, W).
        padded: Input sizes with padding, cut to what the outputs see.
        before: Padding before.
        kernel: Kernel sizes.
        stride: Steps of the output.
        dilation: Steps of the taps.
        reach: Input elements from the first tap to the last.
        output: Output sizes (D, H, W).
    """

    batch: int
    groups: int
    channels: int
    filters: int
    size: tuple[int, int, int]
    padded: tuple[int, int, int]
    before: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    reach: tuple[int, int, int]
    output: tuple[int, int, int]

    @staticmethod
    def of(spec: ConvSpec) -> Geometry:
        """Returns the geometry of a spec."""
        return Geometry(
            batch=spec.batch,
            groups=spec.groups,
            channels=spec.channels // spec.groups,
            filters=spec.filters // spec.groups,
            size=_three(spec.size),
            padded=_three(spec.padded),
            before=_three(tuple(before for before, _ in spec.padding), 0),
            kernel=_three(spec.kernel),
            stride=_three(spec.stride),
            dilation=_three(spec.dilation),
            reach=_three(spec.reach),
            output=_three(spec.output),
        )

    @property
    def rows(self) -> int:
        """Output rows of one plane."""
        return self.output[1]

    @property
    def columns(self) -> int:
        """Output columns."""
        return self.output[2]


def _three(values: tuple[int, ...], fill: int = 1) -> tuple[int, int, int]:
    d, h, w = (fill,) * (3 - len(values)) + values
    return (d, h, w)
