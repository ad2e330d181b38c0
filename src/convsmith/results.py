"""What every result has in common: plain data that can be printed, saved and shown.

A result knows nothing about rendering. Printing it, or asking it for HTML, opens the one door
to :mod:`convsmith.report`, which sees results only.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from os import PathLike
from typing import Any

__all__ = ["Displayed", "Progress", "Result"]

Progress = Callable[[str, int, int], None]
"""Called by long steps with what is being done, how much is done, and out of how much (0: not
known)."""


class Displayed:
    """What a notebook shows as a table, without scripts: results, networks, plans, programs.

    IPython asks for these two and takes what it can show. Neither raises an error.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(importlib.import_module("convsmith.report.notebook").notebook_html(self))

    def _repr_markdown_(self) -> str:
        return str(importlib.import_module("convsmith.report.notebook").notebook_markdown(self))


class Result(Displayed, ABC):
    """Plain data with a versioned JSON schema. Subclasses are frozen dataclasses."""

    __slots__ = ()

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON-ready data; ``schema`` names its version."""

    def to_json(self, *, indent: int | None = 2) -> str:
        """Returns the result as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_html(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the result as one HTML file that works offline.

        Raises:
            OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
        """
        importlib.import_module("convsmith.report").write_html(self, path, overwrite=overwrite)

    def __str__(self) -> str:
        return str(importlib.import_module("convsmith.report").text(self))
