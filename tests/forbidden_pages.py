"""Arrays that lie against pages which may not be touched.

``python -m tests.forbidden_pages OFFSET`` reads one element outside of such an array, which ends
the process. It imports little: every test with such pages needs a process of its own.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Arrays with a forbidden page before and behind their pages."""

    def __init__(self) -> None:
        self._maps: list[tuple[mmap.mmap, int, int]] = []

    def empty(self, shape: tuple[int, ...], *, at_end: bool) -> Array:
        """Returns float32 of a shape, ended or begun by a forbidden page."""
        size = 4 * int(np.prod(shape))
        pages = max(1, -(-size // PAGE))
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (first, first + (pages + 1) * PAGE):
            self._protect(page, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0)
        self._maps.append((memory, first, first + (pages + 1) * PAGE))
        offset = PAGE + (pages * PAGE - size if at_end else 0)
        return np.frombuffer(memory, np.float32, size // 4, offset).reshape(shape)

    def copy(self, array: Array, *, at_end: bool) -> Array:
        """Returns a copy between forbidden pages."""
        made = self.empty(array.shape, at_end=at_end)
        made[...] = array
        return made

    def release(self) -> None:
        """Allows everything again; the memory goes when nobody holds it."""
        for _, before, behind in self._maps:
            for page in (before, behind):
                self._protect(page, mmap.PROT_READ | mmap.PROT_WRITE)
        self._maps.clear()

    @staticmethod
    def _protect(page: int, allowed: int) -> None:
        if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), allowed):
            raise OSError(ctypes.get_errno(), "mprotect")


def one_too_far(offset: int) -> None:
    """Reads one element outside: what the guard has to notice."""
    guarded = Guarded()
    array = guarded.empty((10,), at_end=offset >= 0)
    place = array.ctypes.data + (40 if offset >= 0 else -4)
    ctypes.c_float.from_address(place).value  # noqa: B018


if __name__ == "__main__":
    one_too_far(int(sys.argv[1]))
