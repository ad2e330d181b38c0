"""``conv1d``, ``conv2d``, ``conv3d``: arguments, types, layouts, and clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it

import convsmith as cs
from convsmith.errors import ConvsmithError, UsageError

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 4, 9, 8), np.float32)
W = RANDOM.standard_normal((6, 2, 3, 3), np.float32)
B = RANDOM.standard_normal(6, np.float32)


def torchs(x: Any, w: Any, b: Any = None, **options: Any) -> Any:
    made = F.conv2d(
        torch.from_numpy(x), torch.from_numpy(w), None if b is None else torch.from_numpy(b),
        **options,
    )  # fmt: skip
    return made.numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"stride": (2, 1), "padding": (1, 0)},
        {"padding": "same", "dilation": (2, 1)},
        {"padding": "valid"},
    ],
)
def test_options_are_those_of_torch(options: dict[str, Any]) -> None:
    made = cs.conv2d(X, W, B, groups=2, **options)
    np.testing.assert_allclose(made, torchs(X, W, B, groups=2, **options), rtol=1e-5, atol=1e-5)


def test_asymmetric_padding_and_layouts_agree() -> None:
    padded = np.pad(X, ((0, 0), (0, 0), (1, 2), (0, 3)))
    wanted = torchs(padded, W, groups=2)
    made = cs.conv2d(X, W, padding=((1, 2), (0, 3)), groups=2)
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)
    last = cs.conv2d(
        np.moveaxis(X, 1, -1), W, padding=((1, 2), (0, 3)), groups=2, layout="channels_last"
    )
    np.testing.assert_allclose(np.moveaxis(last, -1, 1), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int64, np.int32])
def test_other_types_keep_theirs(kind: Any) -> None:
    x, w = (8 * X).astype(kind), (8 * W).astype(kind)
    made = cs.conv2d(x, w, groups=2, activation="relu")
    assert made.dtype == kind
    wanted = np.maximum(torchs(x.astype(np.float64), w.astype(np.float64), groups=2), 0)
    np.testing.assert_allclose(made, wanted, rtol=2e-3 if kind == np.float16 else 1e-12, atol=0.5)


def test_results_go_where_they_are_wanted() -> None:
    out = np.empty((2, 6, 7, 6), np.float32)
    assert cs.conv2d(X, W, groups=2, out=out) is out
    np.testing.assert_array_equal(out, cs.conv2d(X, W, groups=2))
    tensor = torch.empty(2, 6, 7, 6)
    x, w = torch.from_numpy(X), torch.from_numpy(W)
    assert cs.conv2d(x, w, groups=2, out=tensor) is tensor
    np.testing.assert_array_equal(tensor.numpy(), out)


def test_inputs_in_any_order_of_memory() -> None:
    turned = np.asfortranarray(X)
    np.testing.assert_array_equal(cs.conv2d(turned, W, groups=2), cs.conv2d(X, W, groups=2))
    tensor = torch.from_numpy(X)
    made = cs.conv2d(tensor.to(memory_format=torch.channels_last), torch.from_numpy(W), groups=2)
    assert made.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(made.numpy(), torchs(X, W, groups=2), rtol=1e-5, atol=1e-5)


T = torch.from_numpy(X)


@pytest.mark.parametrize(
    ("x", "w", "options", "message"),
    [
        (X.tolist(), W, {}, "x is list, not a NumPy array or a torch tensor; convert it first."),
        (X, W.tolist(), {}, "w is list, not a NumPy array or a torch tensor; convert it first."),
        (T, W, {}, "x is a tensor, and with it comes a ndarray; pass all as torch tensors"),
        (X[0], W, {}, "x has shape (4, 9, 8), not 4 axes; conv2d takes a batch of images"),
        (T[0], torch.from_numpy(W), {}, "a tensor has shape (4, 9, 8), not 4 axes"),
        (X, W, {}, "w has 2 channels per group, x 4 in 1 groups; w is (filters,"),
        (X, W, {"groups": 2, "stride": (1, 1, 1)}, "stride (1, 1, 1) has 3 entries for 2 axes"),
        (X, W, {"groups": 2, "padding": "full"}, "there is no padding 'full'; give numbers"),
        (X, W, {"groups": 2, "padding": "same", "stride": 2}, "padding 'same' with a stride"),
        (X, W, {"groups": 2, "padding": (1,)}, "padding (1,) has 1 entries for 2 axes"),
        (X, W.astype("f8"), {"groups": 2}, "x is float32 and w float64; pass both as the same"),
        (X + 1j, W + 1j, {"groups": 2}, "x is complex64 and w complex64; pass both as the same"),
        (T.to("meta"), T, {}, "a tensor is on meta; convsmith runs on the CPU: pass tensor.cpu()"),
        (T.bfloat16(), T.bfloat16(), {}, "a tensor of torch.bfloat16 cannot be read as an array"),
    ],
)  # fmt: skip
def test_wrong_calls_are_refused(x: Any, w: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvsmithError) as caught:
        cs.conv2d(x, w, **options)
    assert message in str(caught.value)


def test_gradients_are_not_dropped_in_silence() -> None:
    with pytest.raises(UsageError, match="requires a gradient, and this call records none; pass"):
        cs.conv2d(T.clone().requires_grad_(True), torch.from_numpy(W), groups=2)


def test_integers_have_no_smooth_activation() -> None:
    with pytest.raises(ConvsmithError, match="silu of integers; convert x and w to a float type"):
        cs.conv2d(X.astype(int), W.astype(int), groups=2, activation="silu")
