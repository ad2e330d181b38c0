"""Results made readable: terminal, CSV, Markdown, JSON and HTML. It sees results only."""

from __future__ import annotations

from convsmith.report import analysis_data, analysis_table  # noqa: F401 - they register themselves
from convsmith.report.rendering import (
    FORMATS,
    PICTURES,
    csv,
    html,
    markdown,
    picture,
    render,
    text,
    write_html,
)

__all__ = [
    "FORMATS",
    "PICTURES",
    "csv",
    "html",
    "markdown",
    "picture",
    "render",
    "text",
    "write_html",
]
