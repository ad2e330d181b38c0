"""What an analysis says, as far as two can be compared: also one that was saved as a file.

A saved file (``convsmith analyze SOURCE --json``) is untrusted: it is read as data, up to a size,
and every value that is used is checked first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from convsmith.analysis.analysis import Analysis
from convsmith.errors import SourceError
from convsmith.graph import Shape

__all__ = ["COUNTS", "LARGEST_FILE", "TOTALS", "Baseline", "Layer", "Seen", "read_baseline"]

LARGEST_FILE = 256 * 2**20
"""Bytes; a network of 100,000 layers takes a third of it."""

COUNTS = (
    *("params", "macs", "mults", "adds", "others", "flops"),
    *("weight_bytes", "read_bytes", "write_bytes"),
)
"""What is compared of every layer."""

TOTALS = (
    *("params", "macs", "mults", "adds", "others", "flops"),
    *("weight_bytes", "peak_activation_bytes"),
)
"""What is compared of whole networks."""

_SCHEMA = "convsmith.analysis/1"
_LARGEST_COUNT = 10**40

Sizes = tuple[Shape | None, ...]
Phases = tuple[tuple[int, ...] | None, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: what it is called, what it does, and what that costs.

    Attributes:
        name: Unique in its network.
        op: The class of its operator.
        text: The operator in the notation.
        inputs: Shapes of the values it reads; ``None`` where unknown.
        outputs: Shapes of the values it makes.
        status: ``counted``, ``free`` or ``unsupported``.
        counts: By the names in ``COUNTS``.
    """

    name: str
    op: str
    text: str
    inputs: Sizes
    outputs: Sizes
    status: str
    counts: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Returns the layer as JSON-ready data, its name left out."""
        return {
            "op": self.op,
            "text": self.text,
            "inputs": [shape and list(shape) for shape in self.inputs],
            "outputs": [shape and list(shape) for shape in self.outputs],
            "status": self.status,
            **self.counts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An output's shape and receptive field, per image axis; ``None`` where unknown.

    Attributes:
        shape: Its shape.
        size: How many pixels it sees.
        stride: How many pixels the field moves from one output to the next.
        offset: The first pixel that output 0 sees.
        status: As in an analysis.
        is_global: Whether some path sees the whole input.
        phases: What outputs 0, 1, ... see, where that depends on the phase; else empty.
    """

    shape: Shape | None
    size: tuple[int | None, ...]
    stride: tuple[str | None, ...]
    offset: tuple[str | None, ...]
    status: str
    is_global: bool
    phases: tuple[Phases | None, ...]

    def sees_the_same(self, other: Seen) -> bool:
        """Whether the fields are the same, and both are known."""
        if "unknown" in (self.status, other.status):
            return False
        fields = [
            (
                *(seen.size, seen.stride, seen.offset, seen.phases),
                *(seen.is_global, seen.status == "upper-bound"),
            )
            for seen in (self, other)
        ]
        return fields[0] == fields[1]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data, in the words of an analysis."""
        return {
            "shape": self.shape and list(self.shape),
            "rf": {
                "size": list(self.size),
                "stride": list(self.stride),
                "offset": list(self.offset),
                "status": self.status,
                "global": self.is_global,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """An analysis as far as two can be compared.

    Attributes:
        source: The network.
        convention: How it was counted.
        layers: In the order in which they run; no two have one name.
        total: By the names in ``TOTALS``.
        outputs: What the caller receives.
        unsupported: Names of the layers that the totals leave out.
    """

    source: str
    convention: str
    layers: tuple[Layer, ...]
    total: Mapping[str, int]
    outputs: Mapping[str, Seen]
    unsupported: tuple[str, ...]

    @classmethod
    def of(cls, analysis: Analysis) -> Baseline:
        """Takes from an analysis what can be compared."""
        return _baseline(analysis.to_dict())


def read_baseline(path: str | PathLike[str]) -> Baseline:
    """Reads an analysis that was saved as JSON.

    Raises:
        SourceError: If it cannot be read, is too large, or is no analysis; the message names the
            file and the place in it.
    """
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise SourceError(
                f"it has more than {LARGEST_FILE // 2**20} MiB",
                place=str(file),
                remedy="give a file that convsmith analyze --json wrote",
            )
        data = json.loads(file.read_bytes(), parse_constant=_no_number)
    except FileNotFoundError:
        raise SourceError(
            "there is no such file",
            place=str(file),
            remedy=f"write it with: convsmith analyze SOURCE -o {file}",
        ) from None
    except OSError as error:
        raise SourceError(
            f"it cannot be read: {error.strerror or error}",
            place=str(file),
            remedy="give the name of a readable file",
        ) from None
    except (ValueError, RecursionError):  # also text that is not UTF-8, and endless numbers
        raise SourceError(
            "it is not JSON",
            place=str(file),
            remedy="give a file that convsmith analyze --json wrote",
        ) from None
    try:
        return _baseline(data)
    except SourceError as error:
        raise error.at(str(file)) from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Checks ---------------------------------------------------------------------------


def _baseline(data: object) -> Baseline:
    top = _mapping(data, "the file")
    if top.get("schema") != _SCHEMA:
        raise SourceError(
            f"its schema is not {_SCHEMA}", remedy="write it with: convsmith analyze SOURCE --json"
        )
    layers = tuple(
        _layer(_mapping(row, f"rows[{i}]"), f"rows[{i}]")
        for i, row in enumerate(_list(top.get("rows"), "rows"))
    )
    names: set[str] = set()
    for layer in layers:
        if layer.name in names:
            raise _wrong("rows", f"two rows with the name {_quoted(layer.name)}")
        names.add(layer.name)
    total = _mapping(top.get("total"), "total")
    outputs = _mapping(top.get("outputs"), "outputs")
    return Baseline(
        source=_text(top.get("source"), "source"),
        convention=_text(top.get("convention"), "convention"),
        layers=layers,
        total={key: _count(total.get(key), f"total.{key}") for key in TOTALS},
        outputs={
            name: _seen(_mapping(value, f"outputs.{name}"), f"outputs.{name}")
            for name, value in outputs.items()
        },
        unsupported=tuple(layer.name for layer in layers if layer.status == "unsupported"),
    )


def _layer(row: Mapping[str, Any], place: str) -> Layer:
    status = _text(row.get("status"), f"{place}.status")
    if status not in ("counted", "free", "unsupported"):
        raise _wrong(f"{place}.status", "no status that convsmith knows")
    return Layer(
        name=_text(row.get("name"), f"{place}.name"),
        op=_text(row.get("op"), f"{place}.op"),
        text=_text(row.get("text"), f"{place}.text"),
        inputs=_each(row.get("inputs"), f"{place}.inputs", _shape),
        outputs=_each(row.get("outputs"), f"{place}.outputs", _shape),
        status=status,
        counts={key: _count(row.get(key), f"{place}.{key}") for key in COUNTS},
    )


def _seen(output: Mapping[str, Any], place: str) -> Seen:
    rf = _mapping(output.get("rf"), f"{place}.rf")
    status = _text(rf.get("status"), f"{place}.rf.status")
    return Seen(
        shape=_shape(output.get("shape"), f"{place}.shape"),
        size=_each(rf.get("size"), f"{place}.rf.size", _or_none(_count)),
        stride=_each(rf.get("stride"), f"{place}.rf.stride", _or_none(_text)),
        offset=_each(rf.get("offset"), f"{place}.rf.offset", _or_none(_text)),
        status=status,
        is_global=status == "global" or rf.get("global") is True,
        phases=_each(rf.get("phases", []), f"{place}.rf.phases", _or_none(_phases)),
    )


def _phases(value: object, place: str) -> Phases:
    return _each(value, place, _or_none(lambda item, where: _each(item, where, _integer)))


def _wrong(place: str, found: str) -> SourceError:
    return SourceError(
        f"this is {found}", place=place, remedy="write it anew: convsmith analyze SOURCE --json"
    )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def _mapping(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(place, "no object")
    return value


def _list(value: object, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(place, "no list")
    return value


def _each(value: object, place: str, check: Callable[[object, str], T]) -> tuple[T, ...]:
    return tuple(check(item, f"{place}[{i}]") for i, item in enumerate(_list(value, place)))


def _or_none(check: Callable[[object, str], T]) -> Callable[[object, str], T | None]:
    return lambda value, place: None if value is None else check(value, place)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise _wrong(place, "no text")
    return value


def _count(value: object, place: str) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST_COUNT:
        raise _wrong(place, "no whole number from 0 on")
    return value


def _integer(value: object, place: str) -> int:
    if type(value) is not int or abs(value) >= _LARGEST_COUNT:
        raise _wrong(place, "no whole number")
    return value


def _shape(value: object, place: str) -> Shape | None:
    if value is None:
        return None
    return _each(value, place, _count)
