"""Costs and fields of a network whose image size is left open."""

from __future__ import annotations

from convsmith.analysis.symbolic.expressions import Expression
from convsmith.analysis.symbolic.polynomial import Polynomial
from convsmith.analysis.symbolic.symbolic import (
    SymbolicAnalysis,
    SymbolicRow,
    SymbolicTotal,
    symbolic,
)

__all__ = [
    "Expression",
    "Polynomial",
    "SymbolicAnalysis",
    "SymbolicRow",
    "SymbolicTotal",
    "symbolic",
]
