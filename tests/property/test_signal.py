from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from convsmith.signal import character, frequencies, response, separability

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
