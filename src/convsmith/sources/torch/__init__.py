"""Torch modules: read without running them, and rewritten in place of the user's layers."""

from __future__ import annotations

from convsmith.sources.torch.gradients import contributions
from convsmith.sources.torch.recording import read_module
from convsmith.sources.torch.surgery import replace_modules

__all__ = ["contributions", "read_module", "replace_modules"]
