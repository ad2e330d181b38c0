"""The table of looking, one row per operator; importing it fills ``moves``."""

from __future__ import annotations

from convsmith.analysis.field.rows import arranging, pointwise, windows

__all__ = ["arranging", "pointwise", "windows"]
