"""The algorithms, by name."""

from __future__ import annotations

from convsmith.conv.algorithm import Algorithm
from convsmith.conv.algorithms.depthwise import Depthwise
from convsmith.conv.algorithms.direct import Direct
from convsmith.conv.algorithms.fft import Fft
from convsmith.conv.algorithms.fft_depthwise import FftDepthwise
from convsmith.conv.algorithms.im2col import Im2col
from convsmith.conv.algorithms.planar import Planar
from convsmith.conv.algorithms.pointwise import Pointwise
from convsmith.conv.algorithms.strassen import Strassen
from convsmith.conv.algorithms.winograd import Winograd

__all__ = ["ALGORITHMS"]

ALGORITHMS: dict[str, Algorithm] = {
    method.name: method
    for method in (
        Direct(),
        Im2col(),
        Pointwise(),
        Strassen(),
        Winograd(),
        Fft(),
        FftDepthwise(),
        Depthwise(),
        Planar(),
    )
}
