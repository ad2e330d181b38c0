"""Receptive fields: which pixels of the input every output of a network can depend on.

Nothing is rounded: fields are integers, also after up-sampling, where they repeat with the phase
of the output (Araujo, Norris & Sim, 2019, "Computing receptive fields of convolutional neural
networks", generalized to any graph and to rational strides). Weights are taken to be non-zero.

``moves`` is the table: one row per operator, in ``rows``. All else follows from it: the rule far
from the borders (:mod:`~convsmith.analysis.field.axis`), every position with the borders
(:mod:`~convsmith.analysis.field.positions`), and single units, pixel by pixel
(:mod:`~convsmith.analysis.field.regions`).
"""

from __future__ import annotations

from convsmith.analysis.field import rows
from convsmith.analysis.field.alignment import Misalignment
from convsmith.analysis.field.axis import Axis, Support
from convsmith.analysis.field.borders import Coverage
from convsmith.analysis.field.fields import Field, FieldStatus, fields, seen, supports
from convsmith.analysis.field.gaussian import Gaussian
from convsmith.analysis.field.positions import Positions
from convsmith.analysis.field.sight import Reach, Sight, Unit, sight
from convsmith.analysis.field.sizes import SmallestInput, smallest_input
from convsmith.analysis.field.top_down import top_down

__all__ = [
    "Axis",
    "Coverage",
    "Field",
    "FieldStatus",
    "Gaussian",
    "Misalignment",
    "Positions",
    "Reach",
    "Sight",
    "SmallestInput",
    "Support",
    "Unit",
    "fields",
    "rows",
    "seen",
    "sight",
    "smallest_input",
    "supports",
    "top_down",
]
