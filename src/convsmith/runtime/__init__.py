"""Runs whole networks and measures how long they take."""

from __future__ import annotations

from convsmith.runtime.timing import Timing, compare, networks, outputs

__all__ = ["Timing", "compare", "networks", "outputs"]
