"""What all operators share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Operator", "Padding", "Rounding", "Same"]

Padding = tuple[tuple[int, int], ...]
"""Per axis: how much is put before and how much behind."""

Same = Literal["upper", "lower"]
"""Where SAME padding puts the odd element: behind (``upper``) or before (``lower``)."""

Rounding = Literal["floor", "ceil"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What every operator is; abstract. The classes below are final."""
