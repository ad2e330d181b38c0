"""How the documentation is built: ``make docs`` writes it to build/docs.

Nothing is fetched, neither here nor by who reads it: formulas and figures become SVG, and what
the library knows about itself (rules, conventions, algorithms) is asked from the library.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the extensions of this folder

os.environ.setdefault("CONVSMITH_THREADS", "2")

project = "convsmith"
author = "the convsmith contributors"
copyright = author  # noqa: A001 - the name that Sphinx asks for
release = version = version_of("convsmith")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "building.mathematics",
    "building.library",
]
exclude_patterns = ["building", "benchmarks"]
nitpicky = False  # docstrings name types of NumPy and torch, whose pages are elsewhere
html_math_renderer = "drawn"
highlight_language = "text"
toc_object_entries = False

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"convsmith {release}"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7db8f0", "color-brand-content": "#7db8f0"},
}
