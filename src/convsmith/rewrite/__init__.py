"""Rewrites trained networks: statistics, forms, the choice among them, and the proof.

The package can be called: ``convsmith.rewrite(net, macs=0.5, calibration=...)`` is
:func:`convsmith.rewrite.rewriting.rewrite`. Importing any of its modules puts the package where
that function would be, so the package itself answers the call.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

from convsmith.rewrite.applying import apply
from convsmith.rewrite.distilling import Distillation, distill
from convsmith.rewrite.plan import Choice, Plan
from convsmith.rewrite.rewriting import Rewriting
from convsmith.rewrite.rewriting import rewrite as _rewrite
from convsmith.rewrite.statistics import Calibration, calibrate
from convsmith.rewrite.sweeping import Sweep, SweepPoint, sweep
from convsmith.rewrite.verifying import Metric, Verification, verify

__all__ = [
    "Calibration",
    "Choice",
    "Distillation",
    "Metric",
    "Plan",
    "RewritePackage",
    "Rewriting",
    "Sweep",
    "SweepPoint",
    "Verification",
    "apply",
    "calibrate",
    "distill",
    "sweep",
    "verify",
]


class RewritePackage(ModuleType):
    """The package ``convsmith.rewrite``, callable."""

    __call__ = staticmethod(_rewrite)


sys.modules[__name__].__class__ = RewritePackage
__signature__ = inspect.signature(_rewrite)  # what help() shows for the package
