"""How every number comes about: the formulas of sizes, parameters, operations and fields.

Formulas are data (:mod:`~convsmith.analysis.explaining.expression`): one object is computed,
printed with symbols, printed with numbers, and written as LaTeX.
"""

from __future__ import annotations

from convsmith.analysis.explaining.explanation import (
    CountedPart,
    Explanation,
    LayerExplanation,
    explain,
    latex_of,
)
from convsmith.analysis.explaining.expression import Expression, Symbol, number_text
from convsmith.analysis.explaining.layer import Line, Note
from convsmith.analysis.explaining.words import meaning, operator_name, quantity, word

__all__ = [
    "CountedPart",
    "Explanation",
    "Expression",
    "LayerExplanation",
    "Line",
    "Note",
    "Symbol",
    "explain",
    "latex_of",
    "meaning",
    "number_text",
    "operator_name",
    "quantity",
    "word",
]
