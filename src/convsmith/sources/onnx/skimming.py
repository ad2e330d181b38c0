"""Reads an ONNX file without its weights: what a count of sizes needs, in a hundredth of the bytes.

The file is walked in its encoding (Protocol Buffers, "Encoding": a key, then a number or a length
and so many bytes), and the elements of large initializers are stepped over without being touched.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Skimmed", "skim"]

_GRAPH = 7  # the field of ModelProto
_FUNCTIONS = 25  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_RAW_DATA = 9  # of TensorProto
_MOST_FIELDS = 1_000_000
"""What has more is read whole: stepping over a field takes Python a microsecond."""

_SMALL = 4096
"""Bytes: more than any tensor that holds sizes."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Skimmed:
    """A file without the elements of its large initializers.

    Attributes:
        content: What is left, a valid encoding of the model.
        skipped: The bytes of elements left out, by the index of the initializer.
    """

    content: bytes
    skipped: Mapping[int, int]


def skim(path: Path) -> Skimmed | None:
    """Reads all of a file but its weights; ``None`` where it has to be read whole.

    That is the case where it cannot be mapped, is not encoded as expected (reading it whole says
    what is wrong), or has local functions, whose initializers are still to come.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _Walk(view).model()
    except (OSError, ValueError, IndexError):
        return None


class _Walk:
    """One walk through a file."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.left = _MOST_FIELDS
        self.skipped: dict[int, int] = {}

    def model(self) -> Skimmed | None:
        view = self.view
        parts: list[bytes] = []
        graphs = 0
        for field, start, body, stop in self.fields(0, len(view)):
            if field == _FUNCTIONS:
                return None
            if field == _GRAPH:
                graphs += 1
                _nest(parts, view[start : start + 1], self.graph(body, stop))
            else:
                parts.append(view[start:stop])
        return Skimmed(content=b"".join(parts), skipped=self.skipped) if graphs == 1 else None

    def graph(self, start: int, stop: int) -> list[bytes]:
        """The content of a graph, in pieces."""
        view = self.view
        parts: list[bytes] = []
        begin, index = start, 0  # from here on everything is kept as it is, in one piece
        for field, key, body, end in self.fields(start, stop):
            if field != _INITIALIZER:
                continue
            if end - body > _SMALL:
                raw = [(a, b, c) for f, a, b, c in self.fields(body, end) if f == _RAW_DATA]
                if len(raw) == 1 and raw[0][2] - raw[0][1] > _SMALL:
                    ((at, elements, after),) = raw
                    self.skipped[index] = after - elements
                    parts.append(view[begin:key])
                    _nest(parts, view[key : key + 1], [view[body:at], view[after:end]])
                    begin = end
            index += 1
        parts.append(view[begin:stop])
        return parts

    def fields(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Per field: its number, where its key begins, where its content begins and ends.

        Raises:
            ValueError: If it is no such encoding, or too long to step through.
        """
        view, at = self.view, start
        while at < stop:
            self.left -= 1
            begin = at
            key, at = view[at], at + 1
            if key > 0x7F:
                key, at = self.varint(begin)
            kind = key & 7
            if kind == _BYTES:
                length, at = view[at], at + 1
                if length > 0x7F:
                    more = view[at]
                    if more < 0x80:  # two bytes: most of those that one does not hold
                        length, at = length & 0x7F | more << 7, at + 1
                    else:
                        length, at = self.varint(at - 1)
                end = at + length
            elif kind == _VARINT:
                end = at + 1 if view[at] < 0x80 else self.varint(at)[1]
            elif kind in (_FIXED64, _FIXED32):
                end = at + (8 if kind == _FIXED64 else 4)
            else:
                raise ValueError("not a field")
            if end > stop or self.left < 0:
                raise ValueError("a field is longer than what holds it")
            yield key >> 3, begin, at, end
            at = end

    def varint(self, at: int) -> tuple[int, int]:
        value = 0
        for place in range(_LONGEST_VARINT):
            byte = self.view[at + place]
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value, at + place + 1
        raise ValueError("a number without end")


def _nest(parts: list[bytes], key: bytes, content: list[bytes]) -> None:
    """Adds a field with a length; keys below 16 take one byte."""
    length = sum(map(len, content))
    size = bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    parts += (key, bytes(size), *content)
