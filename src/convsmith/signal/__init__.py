"""Kernels in the frequency domain: filters shown as what they are."""

from __future__ import annotations

from convsmith.signal.character import Character, Kind, character, separability
from convsmith.signal.response import folded_share, frequencies, response

__all__ = [
    "Character",
    "Kind",
    "character",
    "folded_share",
    "frequencies",
    "response",
    "separability",
]
