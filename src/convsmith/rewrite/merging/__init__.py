"""Layers that one layer replaces exactly: ``convsmith.merge``.

``kernels`` has the arithmetic, ``norms``, ``branches`` and ``chains`` the rules that find what can
be merged, ``draft`` the network that they change, and ``modules`` merges layers of torch modules.
"""

from __future__ import annotations

from convsmith.rewrite.merging.merging import (
    DEFAULT_RULES,
    RULES,
    Merging,
    merge,
    repeat,
    rules_of,
)
from convsmith.rewrite.merging.steps import Merge

__all__ = ["DEFAULT_RULES", "RULES", "Merge", "Merging", "merge", "repeat", "rules_of"]
