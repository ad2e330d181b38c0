"""A network as a whole, for people who look: everything that its page shows, as plain data.

Costs, formulas and fields are those of :mod:`convsmith.analysis`; here they are put beside the
graph's edges, its modules as boxes that can be opened, and what every unit of every layer sees.
"""

from __future__ import annotations

from convsmith.portrait.modules import Module, Modules, modules
from convsmith.portrait.picture import Picture, picture_of, read_picture
from convsmith.portrait.portrait import EffectiveMap, Portrait, file_digest, portrait
from convsmith.portrait.redacting import redacted
from convsmith.portrait.views import AxisView, LayerView, views

__all__ = [
    "AxisView",
    "EffectiveMap",
    "LayerView",
    "Module",
    "Modules",
    "Picture",
    "Portrait",
    "file_digest",
    "modules",
    "picture_of",
    "portrait",
    "read_picture",
    "redacted",
    "views",
]
