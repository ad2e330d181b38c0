"""Recovers what a rewrite lost: the rewritten network is trained to do what the original does.

Knowledge distillation needs no labels: the original says what is right for every image (Hinton
et al. 2015). First every replaced layer learns to make what the layer that it replaces made
(FitNets, Romero et al. 2015; block by block as in Li et al. 2020), then the network as a whole.

Nothing here loads torch until :func:`distill` is called.
"""

from __future__ import annotations

from convsmith.rewrite.distilling.calling import distill
from convsmith.rewrite.distilling.result import Distillation, Phase, Point

__all__ = ["Distillation", "Phase", "Point", "distill"]
