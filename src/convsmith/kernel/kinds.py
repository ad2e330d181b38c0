"""The types of the code that kernels are written in, and how LLVM spells them."""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "BOOL",
    "ELEMENT_BYTES",
    "FLOAT",
    "INT",
    "POINTER",
    "float_text",
    "lanes_of",
    "vector_of",
]

INT: Final = "i64"
FLOAT: Final = "float"
POINTER: Final = "ptr"
BOOL: Final = "i1"

ELEMENT_BYTES: Final = 4


def vector_of(lanes: int) -> str:
    """The type of a vector of float32."""
    return f"<{lanes} x float>"


def float_text(value: float) -> str:
    """A float32 constant; LLVM wants the bits of the double with that value."""
    single = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', single))[0]:016X}"


def lanes_of(kind: str) -> int:
    """Returns how many elements a float type has: 1 for a scalar."""
    return int(kind[1 : kind.index(" ")]) if kind.startswith("<") else 1
