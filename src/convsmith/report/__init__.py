"""Results made readable: terminal, CSV, Markdown, JSON and HTML. It sees results only."""

from __future__ import annotations

from convsmith.report.as_data import analysis  # noqa: F401 - it registers itself
from convsmith.report.as_text import analysis_table  # noqa: F401 - it registers itself
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
