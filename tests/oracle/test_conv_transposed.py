"""Transposed convolution against torch in float64, against zero-stuffing, and by hand."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.random_convolutions import ACTIVATED, ROUNDOFF

from convsmith.conv.spec import ACTIVATIONS, LAYOUTS
from convsmith.conv.transposed import TransposedSpec, plan_transposed, reference
from convsmith.conv.transposing import conv_transpose1d, conv_transpose2d, conv_transpose3d
from convsmith.errors import ConvsmithError, ShapeError, UsageError

Array = npt.NDArray[Any]

EXAMPLES = int(os.environ.get("CONVSMITH_CONV_EXAMPLES", "8"))
TORCH: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def truth(spec: TransposedSpec, x: Array, w: Array, b: Array | None) -> Array:
    """Whole by torch in float64, then cut; so any padding works, and any output padding."""
    tx = torch.from_numpy(x).double()
    tx = tx.movedim(-1, 1) if spec.layout == "channels_last" else tx
    y = TORCH[spec.rank](
        tx, torch.from_numpy(w).double(), None, spec.stride, 0, 0, spec.groups, spec.dilation
    )
    for axis, ((before, _), size) in enumerate(zip(spec.padding, spec.output, strict=True)):
        place = 2 + axis
        short = max(0, before + size - y.shape[place])
        tail = torch.zeros((*y.shape[:place], short, *y.shape[place + 1 :]), dtype=y.dtype)
        y = torch.cat((y, tail), place).narrow(place, before, size)
    if b is not None:
        y = y + torch.from_numpy(b).double().reshape(-1, *[1] * spec.rank)
    y = ACTIVATED[spec.activation](y)
    return np.asarray((y.movedim(1, -1) if spec.layout == "channels_last" else y).numpy())


@st.composite
def specs(draw: st.DrawFn) -> TransposedSpec:
    rank = draw(st.sampled_from((1, 2, 2, 3)))
    made: dict[str, list[Any]] = {
        key: [] for key in ("size", "kernel", "stride", "dilation", "padding", "output_padding")
    }
    for _ in range(rank):
        kernel = draw(st.integers(1, 5 if rank < 3 else 3))
        stride, dilation = draw(st.integers(1, 4)), draw(st.sampled_from((1, 1, 2, 3, 4)))
        size, more = draw(st.integers(1, 9 if rank < 3 else 4)), draw(st.integers(0, 4))
        whole = (size - 1) * stride + dilation * (kernel - 1) + 1 + more
        before = draw(st.integers(0, min(whole, 4)))
        after = draw(st.integers(0, min(whole - before, 4)))
        for key, value in (
            ("size", size), ("kernel", kernel), ("stride", stride), ("dilation", dilation),
            ("padding", (before, after)), ("output_padding", more),
        ):  # fmt: skip
            made[key].append(value)
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    return TransposedSpec(
        **{key: tuple(values) for key, values in made.items()},
        channels=groups * draw(st.integers(1, 9)),
        filters=groups * draw(st.integers(1, 9)),
        groups=groups,
        batch=draw(st.sampled_from((1, 2, 0))),
        layout=draw(st.sampled_from(LAYOUTS)),
        bias=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


def arrays(spec: TransposedSpec) -> tuple[Array, Array, Array | None]:
    random = np.random.default_rng(0)
    return (
        random.standard_normal(spec.input_shape, np.float32),
        random.standard_normal(spec.weight_shape, np.float32),
        random.standard_normal(spec.filters, np.float32) if spec.bias else None,
    )


@settings(
    max_examples=2 * EXAMPLES, phases=(Phase.generate,), suppress_health_check=list(HealthCheck)
)
@given(spec=specs())
def test_compiled_phases_are_the_transposed_convolution_of_torch(spec: TransposedSpec) -> None:
    x, w, b = arrays(spec)
    wanted = truth(spec, x, w, b) if spec.batch else np.zeros(spec.output_shape)
    # Exact: a strided kernel of one tap has phases with so few sums that bounds are simple.
    y = plan_transposed(spec, algorithm="exact").prepare(w, b)(x)
    assert y.shape == spec.output_shape
    assert y.shape == wanted.shape
    terms = np.prod(spec.kernel) * spec.channels // spec.groups + 2
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=100 * ROUNDOFF * terms)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(spec=specs().filter(lambda spec: spec.batch))
def test_the_reference_is_the_transposed_convolution_of_torch(spec: TransposedSpec) -> None:
    x, w, b = (None if a is None else a.astype(np.float64) for a in arrays(spec))
    assert x is not None
    assert w is not None
    np.testing.assert_allclose(reference(spec, x, w, b), truth(spec, x, w, b), atol=1e-11)


@settings(max_examples=200)
@given(spec=specs())
def test_phases_cover_every_output_once(spec: TransposedSpec) -> None:
    seen = np.zeros(spec.output, int)
    for phase in spec.phases:
        seen[tuple(slice(a.outputs.start, a.outputs.stop, a.outputs.step) for a in phase.axes)] += 1
    assert (seen == 1).all()


def test_phases_multiply_no_zeros_and_nothing_twice() -> None:
    spec = TransposedSpec(
        size=(14, 14), channels=8, filters=4, kernel=(4, 4), stride=(2, 2),
        padding=((1, 1), (1, 1)),
    )  # fmt: skip
    parts = plan_transposed(spec, algorithm="exact").parts
    inner = [made.spec for _, made in parts if made is not None]
    assert [one.kernel for one in inner] == [(2, 2)] * 4
    # What the definition has, plus the border that a convolution pads with zeros.
    assert sum(one.macs for one in inner) == 4 * 14 * 14 * 8 * 4 * 4
    assert spec.macs == 14 * 14 * 8 * 4 * 16


def test_repr_says_what_happens() -> None:
    spec = TransposedSpec(size=(4,), channels=2, filters=3, kernel=(1,), stride=(2,))
    lines = repr(plan_transposed(spec, algorithm="direct")).splitlines()
    assert lines[0] == "TransposedPlan of 2 phases"
    assert lines[1].endswith("24 multiplications (the definition has 24)")
    assert lines[2].startswith("  [0::2]  direct ")
    assert lines[2].endswith("of 2@4 > conv 3 1")
    assert lines[3] == "  [1::2]  bias alone"


def test_transforms_are_used_where_they_pay() -> None:
    spec = TransposedSpec(
        size=(28, 28), channels=64, filters=64, kernel=(3, 3), padding=((1, 1), (1, 1))
    )
    x, w, b = arrays(spec)
    wanted = truth(spec, x, w, b)
    y = plan_transposed(spec, algorithm="winograd").prepare(w, b)(x)
    assert np.abs(y - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("last", [False, True])
def test_tensors_come_back_as_torch_lays_them_out(last: bool) -> None:
    x, w, b = torch.randn(2, 6, 5, 7), torch.randn(6, 4, 3, 4), torch.randn(8)
    if last:
        x = x.to(memory_format=torch.channels_last)
    y = conv_transpose2d(
        x, w, b, stride=(2, 3), padding=1, output_padding=(1, 2), groups=2, dilation=2
    )
    wanted = F.conv_transpose2d(x, w, b, (2, 3), 1, (1, 2), 2, 2)
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    torch.testing.assert_close(y, wanted, atol=1e-5, rtol=1e-5)


def test_ranks_and_types() -> None:
    random = np.random.default_rng(0)
    for rank, run in ((1, conv_transpose1d), (2, conv_transpose2d), (3, conv_transpose3d)):
        x, w = random.random((1, 2, *[4] * rank)), random.random((2, 3, *[2] * rank))
        wanted = TORCH[rank](torch.from_numpy(x), torch.from_numpy(w), stride=2).numpy()
        assert run(x, w, stride=2).dtype == np.float64
        np.testing.assert_allclose(run(x, w, stride=2), wanted, atol=1e-12)
    whole = conv_transpose1d(np.array([[[1, 2]]]), np.array([[[3, 4, 5]]]), stride=2)
    assert whole.tolist() == [[[3, 4, 5 + 6, 8, 10]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": ((9, 9),)}, "padding ((9, 9),) cuts more off than there is"),
        ({"padding": ((-1, 0),)}, "a padding is negative"),
        ({"padding": (1,) * 2}, "has 2 entries for 1 spatial axes"),
        ({"output_padding": (-1,)}, "a padding is negative"),
        ({"stride": (0,)}, "stride is 0; it has to be 1 or more"),
        ({"kernel": (2, 2)}, "kernel (2, 2) has 2 entries for 1 spatial axes"),
        ({"size": (0,)}, "an input of size (0,) is empty"),
        ({"groups": 2, "filters": 3}, "cannot be split into 2 groups"),
    ],
)
def test_what_no_transposed_convolution_has_is_refused(
    change: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"size": (4,), "channels": 2, "filters": 2, "kernel": (3,), **change}
    with pytest.raises(ConvsmithError) as caught:
        TransposedSpec(**given)
    assert message in str(caught.value)


def test_wrong_arguments_of_a_call_are_refused() -> None:
    x, w = np.ones((1, 2, 4), np.float32), np.ones((2, 3, 2), np.float32)
    with pytest.raises(ShapeError, match="w has 2 channels, x 3; w is"):
        conv_transpose1d(np.ones((1, 3, 4), np.float32), w)
    with pytest.raises(ShapeError, match="not 4 axes"):
        conv_transpose2d(x, w)
    with pytest.raises(UsageError, match="no padding 'same'"):
        conv_transpose1d(x, w, padding="same")
    with pytest.raises(UsageError, match="x is float32 and w float64"):
        conv_transpose1d(x, w.astype(np.float64))
    prepared = plan_transposed(
        TransposedSpec(size=(4,), channels=2, filters=3, kernel=(2,), bias=False)
    ).prepare(w)
    out = np.empty((1, 3, 5), np.float32)
    out.flags.writeable = False
    with pytest.raises(UsageError, match="out is read-only"):
        prepared(x, out)
    with pytest.raises(ShapeError, match="x has shape"):
        prepared(x[:, :1])
