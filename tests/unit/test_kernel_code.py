"""What the words of the kernel language compute, at every vector width, against NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from convsmith.errors import UsageError
from convsmith.kernel.emit import Code, Unit
from convsmith.kernel.machine import compiled
from convsmith.kernel.moving import copy, gather_row_first, gather_row_last, transpose, zero
from convsmith.kernel.target import WIDTHS, host
from convsmith.kernel.threads import Program, run
from convsmith.kernel.tile import Tile, activate

Array = NDArray[np.float32]
GUARD = np.float32(-77.0)


def call(name: str, lanes: int, body: Callable[[Code], None], *arrays: Array) -> None:
    """Compiles a body and runs it once on arrays."""

    def write(unit: Unit) -> None:
        with unit.kernel("body") as code:
            body(code)

    code = compiled(f"test code {name} {lanes}", host().with_lanes(lanes), ("body",), write)
    arguments = np.array([array.ctypes.data for array in arrays])
    run(Program([(code.address("body"), arguments.ctypes.data, 1)]), 1)


def guarded(count: int) -> tuple[Array, Array]:
    """Returns an array between guards, and all of it."""
    whole = np.full(count + 128, GUARD, np.float32)
    return whole[64 : 64 + count], whole


def intact(whole: Array) -> bool:
    return bool((whole[:64] == GUARD).all() and (whole[-64:] == GUARD).all())


def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_transpose(lanes: int) -> None:
    for rows in (1, 3, lanes):
        x = numbers(rows, lanes)
        y, whole = guarded(lanes * lanes)

        def body(code: Code, rows: int = rows) -> None:
            loaded = [code.pointer(0).load(lanes, r * lanes) for r in range(rows)]
            for c, column in enumerate(transpose(code, loaded, lanes)):
                code.pointer(1).store(column, c * lanes)

        call(f"transpose {rows}", lanes, body, x, y)
        made = y.reshape(lanes, lanes)
        assert (made[:, :rows] == x.T).all()
        assert not made[:, rows:].any()
        assert intact(whole)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 5, 16, 63, 64, 65, 131])
def test_copy_and_zero_touch_nothing_else(lanes: int, count: int) -> None:
    x = numbers(max(count, 1))
    for dynamic in (False, True):
        y, whole = guarded(count)

        def body(code: Code, dynamic: bool = dynamic) -> None:
            many = code.word(2) if dynamic else count
            copy(code, code.pointer(0), code.pointer(1), many, lanes)

        holder = np.zeros(1, np.float32)
        _call_with_word(f"copy {count} {dynamic}", lanes, body, x, y, word=count)
        assert (y == x[:count]).all()
        assert intact(whole)

        def clear(code: Code, dynamic: bool = dynamic) -> None:
            zero(code, code.pointer(1), code.word(2) if dynamic else count, lanes)

        _call_with_word(f"zero {count} {dynamic}", lanes, clear, holder, y, word=count)
        assert not y.any()
        assert intact(whole)


def _call_with_word(
    name: str, lanes: int, body: Callable[[Code], None], x: Array, y: Array, *, word: int
) -> None:
    def write(unit: Unit) -> None:
        with unit.kernel("body") as code:
            body(code)

    code = compiled(f"test code {name} {lanes}", host().with_lanes(lanes), ("body",), write)
    arguments = np.array([x.ctypes.data, y.ctypes.data, word])
    run(Program([(code.address("body"), arguments.ctypes.data, 1)]), 1)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize(("channels", "width"), [(1, 1), (3, 37), (16, 16), (20, 33), (33, 5)])
def test_rows_are_gathered_from_both_layouts(lanes: int, channels: int, width: int) -> None:
    pitch = -(-channels // lanes) * lanes
    planes, pixels = numbers(channels, width + 3), numbers(width, channels + 2)
    for dynamic in (False, True):
        y, whole = guarded(width * pitch)

        def first(code: Code, dynamic: bool = dynamic) -> None:
            gather_row_first(
                code, code.pointer(0), code.pointer(1), width=code.word(2) if dynamic else width,
                channels=channels, plane=width + 3, pitch=pitch, lanes=lanes,
            )  # fmt: skip

        _call_with_word(f"first {channels} {width} {dynamic}", lanes, first, planes, y, word=width)
        made = y.reshape(width, pitch)
        assert (made[:, :channels] == planes[:, :width].T).all()
        assert not made[:, channels:].any()
        assert intact(whole)

        def last(code: Code, dynamic: bool = dynamic) -> None:
            gather_row_last(
                code, code.pointer(0), code.pointer(1), width=code.word(2) if dynamic else width,
                channels=channels, pixel=channels + 2, pitch=pitch, lanes=lanes,
            )  # fmt: skip

        _call_with_word(f"last {channels} {width} {dynamic}", lanes, last, pixels, y, word=width)
        made = y.reshape(width, pitch)
        assert (made[:, :channels] == pixels[:, :channels]).all()
        assert not made[:, channels:].any()
        assert intact(whole)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize(("rows", "vectors", "steps"), [(1, 1, 1), (3, 2, 7), (14, 2, 64)])
def test_a_tile_is_a_matrix_product(lanes: int, rows: int, vectors: int, steps: int) -> None:
    a, b = numbers(rows, steps), numbers(steps, vectors * lanes)
    y, whole = guarded(rows * vectors * lanes)

    def body(code: Code) -> None:
        tile = Tile(code, rows, vectors, lanes)
        tile.accumulate(code.pointer(0), [r * steps for r in range(rows)], code.pointer(1), steps)
        tile.finish(lambda r, v, value: code.pointer(2).store(value, (r * vectors + v) * lanes))

    call(f"tile {rows} {vectors} {steps}", lanes, body, a, b, y)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert np.abs(y.reshape(rows, -1) - exact).max() <= 1e-6 * steps
    assert intact(whole)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("kind", ["relu", "relu6", "silu", "hardswish"])
def test_activations_of_every_kind_of_number(lanes: int, kind: str) -> None:
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38]
    x = np.array([*special, *np.linspace(-120, 120, 1600 - len(special))], np.float32)
    y = np.empty_like(x)

    def body(code: Code) -> None:
        for i in code.range(0, len(x), lanes):
            code.pointer(1).store(activate(code, kind, code.pointer(0).load(lanes, i)), i)

    call(kind, lanes, body, x, y)
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        exact = {
            "relu": np.maximum(wide, 0),
            "relu6": np.clip(wide, 0, 6),
            "silu": wide / (1 + np.exp(-wide)),
            "hardswish": wide * np.clip(wide + 3, 0, 6) / 6,
        }[kind]
        single = exact.astype(np.float32)
        close = np.isclose(y, single, rtol=5e-7, atol=1e-36, equal_nan=True)
    assert close.all(), (x[~close][:5], y[~close][:5], exact[~close][:5])


def test_values_that_do_not_fit_are_refused_when_written() -> None:
    unit = Unit()
    with unit.kernel("body") as code:
        with pytest.raises(TypeError, match="of <8 x float> and <4 x float>"):
            code.pointer(0).load(8) + code.pointer(0).load(4)
        with pytest.raises(TypeError, match="no such operation on i64"):
            code.item / 2
        with pytest.raises(TypeError, match="a variable of i64 cannot hold float"):
            code.variable(code.integer(0)).set(code.scalar(1.0))


def test_loops_nest_and_carry() -> None:
    y = np.zeros(1, np.float32)

    def body(code: Code) -> None:
        total = code.variable(code.scalar(0.0))
        for i in code.range(5):
            for j in code.range(i, 5):
                with code.when(((i + j) % 2).equals(0)):
                    total.set(total.get() + 1.0)
                with code.unless(((i + j) % 2).equals(0)):
                    total.set(total.get() + 100.0)
        code.pointer(0).store(total.get())

    call("loops", 4, body, y)
    pairs = [(i + j) % 2 == 0 for i in range(5) for j in range(i, 5)]
    assert y[0] == math.fsum(1 if even else 100 for even in pairs)


def test_a_width_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there are no kernels of 7 lanes; choose one of 16, 8, 4"):
        host().with_lanes(7)
    monkeypatch.setenv("CONVSMITH_LANES", "wide")
    with pytest.raises(UsageError, match="CONVSMITH_LANES is 'wide'"):
        host.__wrapped__()
    monkeypatch.setenv("CONVSMITH_LANES", "8")
    assert host.__wrapped__().lanes == 8
