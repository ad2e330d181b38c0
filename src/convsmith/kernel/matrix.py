"""Products of matrices: cutting them into register tiles that are nearly equal.

A side of 256 rows under tiles of at most 14 is 19 tiles of 13 or 14 rows, not 18 of 14 and one of
4: every tile keeps the multipliers busy, and two sizes of code are enough for any length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convsmith.kernel.emit import Code, Value

__all__ = ["Parts", "odd_pitch"]


@dataclass(frozen=True, slots=True)
class Parts:
    """A length cut into consecutive parts whose sizes differ by at most one, the longer first.

    Attributes:
        total: The length.
        count: The number of parts; not more than ``total``, and at least 1.

    >>> parts = Parts.of(256, most=14)
    >>> parts.count, parts.short, parts.longer
    (19, 13, 9)
    >>> [Parts.of(10, most=4).start(i) for i in range(4)]
    [0, 4, 7, 10]
    """

    total: int
    count: int

    @staticmethod
    def of(total: int, *, most: int) -> Parts:
        """Returns the fewest parts of at most ``most``."""
        return Parts(total, max(1, -(-total // most)))

    @property
    def short(self) -> int:
        """The size of the shorter parts."""
        return self.total // self.count

    @property
    def longer(self) -> int:
        """How many parts have one element more."""
        return self.total % self.count

    @property
    def longest(self) -> int:
        """The size of the longest part."""
        return self.short + (self.longer > 0)

    def start(self, index: int) -> int:
        """Returns where a part starts; that of ``count`` is the end."""
        return index * self.short + min(index, self.longer)

    def start_of(self, code: Code, index: Value) -> Value:
        """Returns where a part starts that is known when the code runs."""
        start = index * self.short
        return start + code.smaller(index, self.longer) if self.longer else start

    def each(
        self,
        code: Code,
        first: int | Value,
        last: int | Value,
        body: Callable[[Value, int], None],
    ) -> None:
        """Writes a loop over parts.

        Args:
            code: Where to write.
            first: The first part.
            last: The part behind the last one.
            body: Writes what is done with one part: where it starts, and its size. Called at most
                twice, for the two sizes.
        """
        short, longer = self.short, self.longer
        if not longer:
            for index in code.range(first, last):
                body(index * short, short)
            return
        if isinstance(first, int) and isinstance(last, int):
            middle_low: int | Value = min(last, longer)
            middle_high: int | Value = max(first, longer)
        else:
            low = last if isinstance(last, Value) else code.integer(last)
            high = first if isinstance(first, Value) else code.integer(first)
            middle_low, middle_high = code.smaller(low, longer), code.larger(high, longer)
        for index in code.range(first, middle_low):
            body(index * (short + 1), short + 1)
        for index in code.range(middle_high, last):
            body(index * short + longer, short)


def odd_pitch(elements: int, lanes: int) -> int:
    """Returns a row's length in memory, at least ``elements``: an odd number of vectors.

    Rows whose distance is a power of two fall into few sets of a cache and push each other out;
    rows at an odd number of cache lines use all of them.

    >>> odd_pitch(1024, 16), odd_pitch(20, 16), odd_pitch(16, 16)
    (1040, 48, 16)
    """
    vectors = -(-elements // lanes)
    return (vectors + 1 - vectors % 2) * lanes
