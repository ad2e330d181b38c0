"""k x k depthwise to T times k x 1 and 1 x k depthwise: thin windows, channel by channel.

::

    W'[c, h, w] = sum_n Y[c, n, h] X[c, n, w]

For the large depthwise kernels of ConvNeXt and its like (7 x 7 to 31 x 31): two terms of a
31 x 31 kernel cost 13 % of it. It is the form ``spatial`` for every channel on its own, with
``T`` channels between the two layers for each.

Multiplications per output position: ``2 T C k`` (the first layer's per its own outputs).
"""

from __future__ import annotations

from collections.abc import Sequence

from convsmith.rewrite.forms.form import Widths
from convsmith.rewrite.forms.spatial import SPLITS, Spatial
from convsmith.rewrite.site import Site

__all__ = ["DepthwiseSpatial"]

TERMS = 4
"""More are not tried unless a plan asks for them."""


class DepthwiseSpatial(Spatial):
    """Two thin depthwise convolutions."""

    name = "depthwise_spatial"
    text = "dw KxK -> conv TC Kx1 gC > conv C 1xK gC"

    def refusal(self, site: Site) -> str:
        """Says why not: it is for depthwise layers with long windows."""
        if site.obstacle:
            return site.obstacle
        if not site.depthwise:
            return "it is not depthwise"
        if len(site.kernel) not in SPLITS or sum(size > 1 for size in site.kernel) < 2:
            return f"its kernel {'x'.join(map(str, site.kernel))} is thin already"
        return ""

    def grid(self, site: Site, variant: str) -> Sequence[Widths]:
        """One term, two, ..."""
        return [(terms,) for terms in range(1, min(TERMS, *self.full(site, variant)) + 1)]
