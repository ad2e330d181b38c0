"""The compiled form of depthwise convolution by transforms of rows.

Lanes are channels, so a transform needs no shuffles; one item is a vector of channels of one image
(a band of its rows and a tile of its columns, if it is large).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithm import WEIGHTS, WORKSPACE, X
from convsmith.conv.geometry import Geometry
from convsmith.conv.lines import gather_line, scatter_line
from convsmith.conv.output import load_bias, put
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Code, Unit, Value, Variable
from convsmith.kernel.fourier import Places, real_dft, real_inverse
from convsmith.kernel.target import Target

if TYPE_CHECKING:
    from convsmith.conv.algorithms.fft_depthwise import FftDepthwiseTiling

__all__ = ["FftDepthwiseKernels", "packed_spectrum"]


def packed_spectrum(w: NDArray[Any], size: int, shifts: NDArray[Any]) -> NDArray[np.float64]:
    """Returns what a packed spectrum is multiplied with to correlate with rows of taps.

    Args:
        w: (..., taps), real.
        size: Length of the transforms.
        shifts: Per tap, how far right of its output it reads.

    Returns:
        (..., size / 2, 2): complex numbers as pairs, first X[0] and X[size / 2], which are real.
        The conjugate spectrum, over ``size`` as the inverse is not normalised.
    """
    grid = np.zeros((*w.shape[:-1], size), np.float64)
    for tap, shift in enumerate(shifts):
        grid[..., shift % size] += w[..., tap]
    spectrum = np.conj(np.fft.rfft(grid)) / size
    packed = np.stack([spectrum.real, spectrum.imag], axis=-1)
    packed[..., 0, 1] = packed[..., -1, 0]
    return packed[..., :-1, :]


class FftDepthwiseKernels:
    """Everything about one compiled form."""

    def __init__(self, spec: ConvSpec, target: Target, tiling: FftDepthwiseTiling) -> None:
        self.spec, self.tiling, self.lanes = spec, tiling, target.lanes
        self.g = g = Geometry.of(spec)
        self.vectors = -(-spec.channels // self.lanes)
        self.taps = g.kernel[1]
        self.across = -(-g.columns // tiling.columns)
        self.bands = -(-g.rows // tiling.band)
        self.slots = tiling.size // 2
        made = -(-tiling.band // tiling.height) * tiling.height  # rows of sums of a band
        self.read = min(g.size[1], made - 1 + self.taps)  # rows of the input that they see
        # An odd number of pairs of cache lines: a transform's stores go to different sets.
        self.read_pitch = (self.read | 1) * 2 * self.lanes
        self.made_pitch = (made | 1) * 2 * self.lanes
        self.weight_rows = self.taps + 2 * (tiling.height - 1)
        self.line = (tiling.size + self.lanes) * self.lanes
        self.own = self.slots * (self.read_pitch + self.made_pitch) + self.line

    # Around the kernel ----------------------------------------------------------------

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Returns spectra of the rows of taps, [vector][frequency][row][re, im][channel].

        Zero rows before and behind serve outputs of a tile that do not see the row of a step.
        """
        g, t = self.g, self.tiling
        w = weights.reshape(self.spec.channels, self.taps, g.kernel[2]).astype(np.float64)
        shifts, kept = t.shifts(self.spec)
        spectrum = packed_spectrum(w[..., kept], t.size, shifts[kept])  # channel, row, slot, part
        full = np.zeros((self.vectors * self.lanes, self.slots, self.weight_rows, 2), np.float32)
        rows = slice(t.height - 1, t.height - 1 + self.taps)
        full[: self.spec.channels, :, rows] = spectrum.transpose(0, 2, 1, 3)
        shaped = full.reshape(self.vectors, self.lanes, self.slots, self.weight_rows, 2)
        return np.ascontiguousarray(shaped.transpose(0, 2, 3, 4, 1)).reshape(-1)

    def workspace(self, batch: int, threads: int) -> int:
        """Returns what threads use for themselves."""
        return threads * self.own

    def phases(self, batch: int) -> list[tuple[str, int]]:
        """Returns the one phase."""
        return [("compute", batch * self.vectors * self.bands * self.across)]

    def write(self, unit: Unit) -> None:
        """Writes the kernel."""
        with unit.kernel("compute") as code:
            self._compute(code)

    # The kernel -----------------------------------------------------------------------

    def _compute(self, code: Code) -> None:
        g, t = self.g, self.tiling
        column = code.item % self.across * t.columns
        first = code.item // self.across % self.bands * t.band
        vector = code.item // (self.across * self.bands) % self.vectors
        image = code.item // (self.across * self.bands * self.vectors)
        channel = vector * self.lanes
        spectra = code.pointer(WORKSPACE).at(code.worker * self.own)
        sums = spectra.at(self.slots * self.read_pitch)
        line = sums.at(self.slots * self.made_pitch)
        top = code.larger(first - g.before[1], 0)  # the row of the input that `spectra` begin with
        bottom = code.smaller(top + self.read, g.size[1])

        for row in code.range(top, bottom):
            place = spectra.at((row - top) * (2 * self.lanes))
            self._forward(code, image, channel, row, column, line, place)

        weights = code.pointer(WEIGHTS).at(
            vector * (self.slots * self.weight_rows * 2 * self.lanes)
        )
        for real, slots in ((True, code.range(1)), (False, code.range(1, self.slots))):
            for slot in slots:
                self._column(
                    code, spectra.at(slot * self.read_pitch),
                    weights.at(slot * (self.weight_rows * 2 * self.lanes)),
                    sums.at(slot * self.made_pitch), first, top, bottom, real=real,
                )  # fmt: skip

        for row in code.range(first, code.smaller(first + t.band, g.rows)):
            place = sums.at((row - first) * (2 * self.lanes))
            self._back(code, image, channel, row, column, line, place)

    def _per_vector(self, code: Code, channel: Value, body: Callable[[int], None]) -> None:
        """Writes code for whole vectors of channels, and for the last one if it is not whole."""
        tail = self.spec.channels % self.lanes
        if not tail:
            body(self.lanes)
            return
        whole = channel + self.lanes <= self.spec.channels
        if self.vectors > 1:
            with code.when(whole):
                body(self.lanes)
        with code.unless(whole):
            body(tail)

    def _forward(
        self, code: Code, image: Value, channel: Value, row: Value, column: Value, line: Value,
        place: Value,
    ) -> None:  # fmt: skip
        """Transforms one row of the input."""
        g, t, lanes = self.g, self.tiling, self.lanes
        inputs = g.size[2] if t.whole else t.size
        direct = t.whole and self.spec.layout == "channels_last" and not self.spec.channels % lanes
        if direct:
            pixels = ((image * g.size[1] + row) * g.size[2]) * self.spec.channels + channel
            source = Places(code.pointer(X).at(pixels), lanes, self.spec.channels)
        else:
            left: int | Value = 0 if t.whole else column - g.before[2]

            def gather(channels: int) -> None:
                gather_line(
                    code, self.spec, line, image=image, row=row, left=left, width=inputs,
                    channel=channel, channels=channels, pitch=lanes, lanes=lanes,
                )  # fmt: skip

            self._per_vector(code, channel, gather)
            source = Places(line, lanes, lanes)
        spectrum = Places(place, lanes, self.read_pitch, lanes)
        real_dft(t.size, inputs).emit(code, source.load, spectrum.store)

    def _column(
        self, code: Code, spectra: Value, weights: Value, sums: Value, first: Value, top: Value,
        bottom: Value, *, real: bool,
    ) -> None:  # fmt: skip
        """Sums one frequency down the column: a tile of ``height`` outputs at a time.

        A number of the real frequencies is a pair of real ones, multiplied each by itself.
        """
        g, t, lanes = self.g, self.tiling, self.lanes
        pair = 2 * lanes
        zero = code.splat(0.0, lanes)
        made = code.smaller(code.integer(g.rows) - first, t.band)
        for tile in code.range((made + (t.height - 1)) // t.height):
            start = first + tile * t.height - g.before[1]  # the row that the first tap reads
            low = code.larger(start, top)
            high = code.smaller(start + (t.height - 1 + self.taps), bottom)
            totals: list[tuple[Variable, Variable]] = [
                (code.variable(zero), code.variable(zero)) for _ in range(t.height)
            ]
            for row in code.range(low, high):
                x = spectra.at((row - top) * pair)
                re, im = x.load(lanes), x.load(lanes, lanes)
                minus = -im
                tap = weights.at((row - start + (t.height - 1)) * pair)
                for output, (total_re, total_im) in enumerate(totals):
                    a = tap.load(lanes, -output * pair)
                    b = tap.load(lanes, -output * pair + lanes)
                    if real:
                        total_re.set(code.fma(re, a, total_re.get()))
                        total_im.set(code.fma(im, b, total_im.get()))
                    else:
                        partial = code.fma(re, a, total_re.get())
                        total_re.set(code.fma(minus, b, partial))
                        partial = code.fma(re, b, total_im.get())
                        total_im.set(code.fma(im, a, partial))
            to = sums.at(tile * (t.height * pair))
            for output, (total_re, total_im) in enumerate(totals):
                to.store(total_re.get(), output * pair)
                to.store(total_im.get(), output * pair + lanes)

    def _back(
        self, code: Code, image: Value, channel: Value, row: Value, column: Value, line: Value,
        place: Value,
    ) -> None:  # fmt: skip
        """Transforms one row of sums back and stores it."""
        g, t, lanes = self.g, self.tiling, self.lanes
        bias = load_bias(code, self.spec, channel, lanes)
        direct = t.whole and self.spec.layout == "channels_last" and not self.spec.channels % lanes
        start = ((image * g.rows + row) * g.columns) * self.spec.filters + channel

        def store(i: int, value: Value) -> None:
            value = value if bias is None else value + bias
            if direct:
                put(code, self.spec, value, start + i * self.spec.filters, lanes, lanes)
            else:
                line.store(value, i * lanes)

        sums = Places(place, lanes, self.made_pitch, lanes)
        real_inverse(t.size, t.columns).emit(code, sums.load, store)
        if direct:
            return
        left = code.smaller(code.integer(g.columns) - column, t.columns)
        width: int | Value = left if self.across > 1 else g.columns

        def scatter(filters: int) -> None:
            scatter_line(
                code, self.spec, line, image=image, row=row, column=column, width=width,
                first=channel, filters=filters, lanes=lanes,
            )  # fmt: skip

        self._per_vector(code, channel, scatter)
