"""The classic filters come out as what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from convsmith.errors import UsageError
from convsmith.signal import character, folded_share, frequencies, response, separability

Array = NDArray[np.float64]
SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
LAPLACIAN = np.array([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
IMPULSE = np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])


def gabor(degrees: float, wavelength: float = 5, width: float = 3) -> Array:
    y, x = np.mgrid[-7:8, -7:8]
    along = x * math.cos(math.radians(degrees)) - y * math.sin(math.radians(degrees))
    return np.asarray(
        np.exp(-(x**2 + y**2) / (2 * width**2)) * np.cos(2 * math.pi * along / wavelength)
    )


@pytest.mark.parametrize(
    ("kernel", "kind", "oriented"),
    [
        (np.ones((3, 3)), "low-pass", False),
        (np.ones((5, 5)), "low-pass", False),
        (np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]), "low-pass", False),
        (LAPLACIAN, "high-pass", False),
        (9 * IMPULSE - 1, "high-pass", False),
        (SOBEL, "band-pass", True),
        (SOBEL.T, "band-pass", True),
        (gabor(30), "band-pass", True),
        (IMPULSE, "all-pass", False),
        (IMPULSE * -3, "all-pass", False),
        (IMPULSE + LAPLACIAN, "mixed", False),
        (np.zeros((3, 3)), "zero", False),
        (np.array([1.0, 2, 1]), "low-pass", False),
        (np.array([1.0, -2, 1]), "high-pass", False),
        (np.array([1.0, 0, -1]), "band-pass", False),
    ],
)
def test_classic_filters(kernel: Array, kind: str, oriented: bool) -> None:
    made = character(kernel)
    assert (made.kind, made.oriented) == (kind, oriented)


@pytest.mark.parametrize("scale", [1e-30, -1.0, 1e30])
def test_a_multiple_of_a_kernel_has_the_same_character(scale: float) -> None:
    one, other = character(gabor(20)), character(gabor(20) * scale)
    for name, value in one.to_dict().items():
        assert other.to_dict()[name] == (pytest.approx(value) if value is not None else None)


@pytest.mark.parametrize("degrees", [0, 10, 45, 80, 90, 135, 170])
def test_the_direction_of_a_wave(degrees: float) -> None:
    made = character(gabor(degrees))
    assert made.direction is not None
    apart = abs(made.direction - degrees) % 180
    assert min(apart, 180 - apart) < 0.5
    assert made.peak == pytest.approx(1 / 5, abs=1 / 64)


def test_sobel_kernels_look_across_and_down() -> None:
    assert character(SOBEL).label == "band-pass 0°"
    assert character(SOBEL.T).label == "band-pass 90°"


def test_the_box_by_hand() -> None:
    """H(f) of three equal taps is (1 + 2 cos 2 pi f) / 3."""
    f = frequencies(12)
    exact = (1 + 2 * np.cos(2 * math.pi * f)) / 3
    assert np.allclose(response(np.full(3, 1 / 3), 12), exact, atol=1e-15)


def test_a_wave_comes_out_times_the_response() -> None:
    """The definition: correlation of a wave with the kernel."""
    kernel = np.random.default_rng(1).standard_normal((3, 5))
    grid = response(kernel, (8, 10))
    i, j = 6, 3
    fy, fx = frequencies(8)[i], frequencies(10)[j]
    y, x = np.mgrid[0:20, 0:20]
    wave = np.exp(2j * math.pi * (fy * y + fx * x))
    seen = np.lib.stride_tricks.sliding_window_view(wave, (3, 5))
    out = np.einsum("yxab,ab->yx", seen, kernel)
    # The window that starts at (y, x) has its middle at (y + 1, x + 2).
    middle = wave[1 : 1 + out.shape[0], 2 : 2 + out.shape[1]]
    assert np.allclose(out / middle, grid[i, j], atol=1e-12)


def test_separability() -> None:
    assert separability(SOBEL) == pytest.approx(1)
    assert separability(np.eye(4)) == pytest.approx(1 / 4)
    assert separability(np.zeros((3, 3))) == 0


def test_energy_above_the_new_limit() -> None:
    white = np.random.default_rng(0).standard_normal((400, 20, 3, 3))
    assert folded_share(white, (2, 2)) == pytest.approx(0.75, abs=0.01)
    blur = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None]
    assert folded_share(blur, (2, 2)) < 0.1
    assert folded_share(LAPLACIAN[None, None], (2, 2)) > 0.95
    assert folded_share(blur, (1, 1)) == 0


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((2, 2, 2)), "a kernel of shape (2, 2, 2) is no filter of one or two axes"),
        (np.ones((0, 3)), "a kernel of shape (0, 3) is no filter"),
        (np.array([1.0, np.nan]), "the kernel has numbers that are not finite"),
    ],
)
def test_what_is_no_kernel_is_refused(kernel: Array, message: str) -> None:
    with pytest.raises(UsageError, match="(?s)^" + message.replace("(", r"\(").replace(")", r"\)")):
        character(kernel)


def test_a_grid_that_is_too_small_or_too_large() -> None:
    with pytest.raises(UsageError, match="a response of 2x2 frequencies does not hold a kernel"):
        response(np.ones((3, 3)), 2)
    with pytest.raises(UsageError, match="are too many to hold"):
        response(np.ones((64, 64, 3, 3)), 256)
