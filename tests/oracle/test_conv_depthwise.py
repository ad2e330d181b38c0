"""Depthwise and planar convolution: values, memory and operation counts."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_convolutions import Data, data_for, error_of, truth

from convsmith.conv import plan as planning
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.plan import ConvPlan, Prepared, candidates
from convsmith.conv.spec import LAYOUTS, ConvSpec
from convsmith.kernel.target import WIDTHS, host

Array = npt.NDArray[Any]

NAMES = ("depthwise", "planar")
ONE = ((1, 1), (1, 1))


def of(**values: Any) -> dict[str, Any]:
    """What makes a spec."""
    return values


SPECS: dict[str, dict[str, Any]] = {
    "mobile": of(size=(28, 17), groups=32, kernel=(3, 3), padding=ONE, batch=2, residual=True,
                   activation="relu"),
    "tail": of(size=(7, 9), groups=5, kernel=(3, 3), padding=ONE),
    "small": of(size=(7, 7), groups=20, kernel=(3, 3), padding=ONE, activation="relu6"),
    "halved": of(size=(14, 14), groups=17, kernel=(5, 5), padding=((2, 2),) * 2, stride=(2, 2)),
    "double": of(size=(30, 31), groups=20, multiplier=2, kernel=(5, 5), stride=(2, 2),
                   padding=((2, 2), (3, 3))),
    "triple": of(size=(20, 33), groups=8, multiplier=3, kernel=(7, 1), bias=False,
                   padding=((2, 1), (0, 0))),
    "even": of(size=(20, 23), groups=17, kernel=(2, 4), padding=((0, 1), (0, 2)), bias=False,
                 residual=True, activation="silu"),
    "large": of(size=(14, 14), groups=18, kernel=(31, 31), padding=((15, 15),) * 2),
    "lopsided": of(size=(15, 44), groups=16, multiplier=2, kernel=(9, 13),
                     padding=((9, 4), (1, 14)), batch=3),
    "strided": of(size=(25, 24), groups=16, kernel=(11, 9), stride=(2, 2),
                    padding=((5, 4), (3, 4))),
    "atrous": of(size=(19, 21), groups=6, kernel=(3, 3), padding=((6, 6),) * 2, dilation=(6, 5)),
    "outside": of(size=(3, 2), groups=4, kernel=(3, 3), padding=((7, 5), (4, 9))),
    "line": of(size=(40,), groups=8, kernel=(5,), padding=((2, 1),)),
    "long": of(size=(700,), groups=4, kernel=(31,), padding=((15, 15),)),
    "volume": of(size=(5, 9, 8), groups=6, kernel=(3, 3, 3), stride=(2, 1, 2),
                   dilation=(1, 2, 1), padding=((1, 1), (2, 2), (0, 1)), batch=2),
    "deep": of(size=(6, 9, 8), groups=16, kernel=(2, 9, 8), padding=((1, 1), (4, 4), (0, 1))),
    "cube": of(size=(3, 5, 6), groups=6, kernel=(2, 2, 2), padding=((1, 1), (1, 1), (1, 0))),
    "image": of(size=(33, 70), groups=1, channels=3, filters=16, kernel=(7, 7), stride=(2, 2),
                  padding=((3, 3),) * 2),
    "few": of(size=(20, 37), groups=1, channels=9, filters=3, kernel=(3, 3), padding=ONE),
    "odd": of(size=(20, 37), groups=1, channels=9, filters=13, kernel=(3, 3), padding=ONE),
    "cardinal": of(size=(7, 6), groups=2, channels=8, filters=12, kernel=(3, 3),
                     padding=((2, 1), (1, 0)), batch=3, residual=True, activation="hardswish"),
    "leaping": of(size=(9, 70), groups=1, channels=2, filters=4, kernel=(3, 3), stride=(2, 4),
                    dilation=(2, 3), padding=((3, 2), (4, 3))),
}  # fmt: skip


def spec_of(name: str, layout: Any) -> ConvSpec:
    """One of the convolutions above; without channels it is depthwise."""
    values = dict(SPECS[name])
    groups = values["groups"]
    values.setdefault("channels", groups)
    values.setdefault("filters", groups * values.pop("multiplier", 1))
    return ConvSpec(layout=layout, **values)


def plans(name: str, layout: Any, lanes: int = 16) -> list[ConvPlan]:
    target = host().with_lanes(lanes)
    return [p for p in candidates(spec_of(name, layout), target=target) if p.algorithm in NAMES]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "workspace_poison", float("nan"))


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("name", SPECS)
def test_both_layouts_match_torch_in_double_precision(name: str, lanes: int) -> None:
    tried = 0
    for layout in LAYOUTS:
        data = data_for(spec_of(name, layout))
        for made in plans(name, layout, lanes)[: 2 if lanes == 16 else 1]:
            y = made.prepare(data.weights, data.bias)(data.x, residual=data.residual)
            assert error_of(made, data, y) <= 1, made
            tried += 1
    assert tried


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_weight_is_noticed(layout: Any) -> None:
    """The comparison above can fail: one weight of 31 x 31 a little off."""
    made = plans("large", layout)[0]
    data = data_for(made.spec)
    weights = data.weights.copy()
    weights[3, 0, 15, 15] += 0.01
    assert error_of(made, data, made.prepare(weights, data.bias)(data.x)) > 1


@pytest.mark.parametrize("name", SPECS)
def test_the_same_bits_on_any_number_of_threads_and_images(name: str) -> None:
    for layout in LAYOUTS:
        for made in plans(name, layout)[:1]:
            data = data_for(made.spec)
            prepared = made.prepare(data.weights, data.bias)
            one = prepared(data.x, residual=data.residual, members=1)
            for members in (2, 3, 4):
                again = prepared(data.x, residual=data.residual, members=members)
                assert again.tobytes() == one.tobytes(), made
            for images in (0, 1):
                residual = None if data.residual is None else data.residual[:images]
                part = prepared(data.x[:images], residual=residual)
                assert part.tobytes() == one[:images].tobytes(), made


@pytest.mark.parametrize("name", ["tail", "small", "triple"])
def test_the_residual_may_be_the_output(name: str) -> None:
    """Nothing is stored twice, or read after it was stored."""
    for layout in LAYOUTS:
        spec = replace(spec_of(name, layout), residual=True)
        for made in candidates(spec):
            if made.algorithm not in NAMES or made.tiling != plans(name, layout)[0].tiling:
                continue
            data = data_for(spec)
            prepared = made.prepare(data.weights, data.bias)
            apart = prepared(data.x, residual=data.residual)
            assert data.residual is not None
            out = data.residual.copy()
            assert prepared(data.x, out, residual=out).tobytes() == apart.tobytes(), made


# Memory -------------------------------------------------------------------------------------


class Guarded:
    """Memory between two pages that nobody may touch; touching them kills the process."""

    def __init__(self, elements: int, *, at_end: bool) -> None:
        page = mmap.PAGESIZE
        room = -(-max(elements, 1) * 4 // page) * page
        self.memory = mmap.mmap(-1, room + 2 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for address in (base, base + page + room):
            assert protect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0) == 0
        self.start = page + (room - 4 * elements if at_end else 0)
        self.address = base + self.start
        self.values = np.frombuffer(self.memory, np.float32, elements, self.start)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for pages that cannot be read")
@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("name", SPECS)
def test_nothing_outside_the_tensors_is_touched(name: str, lanes: int) -> None:
    """Input, output, weights, residual and workspace each end, or begin, at a forbidden page."""
    for layout in LAYOUTS:
        for made in plans(name, layout, lanes)[:1]:
            for at_end in (False, True):
                _run_guarded(made, at_end=at_end)


def _run_guarded(made: ConvPlan, *, at_end: bool) -> None:
    spec = made.spec
    data = data_for(spec)
    prepared = made.prepare(data.weights, data.bias)
    x, y, weights, bias, residual, workspace = (
        Guarded(elements, at_end=at_end)
        for elements in (
            data.x.size, math.prod(spec.output_shape), prepared._weights.size,
            prepared._bias.size, math.prod(spec.output_shape),
            made.lowered.workspace(spec.batch, 1),
        )
    )  # fmt: skip
    x.values[:] = data.x.reshape(-1)
    weights.values[:] = prepared._weights
    bias.values[:] = prepared._bias
    workspace.values.fill(np.nan)
    if data.residual is not None:
        residual.values[:] = data.residual.reshape(-1)
    # The kernel itself: what run_addresses hands over, from other places.
    arguments = np.array(
        [x.address, y.address, weights.address, bias.address, residual.address, workspace.address,
         spec.batch, 0], np.int64,
    )  # fmt: skip
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    for name, items in made.lowered.phases(spec.batch):
        function = kernel(prepared._code.address(name))
        for item in range(items):
            function(arguments.ctypes.data, item, 0)
    found = y.values.reshape(spec.output_shape)
    assert error_of(made, data, found) <= 1, made
    np.testing.assert_array_equal(x.values, data.x.reshape(-1))
    np.testing.assert_array_equal(weights.values, prepared._weights)


@pytest.mark.parametrize("name", SPECS)
def test_nothing_around_the_tensors_is_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = np.float32(-7.25e20)
    for layout in LAYOUTS:
        for made in plans(name, layout)[:1]:
            spec, data = made.spec, data_for(made.spec)
            prepared = made.prepare(data.weights, data.bias)
            around = {
                "y": math.prod(spec.output_shape),
                "x": data.x.size,
                "w": prepared._weights.size,
                "workspace": made.lowered.workspace(spec.batch, 4),
            }
            buffers = {key: np.full(size + 256, pattern) for key, size in around.items()}
            parts = {key: buffers[key][129:][:size] for key, size in around.items()}
            parts["x"][:] = data.x.reshape(-1)
            parts["w"][:] = prepared._weights
            parts["workspace"][:] = np.nan
            monkeypatch.setattr(prepared, "_weights", parts["w"])
            monkeypatch.setattr(planning, "_workspace", lambda _, held=parts["workspace"]: held)
            y = parts["y"].reshape(spec.output_shape)
            prepared(parts["x"].reshape(spec.input_shape), y, residual=data.residual, members=4)
            assert error_of(made, data, y) <= 1, made
            for key, size in around.items():
                edges = np.concatenate([buffers[key][:129], buffers[key][129 + size :]])
                assert np.all(edges == pattern), f"{key} of {made}"
            monkeypatch.undo()
            monkeypatch.setattr(planning, "workspace_poison", float("nan"))


# What is promised ---------------------------------------------------------------------------


def counted_taps(spec: ConvSpec) -> int:
    """Products with an element of the input, counted one by one, axis by axis."""
    total = spec.batch * spec.filters * (spec.channels // spec.groups)
    for n, k, s, d, (before, _), outputs in zip(
        spec.size, spec.kernel, spec.stride, spec.dilation, spec.padding, spec.output, strict=True
    ):
        total *= sum(
            0 <= output * s + tap * d - before < n for output in range(outputs) for tap in range(k)
        )
    return total


@pytest.mark.parametrize("name", SPECS)
def test_operations_are_the_products_with_the_input(name: str) -> None:
    for layout in LAYOUTS:
        for made in plans(name, layout):
            spec = made.spec
            if made.algorithm == "planar" or made.tiling.source == "padded":
                # Columns of the padding are multiplied too: count them as part of the input.
                wide = (spec.size[-1] + sum(spec.padding[-1]),)
                spec = replace(
                    spec, size=spec.size[:-1] + wide, padding=(*spec.padding[:-1], (0, 0))
                )
            assert made.operations.mults == counted_taps(spec), made
            assert made.operations.mults <= spec.macs


def test_a_large_kernel_on_a_small_map_skips_most_of_its_padding() -> None:
    spec = ConvSpec(
        size=(14, 14), channels=16, filters=16, groups=16, kernel=(31, 31),
        padding=((15, 15),) * 2,
    )  # fmt: skip
    made = next(p for p in candidates(spec) if p.algorithm == "depthwise")
    # Every output sees the whole map: 196 of 961 taps.
    assert made.operations.mults == 16 * 196 * 196
    assert spec.macs == 16 * 196 * 961


@pytest.mark.parametrize("name", ["tail", "small", "lopsided", "large", "volume", "odd"])
def test_errors_stay_under_the_bound(name: str) -> None:
    for layout in LAYOUTS:
        for made in plans(name, layout)[:1]:
            spec = replace(made.spec, activation="none", residual=False)
            made = replace(made, spec=spec)
            data = data_for(spec)
            badly = Data(
                x=np.abs(data.x) * np.float32(1e4), weights=data.weights, bias=data.bias,
                residual=None,
            )  # fmt: skip
            for each in (replace(data, residual=None), badly):
                y = made.prepare(each.weights, each.bias)(each.x)
                error = np.abs(y - truth(spec, each))
                assert np.all(error <= made.error_bound * truth(spec, each, sums=True)), made


@pytest.mark.parametrize("name", SPECS)
def test_the_reference_is_the_convolution(name: str) -> None:
    for layout in LAYOUTS:
        for made in plans(name, layout)[:1]:
            spec = replace(made.spec, activation="none", residual=False, bias=False)
            data = replace(data_for(spec), residual=None)
            y = made.method.reference(
                spec, data.x.astype(np.float64), data.weights.astype(np.float64), made.tiling
            )
            np.testing.assert_allclose(y, truth(spec, data), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["mobile", "small", "lopsided", "strided", "volume", "odd"])
def test_a_nan_reaches_what_its_products_reach(name: str) -> None:
    for layout in LAYOUTS:
        for made in plans(name, layout)[:2]:
            spec = replace(made.spec, activation="none", residual=False)
            made = replace(made, spec=spec)
            assert set(made.spread) == {1}
            data = replace(data_for(spec), residual=None)
            spots = np.random.default_rng(1).choice(data.x.size, 2, replace=False)
            data.x.reshape(-1)[spots] = np.nan, np.inf
            y = made.prepare(data.weights, data.bias)(data.x)
            np.testing.assert_array_equal(
                np.isfinite(y), np.isfinite(truth(spec, data)), err_msg=str(made)
            )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (of(groups=1), "one channel each"),
        (of(channels=2, filters=2, groups=2), "fewer than 4 channels"),
        (of(filters=9 * 16), "more than 8 filters per channel"),
    ],
)
def test_depthwise_says_what_it_does_not_take(changes: dict[str, Any], reason: str) -> None:
    spec = replace(
        ConvSpec(size=(9, 9), channels=16, filters=16, groups=16, kernel=(3, 3)), **changes
    )
    assert reason in ALGORITHMS["depthwise"].refuses(spec)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (of(layout="channels_last"), "channels first"),
        (of(filters=17), "more than 16 filters"),
        (of(stride=(1, 5)), "stride over 4"),
        (of(size=(9, 5)), "fewer than 4 output columns"),
        (of(size=(9, 99), kernel=(1, 65)), "more than 64 kernel columns"),
    ],
)
def test_planar_says_what_it_does_not_take(changes: dict[str, Any], reason: str) -> None:
    spec = ConvSpec(size=(9, 40), channels=4, filters=4, kernel=(3, 3))
    assert ALGORITHMS["planar"].refuses(spec) == ""
    assert reason in ALGORITHMS["planar"].refuses(replace(spec, **changes))


def test_prepared_keeps_what_the_memory_tests_take_hold_of() -> None:
    made = plans("tail", "channels_last")[0]
    data = data_for(made.spec)
    prepared = made.prepare(data.weights, data.bias)
    assert isinstance(prepared, Prepared)
    assert prepared._weights.size == made.lowered.pack(data.weights).size
