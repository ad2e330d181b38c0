"""Networks in ONNX files: reading, and writing back with as little changed as possible."""

from __future__ import annotations

from convsmith.sources.onnx.origin import OnnxOrigin
from convsmith.sources.onnx.reading import read_onnx
from convsmith.sources.onnx.writing import write_onnx

__all__ = ["OnnxOrigin", "read_onnx", "write_onnx"]
