"""Networks from outside and back: torch modules, ONNX files, notation and the zoo.

The only room that imports torch and onnx, and only when a network of theirs is read.
"""

from __future__ import annotations

from convsmith.sources.loading import load, save

__all__ = ["load", "save"]
