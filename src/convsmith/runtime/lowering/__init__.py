"""From a network to steps: the table of lowerings, one row per operator.

What has no row, or whose row declines, is computed by its NumPy definition.
"""

from __future__ import annotations

from convsmith.runtime.lowering import arranging, elements, layers, windows  # they fill the table
from convsmith.runtime.lowering.lowering import Lowered, Options, lower_graph

__all__ = ["Lowered", "Options", "lower_graph"]

_ = arranging, elements, layers, windows
