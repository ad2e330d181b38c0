"""A rewriting as a page: the network that came of it, and what its layers stand for."""

from __future__ import annotations

from convsmith.analysis import analyze
from convsmith.portrait import portrait
from convsmith.report.as_page import portrait as portrait_page
from convsmith.report.rendering import html
from convsmith.rewrite import Rewriting

__all__ = ["portrait_page"]


@html.register
def _(result: Rewriting) -> str:
    """Renders the page of the rewritten network."""
    return html(portrait(result.net, before=analyze(result.original), plan=result.plan))
