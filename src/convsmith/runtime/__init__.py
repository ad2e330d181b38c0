"""Runs whole networks and measures how long they take."""

from __future__ import annotations

from convsmith.runtime.timing import Timing, compare, outputs

__all__ = ["Timing", "compare", "outputs"]
