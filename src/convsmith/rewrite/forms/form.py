"""What a form is: one way to put cheaper layers in the place of a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from convsmith.rewrite.fitting import Problem, compose
from convsmith.rewrite.site import Kernels, LayerOp, Site

__all__ = ["Fitter", "Form", "Widths", "aligned", "chain_weight", "spread_groups"]

Array = npt.NDArray[Any]

Widths = tuple[int, ...]
"""The free sizes of a form: the channels between its layers, or the number of its terms."""


class Fitter(Protocol):
    """One variant of a form, ready to be fitted to one group of a layer at any widths."""

    def fit(self, widths: Widths, *, rounds: int, first: Kernels | None = None) -> Kernels:
        """Fits the kernels.

        Args:
            widths: The free sizes.
            rounds: How many rounds of alternating least squares follow the start.
            first: Kernels of the same widths to begin with, instead of the start of the form.

        Returns:
            ``(C_out, C_in / inner groups, *kernel)`` for every layer, for one group of the site.
        """
        ...


class Form(ABC):
    """A form: preconditions, cost, and the fit to trained weights.

    Attributes:
        name: In plans and tables.
        text: ``A -> B`` in the notation, for reading.
        automatic: Whether it is tried without being asked for; forms that lose too much without
            training are not.
    """

    name: ClassVar[str]
    text: ClassVar[str]
    automatic: ClassVar[bool] = True

    @abstractmethod
    def refusal(self, site: Site) -> str:
        """Says why the form does not apply to a layer; empty when it does."""

    @abstractmethod
    def variants(self, site: Site) -> Sequence[str]:
        """Names the ways to do it, such as which layer comes first."""

    @abstractmethod
    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """Returns the widths that are worth trying, narrow to wide; some may not be cheaper."""

    @abstractmethod
    def full(self, site: Site, variant: str) -> Widths:
        """Returns the widths beyond which nothing is gained; wider ones are refused."""

    @abstractmethod
    def layout(self, site: Site, variant: str, widths: Widths) -> tuple[LayerOp, ...]:
        """Returns the layers that stand for the one of the site; the last carries the bias."""

    def possible(self, site: Site, variant: str, widths: Widths) -> bool:
        """Whether there is a layout with these widths, each at least 1 and at most full."""
        return True

    def mixes(self, variant: str) -> bool:
        """Whether the last layer can mix all outputs, so that errors in them may count jointly."""
        return True

    @abstractmethod
    def fitter(self, problem: Problem, variant: str) -> Fitter:
        """Prepares what the fits of all widths share."""

    def admits(self, site: Site, variant: str, widths: Widths) -> bool:
        """Whether widths, from wherever, are some that the form can have here."""
        full = self.full(site, variant)
        within = len(widths) == len(full) and all(
            1 <= width <= most for width, most in zip(widths, full, strict=True)
        )
        return within and self.possible(site, variant, widths)

    def weight(self, kernels: Kernels, shape: tuple[int, ...], variant: str) -> Array:
        """The one kernel of this shape that fitted kernels of a group amount to.

        Args:
            kernels: From :meth:`Fitter.fit`.
            shape: ``(C_out, C_in, *kernel)`` of one group.
            variant: Which way it was done.
        """
        return chain_weight(kernels, shape[1])


def chain_weight(kernels: Sequence[Array], ins: int) -> Array:
    """What a chain amounts to for ``ins`` input channels, ``(C_out, C_in, *kernel)``.

    >>> chain_weight([np.ones((2, 1, 3)), np.ones((1, 2, 1))], 2).shape  # depthwise, pointwise
    (1, 2, 3)
    """
    dense = spread_groups(kernels[0], ins)
    for kernel in kernels[1:]:
        dense = compose(dense, spread_groups(kernel, len(dense)))
    return dense


def spread_groups(kernel: Array, channels: int) -> Array:
    """A kernel of several groups as one of a single group, with zeros elsewhere."""
    outs, per_group = kernel.shape[:2]
    groups = channels // per_group
    if groups == 1:
        return kernel
    full = np.zeros((outs, channels, *kernel.shape[2:]))
    deep = outs // groups
    for group in range(groups):
        outputs = slice(group * deep, (group + 1) * deep)
        full[outputs, group * per_group : (group + 1) * per_group] = kernel[outputs]
    return full


def aligned(most: int, *, about: int = 12) -> list[Widths]:
    """About a dozen widths up to ``most``, multiples of 4 or more so that vectors are full.

    >>> aligned(30)
    [(4,), (8,), (12,), (16,), (20,), (24,), (28,)]
    >>> aligned(3)
    [(3,)]
    """
    if most < 1:
        return []
    step = 4 if most <= 64 else 8 if most <= 128 else 16 * -(-most // 256)
    step = max(step, 4 * (most // (4 * about)))
    step = min(step, most)
    return [(width,) for width in range(step, most + 1, step)]
