"""Networks of one layer with weights, any that there is, and forms in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from convsmith.graph import Constant, Graph, GraphBuilder
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Conv, Linear
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.candidates import group_problem, joined
from convsmith.rewrite.following import Weighting
from convsmith.rewrite.forms import Form, Widths
from convsmith.rewrite.site import Site

__all__ = ["apart", "layers", "replaced", "site_of"]

Array = npt.NDArray[Any]


@st.composite
def layers(draw: st.DrawFn) -> Graph:
    """A network of one layer with weights: any convolution, transposed or not, or linear."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(0, 3))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    ins = groups * draw(st.integers(1, 3))
    outs = groups * draw(st.integers(1, 4))
    bias = draw(st.booleans())
    batch = draw(st.integers(1, 2))
    builder = GraphBuilder()
    if rank == 0:
        x = builder.input("x", (batch, ins), dtype="float64")
        op: Conv | Linear = Linear(features=outs, bias=bias)
        shape: tuple[int, ...] = (outs, ins)
    else:
        longest = {1: 7, 2: 5, 3: 3}[rank]
        kernel = tuple(draw(st.integers(1, longest)) for _ in range(rank))
        stride = tuple(draw(st.integers(1, 3)) for _ in range(rank))
        dilation = tuple(draw(st.integers(1, 2)) for _ in range(rank))
        transposed = draw(st.sampled_from([False, False, True]))
        reach = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        pads = tuple((draw(st.integers(0, r)), draw(st.integers(0, r))) for r in reach)
        same: Any = None if transposed else draw(st.sampled_from([None, None, "upper", "lower"]))
        extra = tuple(draw(st.integers(0, s - 1)) for s in stride) if transposed else ()
        sizes = tuple(r + 1 + draw(st.integers(0, 4)) for r in reach)
        op = Conv(
            channels=outs,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            padding=((0, 0),) * rank if same else pads,
            same=same,
            groups=groups,
            bias=bias,
            transposed=transposed,
            output_padding=extra if any(extra) else (),
        )
        x = builder.input("x", (batch, ins, *sizes), dtype="float64")
        shape = (ins, outs // groups, *kernel) if transposed else (outs, ins // groups, *kernel)
    names = [builder.constant("w", Constant.of(random.normal(size=shape)))]
    if bias:
        names.append(builder.constant("b", Constant.of(random.normal(size=outs))))
    builder.add(op, x, name="layer", parameters=names)
    return builder.build("layer")


def site_of(net: Graph) -> Site:
    return Site.of(net, net.by_name["layer"])


def replaced(net: Graph, form: Form, variant: str, widths: Widths, rounds: int = 2) -> Graph:
    """The network with a fitted form in place of its layer; outputs count unequally."""
    site = site_of(net)
    counts = Weighting.of_scale(np.linspace(0.5, 2, site.groups * site.outs), site.groups)
    parts = [
        form.fitter(group_problem(site, None, counts, group), variant).fit(widths, rounds=rounds)
        for group in range(site.groups)
    ]
    ops = form.layout(site, variant, widths)
    return replace_layers(net, {"layer": site.steps(ops, joined(parts, counts), site.bias)})


def apart(one: Graph, two: Graph) -> float:
    x = np.random.default_rng(1).normal(size=one.inputs[0].shape)
    wanted, made = (evaluate(net, {"x": x})["layer"] for net in (one, two))
    assert wanted.shape == made.shape
    return float(np.abs(wanted - made).max() / max(np.abs(wanted).max(), 1.0))
