from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from convsmith.signal import character, frequencies, image_spectrum, response, separability
from convsmith.signal.image import power

Array = NDArray[np.float64]
KERNELS = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=7),
    elements=st.floats(-8, 8, width=32),
)


@given(KERNELS)
def test_parseval(kernel: Array) -> None:
    """The mean power of the response is the energy of the kernel."""
    grid = response(kernel, 8, axes=kernel.ndim)
    assert np.isclose((np.abs(grid) ** 2).mean(), (kernel**2).sum(), rtol=1e-12, atol=1e-12)


@given(KERNELS, st.integers(0, 3))
def test_a_shift_turns_the_phase_and_nothing_else(kernel: Array, shift: int) -> None:
    """Zeros before the kernel, as many behind: its middle stays, its taps do not move."""
    wide = np.pad(kernel, shift)
    assert np.allclose(
        response(kernel, 16, axes=kernel.ndim), response(wide, 16, axes=kernel.ndim), atol=1e-10
    )
    moved = np.pad(kernel, [(2 * shift, 0)] + [(0, 0)] * (kernel.ndim - 1))
    turn = np.exp(2j * np.pi * frequencies(16) * shift).reshape([-1] + [1] * (kernel.ndim - 1))
    assert np.allclose(
        response(moved, 16, axes=kernel.ndim), response(kernel, 16, axes=kernel.ndim) * turn,
        atol=1e-10,
    )  # fmt: skip


@given(KERNELS)
def test_scores_are_shares(kernel: Array) -> None:
    made = character(kernel, size=16)
    shares = (made.gain_zero, made.gain_edge, made.coherence, made.separability)
    assert all(-1e-12 <= share <= 1 + 1e-12 for share in shares)
    total = made.low + made.middle + made.high
    assert np.isclose(total, 0 if made.kind == "zero" else 1)


@given(KERNELS)
def test_a_turned_kernel_keeps_its_power(kernel: Array) -> None:
    one, other = character(kernel, size=16), character(kernel[::-1], size=16)
    assert np.isclose(one.gain_zero, other.gain_zero, atol=1e-9)
    assert np.isclose(one.centre, other.centre, atol=1e-9)
    assert np.isclose(separability(kernel), separability(kernel[::-1]), atol=1e-9)


IMAGES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)),
    elements=st.floats(-8, 8, width=32),
)


@given(IMAGES)
def test_parseval_of_an_image(image: Array) -> None:
    """The mean power is the variance: of the picture itself, of its windowed pixels."""
    assert np.isclose(
        power(image, "none").mean(), image.var((-2, -1)).mean(), rtol=1e-9, atol=1e-12
    )
    high, wide = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in image.shape[1:])
    window = np.outer(high, wide)
    middle = (image * window).sum((-2, -1), keepdims=True) / window.sum()
    around = (((image - middle) * window) ** 2).sum((-2, -1)) / (window**2).sum()
    assert np.isclose(power(image).mean(), around.mean(), rtol=1e-9, atol=1e-12)


@given(IMAGES, st.integers(-4, 4), st.integers(-4, 4))
def test_a_shift_of_an_image_changes_no_power(image: Array, down: int, right: int) -> None:
    moved = np.roll(image, (down, right), axis=(1, 2))
    assert np.allclose(power(moved, "none"), power(image, "none"), atol=1e-9)


@given(IMAGES)
def test_the_power_of_a_real_image_is_symmetric(image: Array) -> None:
    found = np.fft.ifftshift(power(image))
    turned = np.roll(found[::-1, ::-1], (1, 1), axis=(0, 1))
    assert np.allclose(found, turned, atol=1e-9)
    part = image_spectrum(image).before
    total = part.low + part.middle + part.high
    assert np.isclose(total, 1) or (total == 0 and part.variance < 1e-9)
