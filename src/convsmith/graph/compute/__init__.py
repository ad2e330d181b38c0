"""The table of values: what every operator computes, in NumPy."""

from __future__ import annotations

from convsmith.graph.compute import arranging, elements, sampling  # they fill the table
from convsmith.graph.compute.sliding import pad_for_windows, windows
from convsmith.graph.compute.table import Array, compute

__all__ = ["Array", "compute", "pad_for_windows", "windows"]

_ = arranging, elements, sampling
