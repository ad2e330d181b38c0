"""Torch modules that run in convsmith's kernels, and the torch operator under them."""

from __future__ import annotations

from convsmith.acceleration.accelerating import accelerate
from convsmith.acceleration.operator import conv
from convsmith.acceleration.planned import PlannedConv

__all__ = ["PlannedConv", "accelerate", "conv"]
