"""Forms: ways to put cheaper layers in the place of a trained one, by name."""

from __future__ import annotations

from collections.abc import Iterable

from convsmith.errors import UsageError
from convsmith.rewrite.forms.channel import Channel
from convsmith.rewrite.forms.cp import CP
from convsmith.rewrite.forms.depthwise_separable import DepthwiseSeparable
from convsmith.rewrite.forms.depthwise_spatial import DepthwiseSpatial
from convsmith.rewrite.forms.dilated import Dilated
from convsmith.rewrite.forms.form import Fitter, Form, Widths
from convsmith.rewrite.forms.grouped import Grouped
from convsmith.rewrite.forms.spatial import Spatial
from convsmith.rewrite.forms.stack import Stack
from convsmith.rewrite.forms.tucker import Tucker

__all__ = ["FORMS", "KEEP", "REFIT", "Fitter", "Form", "Widths", "named"]

KEEP = "keep"
"""The name that stands for leaving a layer as it is."""

REFIT = "refit"
"""The name that stands for a layer of the same size with new weights."""

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Spatial(),
        Stack(),
        Channel(),
        Tucker(),
        DepthwiseSeparable(),
        DepthwiseSpatial(),
        CP(),
        Grouped(),
        Dilated(),
    )
}
"""Every form, in the order in which tables show them."""


def named(names: Iterable[str] | None) -> tuple[Form, ...]:
    """The forms of these names; by default those that are tried without being asked for.

    Raises:
        UsageError: If there is no form of that name.

    >>> [form.name for form in named(["channel"])]
    ['channel']
    """
    if names is None:
        return tuple(form for form in FORMS.values() if form.automatic)
    found = []
    for name in names:
        if name not in FORMS:
            raise UsageError(f"there is no form {name!r}", remedy=f"choose from {', '.join(FORMS)}")
        found.append(FORMS[name])
    return tuple(found)
