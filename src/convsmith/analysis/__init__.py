"""What every layer of a network costs and what it sees."""

from __future__ import annotations

from convsmith.analysis.analysis import Analysis, Unsupported, analyze
from convsmith.analysis.cost import Cost, cost
from convsmith.analysis.difference import Change, Difference, diff
from convsmith.analysis.effective import EffectiveField, effective_field
from convsmith.analysis.field import Axis, Field, Positions, fields, seen, sight
from convsmith.analysis.ledger import Row, Total
from convsmith.analysis.memory import Memory
from convsmith.analysis.recursion import Window, backward, chain, forward
from convsmith.analysis.symbolic import SymbolicAnalysis, symbolic
from convsmith.analysis.views import Group, View

__all__ = [
    "Analysis",
    "Axis",
    "Change",
    "Cost",
    "Difference",
    "EffectiveField",
    "Field",
    "Group",
    "Memory",
    "Positions",
    "Row",
    "SymbolicAnalysis",
    "Total",
    "Unsupported",
    "View",
    "Window",
    "analyze",
    "backward",
    "chain",
    "cost",
    "diff",
    "effective_field",
    "fields",
    "forward",
    "seen",
    "sight",
    "symbolic",
]
