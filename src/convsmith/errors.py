"""One tree of exceptions: each message states the fact, the place and the remedy.

The low level raises with the fact and the remedy; the boundary that knows where it
happened adds the place with :meth:`ConvsmithError.at`.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "BudgetError",
    "ConvsmithError",
    "DataError",
    "DynamicSizeError",
    "GraphError",
    "MissingDependencyError",
    "NotationError",
    "OutputError",
    "PlanError",
    "ShapeError",
    "SourceError",
    "UnsupportedOperatorError",
    "UsageError",
]


class ConvsmithError(Exception):
    """Base of everything that convsmith raises on purpose.

    Args:
        fact: What is wrong, without a full stop.
        place: Where: a file, a layer, a column.
        remedy: What the reader can do about it.

    Attributes:
        exit_code: What the command line returns for this error (2: bad usage or bad input).
    """

    exit_code = 2

    def __init__(self, fact: str, *, place: str = "", remedy: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.place = place
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        end = "" if remedy.endswith("?") else "."
        return f"{where}{self.fact}{remedy}{end}"

    def at(self, place: str) -> ConvsmithError:
        """Names the place, outermost first, and returns the same error for ``raise``."""
        self.place = f"{place}: {self.place}" if self.place else place
        return self


class UsageError(ConvsmithError):
    """An argument or an option that makes no sense."""


class SourceError(ConvsmithError):
    """A network that cannot be read or written."""


class DynamicSizeError(SourceError):
    """A network whose input size is open, read without saying which.

    Attributes:
        shapes: Per input, its sizes; ``None`` where they are open.
    """

    def __init__(
        self,
        fact: str,
        *,
        shapes: Mapping[str, tuple[int | None, ...]],
        place: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(fact, place=place, remedy=remedy)
        self.shapes = dict(shapes)


class NotationError(SourceError):
    """A typo in the notation; the message shows the line with a caret under the column."""

    def __init__(
        self, fact: str, *, text: str, column: int, place: str = "", remedy: str = ""
    ) -> None:
        super().__init__(fact, place=place, remedy=remedy)
        self.text = text
        self.column = column

    def __str__(self) -> str:
        return f"{super().__str__()}\n  {self.text}\n  {' ' * self.column}^"


class GraphError(ConvsmithError):
    """A graph that contradicts itself: a missing value, a repeated name, a cycle."""


class ShapeError(GraphError):
    """Sizes that do not fit together."""


class UnsupportedOperatorError(ConvsmithError):
    """An operator that this question has no answer for."""


class DataError(ConvsmithError):
    """Calibration or test data that cannot be used."""


class BudgetError(ConvsmithError):
    """A budget that no choice of candidates can meet."""


class PlanError(ConvsmithError):
    """A plan that does not belong to this network, or that was edited into nonsense."""


class OutputError(ConvsmithError):
    """A file that cannot be written, or that exists and would be overwritten."""


class MissingDependencyError(ConvsmithError):
    """An optional package that this call needs and that is not installed."""
