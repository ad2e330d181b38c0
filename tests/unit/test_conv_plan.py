"""Plans and prepared convolutions: what they say, what they refuse, what they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.random_convolutions import data_for

from convsmith.conv.plan import Prepared, candidates, plan_with
from convsmith.conv.spec import ConvSpec
from convsmith.errors import ShapeError, UnsupportedOperatorError, UsageError
from convsmith.kernel.target import host

SPEC = ConvSpec(size=(7, 9), channels=5, filters=6, kernel=(3, 3), padding=((1, 1), (1, 1)))
ADDING = ConvSpec(size=(6,), channels=2, filters=3, kernel=(1,), residual=True, bias=False)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    data = data_for(SPEC)
    return plan_with(SPEC, "direct").prepare(data.weights, data.bias)


def test_repr_says_what_will_happen() -> None:
    made = next(p for p in candidates(SPEC) if p.algorithm == "winograd")
    lines = repr(made).splitlines()
    assert lines[0] == "ConvPlan of 5@7x9 > conv 6 3 p1"
    assert lines[1].startswith("  algorithm    winograd ")
    assert lines[2].startswith(f"  operations   {made.operations.mults:,} multiplications (")
    assert lines[3] == f"  workspace    {made.workspace_bytes:,} bytes"
    error, bound = f"{made.error_ratio:.2g}", f"{made.error_bound:.1g}"
    assert lines[4] == f"  error        {error} x direct, {bound} sum|w| max|x|"
    spread = "x".join(map(str, made.spread))
    assert lines[5] == f"  NaN, Inf     spread over {spread} outputs"
    assert lines[6] == f"  predicted    {made.predicted_milliseconds:.2g} ms"
    assert len(lines) == 7
    assert "NaN" not in repr(plan_with(SPEC, "direct"))
    assert repr(replace(made, milliseconds=0.12345)).splitlines()[-1] == "  measured     0.1235 ms"


def read_only() -> np.ndarray[Any, Any]:
    made = np.empty((1, 6, 7, 9), np.float32)
    made.flags.writeable = False
    return made


ANOTHER = "; make another plan for another size."
CONVERT = ", not float32; pass x.astype(numpy.float32)."

X = np.ones((1, 5, 7, 9), np.float32)
Y = np.zeros((1, 6, 7, 9), np.float32)


@pytest.mark.parametrize(
    ("x", "out", "error", "message"),
    [
        (X.tolist(), None, UsageError, "x is list, not a NumPy array; convert it first."),
        (X.astype("f8"), None, UsageError, "x is float64" + CONVERT),
        (X.astype(">f4"), None, UsageError, "x is >f4" + CONVERT),
        (X[0], None, ShapeError, "x has shape (5, 7, 9), not (N, 5, 7, 9)" + ANOTHER),
        (X[:, :4], None, ShapeError, "x has shape (1, 4, 7, 9), not (N, 5, 7, 9)" + ANOTHER),
        (
            np.ones((1, 9, 7, 5), "f4").T,
            None,
            ShapeError,
            "x has shape (5, 7, 9, 1), not (N, 5, 7, 9)" + ANOTHER,
        ),
        (
            np.ones((1, 5, 9, 7), "f4").swapaxes(2, 3),
            None,
            UsageError,
            "x is not contiguous; pass numpy.ascontiguousarray(x).",
        ),
        (
            np.ones((1, 5, 7, 18), "f4")[..., ::2],
            None,
            UsageError,
            "x is not contiguous; pass numpy.ascontiguousarray(x).",
        ),
        (X, Y[..., :8], ShapeError, "out has shape (1, 6, 7, 8), not (1, 6, 7, 9)" + ANOTHER),
        (
            X,
            np.empty((2, 6, 7, 9), "f4"),
            ShapeError,
            "out has shape (2, 6, 7, 9), not (1, 6, 7, 9)" + ANOTHER,
        ),
        (
            X,
            Y.astype("f8"),
            UsageError,
            "out is float64, not float32; pass out.astype(numpy.float32).",
        ),
        (X, read_only(), UsageError, "out is read-only; pass an array that can be written."),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    prepared: Prepared, x: Any, out: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        prepared(x, out)
    assert str(caught.value) == message


def test_memory_that_overlaps_is_refused(prepared: Prepared) -> None:
    memory = np.ones(1000, np.float32)
    x, out = memory[:315].reshape(X.shape), memory[300:678].reshape(Y.shape)
    with pytest.raises(UsageError, match="out shares memory with x; pass another array, or none"):
        prepared(x, out)
    square = ConvSpec(size=(7,), channels=3, filters=3, kernel=(1,), residual=True, bias=False)
    adds = plan_with(square, "direct").prepare(np.ones((3, 3, 1), np.float32))
    small, shifted = memory[:21].reshape(1, 3, 7), memory[3:24].reshape(1, 3, 7)
    with pytest.raises(UsageError, match="out and residual overlap in part; pass the same array"):
        adds(np.ones((1, 3, 7), np.float32), small, residual=shifted)


def test_residuals_have_to_be_there_and_fit() -> None:
    adds = plan_with(ADDING, "direct").prepare(np.ones((3, 2, 1), np.float32))
    x, y = np.ones((1, 2, 6), np.float32), np.ones((1, 3, 6), np.float32)
    np.testing.assert_array_equal(adds(x, residual=y), 3 * y)
    with pytest.raises(UsageError, match="a residual is missing; pass residual="):
        adds(x)
    with pytest.raises(ShapeError, match=r"residual has shape \(1, 3, 5\), not \(1, 3, 6\)"):
        adds(x, residual=y[..., :5])


def test_a_residual_that_nobody_asked_for_is_refused(prepared: Prepared) -> None:
    with pytest.raises(UsageError, match="the spec has no residual; set residual=True in the spec"):
        prepared(X, residual=Y)


def test_weights_and_biases_that_do_not_fit_are_refused() -> None:
    made, data = plan_with(SPEC, "direct"), data_for(SPEC)
    with pytest.raises(ShapeError, match=r"weights have shape \(5, 6, 3, 3\), not \(6, 5, 3, 3\)"):
        made.prepare(data.weights.swapaxes(0, 1), data.bias)
    with pytest.raises(ShapeError, match=r"the bias has shape \(5,\), not \(6,\); give one number"):
        made.prepare(data.weights, np.ones(5))
    with pytest.raises(UsageError, match="the spec says that there is a bias; pass bias="):
        made.prepare(data.weights)
    bare = plan_with(ADDING, "direct")
    with pytest.raises(UsageError, match="the spec has no bias; leave it out"):
        bare.prepare(np.ones((3, 2, 1)), np.ones(3))


def test_weights_of_any_type_and_order_are_taken() -> None:
    made, data = plan_with(SPEC, "direct"), data_for(SPEC)
    wanted = made.prepare(data.weights, data.bias)(X)
    for weights in (data.weights.astype(np.float64), np.asfortranarray(data.weights)):
        assert made.prepare(weights, data.bias)(X).tobytes() == wanted.tobytes()
    changed = data.weights.copy()
    ready = made.prepare(changed, data.bias)
    changed[...] = 0  # a prepared convolution has its own
    assert ready(X).tobytes() == wanted.tobytes()


def test_algorithms_that_do_not_take_a_spec_are_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="; choose auto or direct"):
        plan_with(ADDING, "winograd")
    with pytest.raises(UsageError, match="there is no algorithm 'magic'"):
        plan_with(ADDING, "magic")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_any_number_of_threads_gives_the_same_bits(layout: Any) -> None:
    spec = ConvSpec(
        size=(31, 29), channels=19, filters=37, kernel=(3, 3), padding=((1, 1), (1, 1)),
        layout=layout, activation="silu", batch=2,
    )  # fmt: skip
    data = data_for(spec)
    # One tiling of each: the tests of the algorithms look at the others.
    plans = {made.algorithm: made for made in candidates(spec)}
    assert len(plans) > 2
    for made in plans.values():
        ready = made.prepare(data.weights, data.bias)
        alone = ready(data.x, members=1).tobytes()
        for members in (2, 3, 4, 7):
            assert ready(data.x, members=members).tobytes() == alone, (made, members)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_spreads_as_far_as_the_plan_says(wrong: float) -> None:
    spec = ConvSpec(size=(17, 18), channels=8, filters=8, kernel=(3, 3), padding=((1, 1), (1, 1)))
    data = data_for(spec)
    data.x[0, 2, 8, 9] = wrong
    reached = np.zeros((17, 18), bool)
    reached[7:10, 8:11] = True
    for made in candidates(spec):
        y = made.prepare(data.weights, data.bias)(data.x)[0]
        touched = ~np.isfinite(y).all(axis=0)
        assert touched[reached].all(), made
        high, wide = made.spread
        allowed = np.zeros_like(reached)
        for i, j in np.argwhere(reached):
            top, left = i // high * high, j // wide * wide
            allowed[top : top + high, left : left + wide] = True
        assert not (touched & ~allowed).any(), made


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "silu", "hardswish"])
def test_a_nan_survives_every_activation(activation: Any) -> None:
    spec = ConvSpec(size=(9, 9), channels=4, filters=8, kernel=(1, 1), activation=activation)
    data = data_for(spec)
    data.x[0, 1, 4, 4] = np.nan
    for made in candidates(spec):
        y = made.prepare(data.weights, data.bias)(data.x)
        assert np.isnan(y[0, :, 4, 4]).all(), made
        assert np.isnan(y).sum() == 8, made


def test_a_bias_alone_reaches_outputs_that_see_only_padding() -> None:
    spec = ConvSpec(size=(1, 1), channels=3, filters=5, kernel=(1, 1), padding=((2, 2), (2, 2)))
    data = data_for(spec)
    assert data.bias is not None
    for made in candidates(spec):
        y = made.prepare(data.weights, data.bias)(data.x)
        np.testing.assert_array_equal(y[0, :, 0, 0], data.bias)


def test_workspace_grows_with_the_threads_at_most_linearly() -> None:
    for made in candidates(SPEC, target=host()):
        one, four = (made.lowered.workspace(1, n) for n in (1, 4))
        assert one <= four <= 4 * one, made
