"""Formulas as SVG, set in STIX Two when the pages are built: they look alike on every machine.

MathML would be left to the fonts of the reader, and few systems have one for mathematics.
"""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree as ET

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator
from ziamath.config import config
from ziamath.tex import tex2mml
from ziamath.zmath import Math

_log = logging.getLogger(__name__)
config.svg2 = False  # no ids: a page has many formulas
SIZE = 17  # pixels of an em, for text of 16 pixels


def drawn(latex: str, *, block: bool = False) -> str:
    """Returns a formula as SVG in the colour of the text; inline, it stands on its line.

    Raises:
        ValueError: If there is a command that is not understood; it would be printed.
    """
    source = latex.replace("{aligned}", "{align*}")
    said = convert(source)
    if "\\" in said:
        raise ValueError(f"what is {said[said.index(chr(92)) :].split('<')[0]!r} in {latex!r}?")
    markup = ET.fromstring(tex2mml(source, inline=not block))
    markup.set("mathcolor", "currentColor")
    for row in [each for each in markup.iter() if each.tag.endswith("mtr")]:
        row[0].insert(0, ET.Element("mspace", width="0em", height="0.85em", depth="0.4em"))
    made = Math(markup, size=SIZE)
    label = escape(" ".join(latex.split()))
    style = "" if block else f' style="vertical-align:{made.getyofst() / SIZE:.3f}em"'
    text: str = made.svg()
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}"{style} ', 1)


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    _write(translator, node, '<span class="formula">', "</span>")


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    _write(translator, node, '<div class="formula">', "</div>\n")


def _write(translator: HTML5Translator, node: nodes.Element, begin: str, end: str) -> None:
    try:
        made = drawn(node.astext(), block=begin.startswith("<div"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the page and the line are needed
        _log.warning("a formula that cannot be drawn: %s", error, location=node)
    else:
        translator.body.append(f"{begin}{made}{end}")
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Registers the renderer."""
    app.add_html_math_renderer("drawn", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
