"""How other tools and textbooks count: their rules, with their mistakes, and the difference.

Every tool is one file with a table over torch's functions. :func:`account` says how its number
comes about from the exact one.
"""

from __future__ import annotations

from convsmith.analysis.conventions.applying import apply
from convsmith.analysis.conventions.call import Call, Part, Rule, Rules
from convsmith.analysis.conventions.convention import CONVENTIONS, Convention, find_convention
from convsmith.analysis.conventions.counting import Account, Counted, Term, account, count
from convsmith.analysis.conventions.reasons import reason_text

__all__ = [
    "CONVENTIONS",
    "Account",
    "Call",
    "Convention",
    "Counted",
    "Part",
    "Rule",
    "Rules",
    "Term",
    "account",
    "apply",
    "count",
    "find_convention",
    "reason_text",
]
