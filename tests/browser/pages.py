"""One page of every kind, made once, with names that would hurt if they were more than names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tests.benches import made_bench
from tests.random_weights import random_network
from tests.renaming import renamed

from convsmith.analysis import Analysis, analyze, diff, fields
from convsmith.analysis.comparing import arrangements, side_by_side
from convsmith.analysis.explaining import explain
from convsmith.analysis.symbolic import symbolic
from convsmith.graph import GraphBuilder, parse
from convsmith.graph.operators import Activation, Conv
from convsmith.linting import Rules, lint
from convsmith.optimization import Files, Optimization, Picture, Prediction
from convsmith.portrait import picture_of, portrait
from convsmith.report import html
from convsmith.rewrite import Choice, Plan, Rewriting, Verification, calibrate
from convsmith.rewrite.sweeping import sweep
from convsmith.rewrite.verifying import OutputError
from convsmith.runtime.timing import Timing
from convsmith.signal import image_spectrum, spectrum
from convsmith.sources import load

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
"""Opens a page: its text, and what stands behind its address."""

HOSTILE = "<img src=x onerror=\"document.documentElement.dataset.hurt='1'\">'\"&😀"

RESTORER = Path(__file__).parents[2] / "examples" / "restorer" / "restorer.onnx"


def hostile_analysis() -> Analysis:
    builder = GraphBuilder()
    x = builder.input("x", (1, 1, 8, 8))
    for name, channels in (("b10", 2), (HOSTILE, 8), ("b9", 4)):
        op = Conv(
            channels=channels,
            kernel=(3, 3),
            stride=(1, 1),
            padding=((1, 1), (1, 1)),
            dilation=(1, 1),
        )
        x = builder.add(op, x, name=name)
    x = builder.add(Activation(kind="relu"), x, name="relu")
    return analyze(builder.build(("y", x), source=HOSTILE))


@cache
def analysis_page() -> str:
    return html(hostile_analysis())


def optimization() -> Optimization:
    """A layer with a dangerous name, and two layers that stand for it."""
    original = renamed(parse("1@16 > conv 4 5 p2 > conv 1 3 p1"), (HOSTILE, "conv2"))
    net = renamed(
        parse("1@16 > conv 2 5x1 p2x0 > conv 4 1x5 p0x2 > conv 1 3 p1"),
        (f"{HOSTILE}.1", HOSTILE, "conv2"),
        (HOSTILE, HOSTILE, ""),
    )
    seen = fields(net)["conv2"]
    one, two = analyze(original), analyze(net)
    replaced = Choice(
        layer=HOSTILE,
        form="spatial",
        text="conv 2 5x1 > conv 4 1x5",
        shape=(4, 1, 5, 5),
        macs_before=25600,
        macs_after=12800,
        error=0.01,
    )
    kept = replace(replaced, layer="conv2", form="keep", text="conv 1 3 p1", error=0.0)
    found = Verification(
        images=1,
        data="test images",
        layers={},
        outputs=(OutputError(name="y", relative=0.1, largest=0.2, agreement=None),),
        metric=None,
        fields={"y": (seen, seen)},
    )
    plan = Plan(source="tiny.onnx", budget={"macs": 0.5}, choices=(replaced, kept))
    before = Timing(samples=(3.0, 3.0), engine="E", version="1", threads=1, shapes={})
    image = np.random.default_rng(0).uniform(0, 1, (1, 16, 16)).astype(np.float32)
    photograph = picture_of(image, HOSTILE)
    return Optimization(
        source=HOSTILE,
        before=one,
        after=two,
        rewriting=Rewriting(
            original=original,
            net=net,
            plan=plan,
            before=one.total,
            after=two.total,
            verification=None,
        ),
        verification=found,
        calibration_images=1,
        skipped=(HOSTILE,),
        timings={"before": before, "after": replace(before, samples=(2.0, 2.0))},
        speedup=1.5,
        proof=None,
        pictures=(Picture(name=HOSTILE, given=image, wanted=image, before=image, after=1 - image),),
        files=Files.at("build"),
        notes=(HOSTILE,),
        photograph=photograph,
        predictions=(
            Prediction(
                name=HOSTILE,
                picture=photograph,
                wanted=HOSTILE,
                classes=(HOSTILE, "dog"),
                before=(0.75, 0.25),
                after=(0.5, 0.5),
            ),
        ),
        digests={"original file": "0" * 64},
    )


@cache
def optimization_page() -> str:
    return html(optimization())


@cache
def comparison_page() -> str:
    net = parse(f"x : 8@16\n{dumps(HOSTILE)} = conv 8 5 p2 (x)\nreturn y = {dumps(HOSTILE)}")
    return html(arrangements(replace(net, source=HOSTILE)))


@cache
def networks_page() -> str:
    net = parse("8@16 > conv 8 5 p2 > unsupported Foo 8@8", source=HOSTILE)
    return html(side_by_side([net, parse("8@16 > conv 8 3 > relu")]))


@cache
def view_page() -> str:
    return html(hostile_analysis().by_module())


@cache
def difference_page() -> str:
    changed = parse("1@8 > conv 2 3 p1 > unsupported Foo 4@8", source=HOSTILE)
    return html(diff(hostile_analysis(), changed, macs="-99%", params="1M"))


@cache
def explanation_page() -> str:
    net = parse(f"x : 8@16\n{dumps(HOSTILE)} = conv 8 5/2 p2 (x)\nreturn y = {dumps(HOSTILE)}")
    return html(explain(replace(net, source=HOSTILE)))


@cache
def lint_page() -> str:
    net = parse(f"x : 8@16\n{dumps(HOSTILE)} = conv 8 1/2 (x)\nreturn y = {dumps(HOSTILE)}")
    return html(lint(replace(net, source=HOSTILE), select="all"))


@cache
def symbolic_page() -> str:
    net = parse(f"x : 8@16\n{dumps(HOSTILE)} = conv 8 5/2 p2 (x)\nreturn y = {dumps(HOSTILE)}")
    return html(symbolic(replace(net, source=HOSTILE)))


@cache
def bench_page() -> str:
    return html(made_bench(name=HOSTILE, cold=True))


@cache
def spectrum_page() -> str:
    found = spectrum(random_network("1@16 > conv 8 5 p2 > relu > conv 4 3/2 p1"))
    layers = (replace(found.layers[0], name=HOSTILE), *found.layers[1:])
    return html(replace(found, source=HOSTILE, layer=HOSTILE, layers=layers))


@cache
def sweep_page() -> str:
    net = replace(random_network("4@8 > conv 8 3 p1 > relu > conv 8 3 p1"), source=HOSTILE)
    images = np.random.default_rng(0).normal(size=(8, 4, 8, 8)).astype(np.float32)
    found = sweep(
        net,
        [0.01, 0.5, 0.8],
        calibration=calibrate(net, [images]),
        strategy="fast",
        measure=(),
    )
    return html(replace(found, notes=(HOSTILE,)))


@cache
def rules_page() -> str:
    return html(Rules())


@cache
def image_spectrum_page() -> str:
    image = np.random.default_rng(0).uniform(0, 1, (1, 32, 48))
    return html(replace(image_spectrum(image, filter="gaussian:1"), source=HOSTILE))


@cache
def portrait_page() -> str:
    """The shipped network with times of it and a plan for it, made without measuring."""
    net = load(RESTORER, (1, 1, 64, 64), weights=False)
    convolutions = [node for node in net.nodes if isinstance(node.op, Conv)]
    layers = made_bench(layers=2).layers
    names = [node.name for node in convolutions]
    bench = replace(
        made_bench(),
        layers=(
            replace(layers[0], name=names[0], names=tuple(names[:3])),
            replace(layers[1], name=names[3], names=(names[3],)),
        ),
    )
    choices = [
        Choice(
            layer=name,
            form="keep" if place == 0 else "spatial",
            text="conv 8 3x1 > conv 4 1x3",
            shape=(4, 1, 3, 3),
            macs_before=1000,
            macs_after=1000 if place == 0 else 400,
            error=0.0 if place == 0 else 0.01,
        )
        for place, name in enumerate(names)
    ]
    plan = Plan(source="restorer.onnx", budget={"macs": 0.5}, choices=tuple(choices))
    return html(portrait(net, bench=bench, plan=plan))
