"""What every layer of a network costs and what it sees."""

from __future__ import annotations

from convsmith.analysis.analysis import Analysis, Row, Total, Unsupported, analyze
from convsmith.analysis.cost import Cost, cost
from convsmith.analysis.field import Field, fields, seen
from convsmith.analysis.intervals import Axis, Positions
from convsmith.analysis.recursion import Window, backward, chain, forward

__all__ = [
    "Analysis",
    "Axis",
    "Cost",
    "Field",
    "Positions",
    "Row",
    "Total",
    "Unsupported",
    "Window",
    "analyze",
    "backward",
    "chain",
    "cost",
    "fields",
    "forward",
    "seen",
]
