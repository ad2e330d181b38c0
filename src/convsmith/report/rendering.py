"""The formats, each one table of functions over the kinds of results.

A renderer registers itself: ``@text.register`` on a function that takes the result. Modules whose
results come from heavy rooms are loaded when the first such result shows up.
"""

from __future__ import annotations

import csv as csv_files
import io
import shutil
from collections.abc import Callable, Iterable
from functools import singledispatch
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from convsmith.errors import UsageError
from convsmith.files import write_atomically
from convsmith.results import Displayed, Result

__all__ = [
    "FORMATS",
    "PICTURES",
    "comma_separated",
    "csv",
    "html",
    "markdown",
    "picture",
    "render",
    "text",
    "write_html",
]

FORMATS = ("text", "json", "csv", "markdown", "html")
PICTURES = ("png", "svg")


_REWRITING = ("as_text.rewriting", "as_data.rewriting")

_MODULES = {
    "Analysis": ("as_page.analysis",),
    "Bench": ("as_text.bench", "as_data.bench", "as_page.bench"),
    "Comparison": ("as_text.comparison", "as_data.comparison", "as_page.comparison"),
    "Diagnosis": ("as_text.doctor",),
    "Difference": ("as_page.difference",),
    "Distillation": ("as_text.distilling",),
    "Explanation": ("as_text.explanation", "as_data.explanation", "as_page.explanation"),
    "Graph": ("as_data.graph_markdown",),
    "Findings": ("as_text.lint", "as_data.lint", "as_page.lint"),
    "Merging": ("as_text.merging", "as_data.merging"),
    "Plan": _REWRITING,
    "PlanDifference": ("as_text.plan_difference",),
    "Profile": ("as_text.program",),
    "Program": ("as_data.graph_markdown",),
    "Portrait": ("as_page.portrait", "as_data.graph_markdown"),
    "Rule": ("as_text.rule", "as_page.rule"),
    "Rules": ("as_text.rule", "as_page.rule"),
    "Rewriting": (*_REWRITING, "as_page.rewriting"),
    "Run": ("as_text.run",),
    "Verification": _REWRITING,
    "ImageSpectrum": ("as_text.image_spectrum", "as_page.image_spectrum", "drawings.spectrum"),
    "Spectrum": ("as_text.spectrum", "as_page.spectrum", "drawings.spectrum"),
    "Sweep": ("as_text.sweep", "as_page.sweep"),
    "View": ("as_page.view",),
    "SymbolicAnalysis": ("as_text.symbolic", "as_page.symbolic"),
    "Optimization": (*_REWRITING, "as_text.optimization", "as_page.optimization"),
}
"""What to load for a kind of result, before it is known that no renderer takes it."""


class _Table(Protocol):
    def dispatch(self, cls: type) -> Callable[..., Any]: ...


def _renderer(table: _Table, result: object, form: str) -> Callable[..., Any]:
    """Loads the renderers of a kind of result and finds the one that was missing.

    Raises:
        UsageError: If there is none.
    """
    kind = type(result)
    missing = table.dispatch(kind)
    for name in _MODULES.get(kind.__name__, ()):
        import_module(f"convsmith.report.{name}")
    found = table.dispatch(kind)
    if found is missing:
        raise UsageError(
            f"there is no {form} form of {kind.__name__}", remedy="choose json or text"
        )
    return found


def comma_separated(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Returns a header and rows as comma-separated values; nothing stands for ``None``.

    >>> comma_separated(("layer", "macs"), [("a, b", 3), ("c", None)]).splitlines()
    ['layer,macs', '"a, b",3', 'c,']
    """
    file = io.StringIO()
    writer = csv_files.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def terminal_width() -> int:
    """``COLUMNS``, or how wide the terminal is, or 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


@singledispatch
def text(result: Result, *, width: int | None = None, color: bool = False) -> str:
    """Returns a result for reading in a terminal, without a line break at the end.

    Args:
        result: What to show.
        width: Columns; by default those of the terminal, 80 without one.
        color: Whether to use colors.

    Raises:
        UsageError: If this kind of result has no such form.
    """
    return str(_renderer(text, result, "text")(result, width=width, color=color))


@singledispatch
def csv(result: Result) -> str:
    """Returns the rows of a result as comma-separated values, with a header.

    Raises:
        UsageError: If this kind of result has no such form.
    """
    return str(_renderer(csv, result, "CSV")(result))


@singledispatch
def markdown(result: Displayed) -> str:
    """Returns a result, a network or a program as Markdown.

    Raises:
        UsageError: If this kind of result has no such form.
    """
    return str(_renderer(markdown, result, "Markdown")(result))


@singledispatch
def html(result: Result) -> str:
    """Returns a result as one HTML page that works offline.

    Raises:
        UsageError: If this kind of result has no such form.
    """
    return str(_renderer(html, result, "HTML")(result))


@singledispatch
def picture(result: Result, form: str) -> bytes:
    """Returns a result as one picture file.

    Args:
        result: What to show.
        form: One of :data:`PICTURES`.

    Raises:
        UsageError: If this kind of result has no such form.
    """
    return bytes(_renderer(picture, result, form.upper())(result, form))


def write_html(result: Result, path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Writes a result as one HTML file.

    Raises:
        OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
        UsageError: If this kind of result has no such form.
    """
    write_atomically(Path(path), html(result).encode(), overwrite=overwrite)


def render(result: Result, form: str, *, width: int | None = None, color: bool = False) -> str:
    """Returns a result in one of ``FORMATS``; every line ends with a line break.

    Raises:
        UsageError: If there is no such format, or none for this kind of result.
    """
    match form:
        case "text":
            rendered = text(result, width=width, color=color)
        case "json":
            rendered = result.to_json()
        case "csv":
            rendered = csv(result)
        case "markdown":
            rendered = markdown(result)
        case "html":
            rendered = html(result)
        case "latex":
            rendered = getattr(import_module("convsmith.report.as_data.explanation"), form)(result)
        case "sarif" | "github":
            rendered = getattr(import_module("convsmith.report.as_data.lint_sarif"), form)(result)
        case _:
            raise UsageError(
                f"there is no format {form!r}", remedy=f"choose one of {', '.join(FORMATS)}"
            )
    return rendered if rendered.endswith("\n") else f"{rendered}\n"
