"""Numbers, names and receptive fields in few characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len

from convsmith.analysis import Field
from convsmith.graph import Shape, shape_text

__all__ = [
    "bar",
    "binary",
    "change",
    "encodable",
    "exact",
    "field",
    "intensity",
    "offsets",
    "pixels",
    "plain",
    "shape",
    "short",
    "shorten",
    "strides",
]

_UNITS = ("", "k", "M", "G", "T", "P", "E")
_EIGHTHS = " ▏▎▍▌▋▊▉"


def exact(count: int) -> str:
    """All digits, in groups of three.

    >>> exact(1234567)
    '1,234,567'
    """
    return f"{count:,}"


def short(count: int) -> str:
    """Three digits and a unit; small numbers exactly.

    >>> short(9472), short(118013952), short(999999)
    ('9,472', '118 M', '1.00 M')
    """
    return exact(count) if count < 10_000 else _scaled(count, 1000, _UNITS, "")


def intensity(operations: float | None) -> str:
    """Operations per byte in two or three digits.

    >>> intensity(0.125), intensity(45.119), intensity(1234.5), intensity(0.0), intensity(None)
    ('0.12', '45.1', '1,234', '0', '-')
    """
    if operations is None:
        return "-"
    digits = 2 if operations < 9.995 else 1 if operations < 99.95 else 0
    return f"{operations:,.{digits}f}" if operations else "0"


def binary(count: int) -> str:
    """Bytes in three digits and a unit.

    >>> binary(512), binary(553430176)
    ('512 B', '528 MiB')
    """
    return f"{count} B" if count < 1024 else _scaled(count, 1024, _UNITS, "iB").replace("k", "K")


def _scaled(count: int, base: int, units: Sequence[str], suffix: str) -> str:
    scaled, power = float(count), 0
    while scaled >= 999.5 and power + 1 < len(units):
        scaled /= base
        power += 1
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:,.{digits}f} {units[power]}{suffix}"


def change(before: float, after: float) -> str:
    """How much more or less, in percent.

    >>> change(200, 100), change(3, 3), change(0, 1), change(100_000, 99_999)
    ('-50.0 %', 'same', '', '-0.0 %')
    """
    if before == after:
        return "same"
    return f"{100 * (after - before) / before:+.1f} %" if before else ""


def shape(sizes: Shape | None) -> str:
    """A shape in the notation; square images with one number.

    >>> shape((1, 64, 112, 112)), shape((1, 1000))
    ('64@112', '1x1000')
    """
    if sizes is None:
        return "?"
    if len(sizes) == 4 and sizes[2] == sizes[3]:
        return shape_text(sizes).rpartition("x")[0]
    if len(sizes) < 4:
        return "x".join(map(str, sizes)) or "scalar"
    return shape_text(sizes)


def _axes(values: Sequence[object]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def field(seen: Field) -> str:
    """A receptive field: ``7``, ``1x7``, ``≤ 9``, ``all``, ``39 + all`` or ``?``."""
    known = [axis for axis in seen.axes if axis is not None]
    if len(known) < len(seen.axes) or not known:
        return {"unknown": "?", "upper-bound": "≤ all"}.get(seen.status, "-")
    if seen.status == "global":
        return "all"
    size = _axes([axis.size for axis in known])
    bound = "≤ " if seen.status == "upper-bound" else ""
    return f"{bound}{size}{' + all' if seen.is_global else ''}"


def pixels(seen: Field) -> str:
    """A receptive field with its unit: ``31 x 31 pixels``, ``the whole input``."""
    shown = field(seen)
    if shown == "all":
        return "the whole input"
    if shown in ("?", "-"):
        return "an unknown part of the input" if shown == "?" else "nothing of the input"
    if shown.replace("≤ ", "").isdigit() and len(seen.axes) == 2:
        number = shown.split()[-1]
        return f"{shown} x {number} pixels"
    return f"{shown} pixels"


def strides(seen: Field) -> str:
    """How far the field moves from one output to the next: ``2``, ``1/2``, ``1x2``."""
    return _moving(seen, seen.stride)


def offsets(seen: Field) -> str:
    """The first pixel that output 0 sees: ``-3``, ``-3, 0``."""
    text = _moving(seen, seen.offset)
    return text.replace("x", ", ")


def _moving(seen: Field, values: Sequence[object]) -> str:
    known = [axis for axis in seen.axes if axis is not None]
    if len(known) < len(seen.axes) or not known:
        return "?"
    return "-" if all(axis.is_constant for axis in known) else _axes(values)


def bar(share: float, width: int) -> str:
    """A bar of up to ``width`` cells, in steps of an eighth.

    >>> bar(0.5, 3)
    '█▌ '
    """
    eighths = min(max(round(share * width * 8), 0), width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def plain(name: str) -> str:
    r"""A name without characters that would move the cursor or hide something.

    >>> plain("a" + chr(27) + "[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


_PLAINER = str.maketrans("─━│█▉▊▋▌▍▎▏≤…×–−→·", "--|####+...<~x--> ")


def encodable(text: str, encoding: str) -> str:
    """A text in which signs that an encoding lacks are replaced by plainer ones as wide as they.

    >>> encodable("▏▌█▌ ─ ≤ 9", "ascii"), encodable("█ ≤ 9", "utf-8")
    ('.+#+ - < 9', '█ ≤ 9')
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAINER)
    except LookupError:
        pass
    return text


def shorten(name: str, width: int) -> str:
    """A name in at most ``width`` cells, with an ellipsis in its middle if need be.

    The end of a name says more than its middle: it stays.

    >>> shorten("inception3a.branch2.0.conv", 16)
    'incepti…2.0.conv'
    """
    if cell_len(name) <= width:
        return name
    head, tail = (width - 1) // 2, width - 1 - (width - 1) // 2
    return _cut(name, head) + "…" + _cut(name[::-1], tail)[::-1]


def _cut(name: str, width: int) -> str:
    """The longest beginning that fits into ``width`` cells."""
    name = name[: 2 * width]  # signs without a width of their own are few
    while cell_len(name) > width:
        name = name[:-1]
    return re.sub(r"\s$", "", name)
