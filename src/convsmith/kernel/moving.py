"""Moving tensors between layouts: transposes in registers, zeroing, rows with their padding."""

from __future__ import annotations

from collections.abc import Sequence

from convsmith.kernel.emit import Code, Value

__all__ = ["copy", "gather_row_first", "gather_row_last", "load_spaced", "transpose", "zero"]


def transpose(code: Code, rows: Sequence[Value], lanes: int) -> list[Value]:
    """Returns the columns of a matrix given by its rows.

    Args:
        code: Where to write.
        rows: Up to ``lanes`` vectors of ``lanes`` lanes; missing ones count as zeros.
        lanes: A power of two.

    Returns:
        ``lanes`` vectors; lane r of vector c is lane c of row r. log2(lanes) rounds of shuffles
        (Eklundh 1972).
    """
    zeros = code.splat(0.0, lanes)
    now = [*rows, *[zeros] * (lanes - len(rows))]
    half = lanes // 2
    while half:
        low = [i + (lanes if i & half else 0) - (half if i & half else 0) for i in range(lanes)]
        high = [i + (lanes if i & half else half) for i in range(lanes)]
        after = list(now)
        for r in range(lanes):
            if not r & half:
                after[r] = code.shuffle(now[r], now[r + half], low)
                after[r + half] = code.shuffle(now[r], now[r + half], high)
        now = after
        half //= 2
    return now


def zero(code: Code, place: Value, count: int | Value, lanes: int) -> None:
    """Writes ``count`` zeros."""
    nothing = code.splat(0.0, lanes)
    if isinstance(count, int):
        whole = count // lanes * lanes
        for i in code.range(0, whole, lanes):
            place.store(nothing, i)
        place.store_first(nothing, count - whole, whole)
        return
    for i in code.range(0, count, lanes):
        place.store_first(nothing, count - i, i)


def copy(code: Code, source: Value, place: Value, count: int | Value, lanes: int) -> None:
    """Copies ``count`` elements; nothing else is read or written."""
    if isinstance(count, Value):
        for i in code.range(0, count, lanes):
            left = count - i
            place.store_first(source.load_first(left, lanes, i), left, i)
        return
    four = 4 * lanes
    wide = count // four * four
    for i in code.range(0, wide, four):
        for u in range(4):
            place.store(source.load(lanes, i + u * lanes), i + u * lanes)
    whole = count // lanes * lanes
    for i in code.range(wide, whole, lanes):
        place.store(source.load(lanes, i), i)
    place.store_first(source.load_first(count - whole, lanes, whole), count - whole, whole)


def load_spaced(
    code: Code, source: Value, count: int, lanes: int, step: int, offset: int | Value = 0
) -> Value:
    """Returns a vector of ``count`` elements that lie ``step`` apart, zeros behind them.

    Args:
        code: Where to write.
        source: Where the element of index 0 lies.
        count: How many; nothing behind the last one is read.
        lanes: Vector width.
        step: Elements from one to the next.
        offset: The index of the first one; it lies ``offset * step`` elements from ``source``.
    """
    at = source.at(offset * step)
    if step == 1:
        return at.load_first(count, lanes)
    if step == 2 and count:
        span = 2 * count - 1
        low = at.load_first(min(span, lanes), lanes)
        high = at.load_first(max(span - lanes, 0), lanes, lanes)
        return code.shuffle(low, high, range(0, 2 * lanes, 2))
    made = code.splat(0.0, lanes)
    for i in range(count):
        one = at.load(1, i * step)
        made = code.assign(
            made.kind, f"insertelement {made.kind} {made.name}, float {one.name}, i64 {i}"
        )
    return made


def gather_row_last(
    code: Code, source: Value, place: Value, *, width: int | Value, channels: int, pixel: int,
    pitch: int, lanes: int,
) -> None:  # fmt: skip
    """Copies one row of pixels whose channels lie together.

    Args:
        code: Where to write.
        source: The row; its pixels lie ``pixel`` elements apart.
        place: Where it goes; its pixels lie ``pitch`` elements apart.
        width: Pixels.
        channels: Elements to take per pixel; zeros follow up to ``pitch``.
        pixel: Elements from one pixel of the source to the next.
        pitch: Elements from one pixel of the copy to the next.
        lanes: Vector width.
    """
    if pixel == channels == pitch:
        copy(code, source, place, width * channels, lanes)
        return
    for i in code.range(width):
        copy(code, source.at(i * pixel), place.at(i * pitch), channels, lanes)
        zero(code, place.at(i * pitch + channels), pitch - channels, lanes)


def gather_row_first(
    code: Code, source: Value, place: Value, *, width: int | Value, channels: int, plane: int,
    pitch: int, lanes: int, step: int = 1,
) -> None:  # fmt: skip
    """Copies one row of ``channels`` planes into pixels whose channels lie together.

    Args:
        code: Where to write.
        source: The row in the first plane.
        place: Where it goes; its pixels lie ``pitch`` elements apart.
        width: Pixels.
        channels: Planes; zeros follow up to ``pitch`` or the next multiple of ``lanes``.
        plane: Elements from one plane to the next.
        pitch: Elements from one pixel of the copy to the next.
        lanes: Vector width.
        step: Pixels of the source from one to the next that is taken.
    """

    def block(first_channel: int | Value, count: int) -> None:
        planes = source.at(first_channel * plane)
        pixels = place.at(first_channel)
        stored = lanes if count == lanes or pitch >= -(-channels // lanes) * lanes else count

        def columns(first: int | Value, wide: int) -> None:
            to = pixels.at(first * pitch)
            if wide == 1:  # a transpose would be for one column
                for c in range(count):
                    to.store(planes.at(c * plane).load(1, first * step), c)
                zero(code, to.at(count), stored - count, lanes)
                return
            rows = [
                load_spaced(code, planes.at(c * plane), wide, lanes, step, first)
                for c in range(count)
            ]
            for i, pixel in enumerate(transpose(code, rows, lanes)[:wide]):
                to.store_first(pixel, stored, i * pitch)

        if isinstance(width, int):
            whole = width // lanes * lanes
            for w in code.range(0, whole, lanes):
                columns(w, lanes)
            if width > whole:
                columns(whole, width - whole)
            return
        # The last columns go with some that were copied already.
        enough = width >= lanes
        with code.when(enough):
            for w in code.range(0, width, lanes):
                columns(code.smaller(w, width - lanes), lanes)
        with code.unless(enough):
            for w in code.range(width):
                for c in range(count):
                    pixels.store(planes.load(1, w * step + c * plane), w * pitch + c)
                zero(code, pixels.at(w * pitch + count), stored - count, lanes)

    whole = channels // lanes * lanes
    for c in code.range(0, whole, lanes):
        block(c, lanes)
    if channels > whole:
        block(whole, channels - whole)
