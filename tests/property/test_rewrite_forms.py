"""Every form at full rank is the layer itself: every window, stride, border, group and axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.random_layers import apart, layers, replaced, site_of

from convsmith.analysis import analyze, fields
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Conv, Linear
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.candidates import group_problem, joined
from convsmith.rewrite.following import Weighting
from convsmith.rewrite.forms import FORMS, Form, Widths
from convsmith.rewrite.site import Site, cost

Array = npt.NDArray[Any]

EXACT = [form for form in FORMS.values() if form.name not in ("cp", "dilated", "grouped")]
"""Those that have a rank at which nothing is lost."""

TIGHT = [FORMS[name] for name in ("spatial", "channel", "depthwise_separable")]
"""Those of which random weights need the last rank, too."""


@pytest.mark.parametrize("form", EXACT, ids=lambda form: form.name)
@given(net=layers())
def test_a_form_is_exact_at_full_rank(form: Form, net: Graph) -> None:
    site = site_of(net)
    if form.refusal(site):
        return
    for variant in form.variants(site):
        made = replaced(net, form, variant, form.full(site, variant))
        assert apart(net, made) < 1e-5, variant


@settings(max_examples=20)
@given(net=layers())
def test_rank_one_terms_come_near_at_full_rank(net: Graph) -> None:
    """They converge slowly, whatever their number."""
    form, site = FORMS["cp"], site_of(net)
    if not form.refusal(site):
        (variant,) = form.variants(site)
        made = replaced(net, form, variant, form.full(site, variant), rounds=20)
        assert apart(net, made) < 2e-2


@pytest.mark.parametrize("form", TIGHT, ids=lambda form: form.name)
@given(net=layers())
def test_one_rank_less_is_seen(form: Form, net: Graph) -> None:
    """The test above can fail."""
    site = site_of(net)
    if form.refusal(site):
        return
    for variant in form.variants(site):
        (most,) = form.full(site, variant)
        if most > 1:
            dense = _dense(form, site, variant, (most - 1,))
            assert np.abs(dense - site.weight).max() > 1e-5, variant


@pytest.mark.parametrize("form", EXACT, ids=lambda form: form.name)
@settings(max_examples=40)
@given(net=layers())
def test_torch_computes_the_same_of_the_layer(form: Form, net: Graph) -> None:
    """The oracle of borders, strides and groups is not the evaluator that runs the chain."""
    site = site_of(net)
    if form.refusal(site) or (isinstance(site.op, Conv) and site.op.same is not None):
        return  # torch knows SAME for stride 1 only; the evaluator is the oracle above
    x = np.random.default_rng(1).normal(size=net.inputs[0].shape)
    wanted = _by_torch(net, x)
    for variant in form.variants(site):
        made = replaced(net, form, variant, form.full(site, variant))
        got = evaluate(made, {"x": x})["layer"]
        assert np.abs(got - wanted).max() <= 1e-5 * max(np.abs(wanted).max(), 1.0)


def _by_torch(net: Graph, x: Array) -> Array:
    """The layer in torch, its borders padded and cut by hand."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    op = site_of(net).op
    weight = torch.from_numpy(np.array(net.constants["w"].data))
    bias = torch.from_numpy(np.array(net.constants["b"].data)) if op.bias else None
    given = torch.from_numpy(x)
    if isinstance(op, Linear):
        return np.asarray(functional.linear(given, weight, bias).numpy())
    rank = len(op.kernel)
    options: dict[str, Any] = {"stride": op.stride, "dilation": op.dilation, "groups": op.groups}
    sides = [side for pair in reversed(op.padding) for side in pair]
    if not op.transposed:
        conv = getattr(functional, f"conv{rank}d")
        return np.asarray(conv(functional.pad(given, sides), weight, bias, **options).numpy())
    conv = getattr(functional, f"conv_transpose{rank}d")
    whole = conv(given, weight, **options)
    extra = op.output_padding or (0,) * rank
    whole = functional.pad(whole, [side for size in reversed(extra) for side in (0, size)])
    inside = tuple(
        slice(low, size - high)
        for size, (low, high) in zip(whole.shape[2:], op.padding, strict=True)
    )
    made = whole[(..., *inside)]
    if bias is not None:
        made = made + bias.reshape(1, -1, *(1,) * rank)
    return np.asarray(made.numpy())


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
@given(net=layers(), data=st.data())
def test_a_form_costs_what_is_said_and_sees_what_the_layer_sees(
    form: Form, net: Graph, data: st.DataObject
) -> None:
    site = site_of(net)
    assert site.cost[0] == analyze(net).total.macs
    assert site.cost[1] == analyze(net).total.params
    if form.refusal(site):
        return
    variant = data.draw(st.sampled_from(list(form.variants(site))))
    full = form.full(site, variant)
    widths = tuple(data.draw(st.integers(1, most)) for most in full)
    if not form.admits(site, variant, widths):
        return
    after = replaced(net, form, variant, widths, rounds=0)
    ops = form.layout(site, variant, widths)
    total = analyze(after).total
    assert cost(ops, site.x) == (total.macs, total.params)
    before, behind = fields(net)["layer"], fields(after)["layer"]
    if isinstance(site.op, Conv) and not site.op.transposed:
        for one, other in zip(before.axes, behind.axes, strict=True):
            assert one is not None
            assert other is not None
            assert (one.size, one.offset) == (other.size, other.offset)


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
@given(net=layers(), data=st.data())
def test_what_kernels_amount_to_is_what_the_chain_computes(
    form: Form, net: Graph, data: st.DataObject
) -> None:
    """The weight that errors are reckoned with, against the chain that runs."""
    site = site_of(net)
    if form.refusal(site):
        return
    variant = data.draw(st.sampled_from(list(form.variants(site))))
    widths = tuple(data.draw(st.integers(1, most)) for most in form.full(site, variant))
    if not form.admits(site, variant, widths):
        return
    counts = Weighting.of_scale(np.ones(site.groups * site.outs), site.groups)
    parts = [
        form.fitter(group_problem(site, None, counts, group), variant).fit(widths, rounds=0)
        for group in range(site.groups)
    ]
    dense = _dense(form, site, variant, widths, rounds=0)
    ops = form.layout(site, variant, widths)
    chain = replace_layers(net, {"layer": site.steps(ops, joined(parts, counts), site.bias)})
    single = replace_layers(net, {"layer": site.steps((_biased(site),), (dense,), site.bias)})
    assert apart(single, chain) < 1e-9


def _biased(site: Site) -> Conv | Linear:
    axes = range(len(site.kernel))
    return site.part(site.outs, axes, last=True)


def _dense(form: Form, site: Site, variant: str, widths: Widths, rounds: int = 2) -> Array:
    """What the form's kernels amount to, fitted to the weights alone."""
    counts = Weighting.of_scale(np.ones(site.groups * site.outs), site.groups)
    made = [
        form.weight(
            form.fitter(group_problem(site, None, counts, group), variant).fit(
                widths, rounds=rounds
            ),
            site.weight.shape[1:],
            variant,
        )
        for group in range(site.groups)
    ]
    return np.stack(made)
