"""What notebooks show: everything public has HTML and Markdown, and names cannot act in either."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from tests.benches import made_bench
from tests.random_weights import random_network

import convsmith
import convsmith as cs
from convsmith.analysis import symbolic
from convsmith.conv.choice import plan as conv_plan
from convsmith.conv.spec import ConvSpec
from convsmith.conv.transposed import TransposedSpec, plan_transposed
from convsmith.diagnosis import Problem, diagnose
from convsmith.graph import Graph, Provenance
from convsmith.linting import Rules, find_rule
from convsmith.optimization import Files, Optimization, Proof
from convsmith.portrait import portrait
from convsmith.results import Displayed
from convsmith.rewrite import distill
from convsmith.rewrite.plan_difference import compare_plans
from convsmith.rewrite.sweeping import sweep
from convsmith.runtime.running import run
from convsmith.signal import image_spectrum

BAD = (
    "<script>alert(1)</script>|![x](http://evil.example/x.png)`</pre></div>"
    "<img src=//evil.example>[a](javascript:alert(1))**\\\n\x1b[2J\u202e🙂"
)
TAGS = {
    *("div", "table", "thead", "tbody", "tr", "th", "td", "p", "strong", "em", "code", "pre", "ul"),
    *("li", "h1", "h2", "h3", "h4", "hr", "br"),
}


def hostile(text: str) -> Graph:
    """A network with weights whose every name wants to act."""
    net = random_network(text)
    names = {name: f"{BAD}{name}" for name in (*(v.name for v in net.inputs), *net.constants)}
    names |= {node.name: f"{BAD}{node.name}" for node in net.nodes}

    def new(name: str) -> str:
        base, colon, number = name.partition(":")
        return f"{names[base]}{colon}{number}"

    return Graph(
        inputs=tuple(replace(value, name=new(value.name)) for value in net.inputs),
        nodes=tuple(
            replace(
                node, name=new(node.name), inputs=tuple(map(new, node.inputs)),
                parameters=tuple(map(new, node.parameters)), provenance=Provenance(path=BAD),
            )
            for node in net.nodes
        ),
        outputs=tuple(replace(o, name=BAD, value=new(o.value)) for o in net.outputs),
        constants={new(name): constant for name, constant in net.constants.items()},
        source=BAD,
    )  # fmt: skip


SMALL = "2@8 > conv 4 3 p1 > bn > relu > conv 8 3/2 > gap > flatten"


@pytest.fixture(scope="module")
def shown() -> dict[str, Displayed]:
    """One object of every kind."""
    net = hostile(SMALL)
    images = np.random.default_rng(0).random((8, 2, 8, 8)).astype(np.float32)
    calibration = cs.calibrate(net, [images])
    made = cs.rewrite(net, macs=0.6, calibration=calibration, strategy="fast")
    verification = cs.verify(net, made.net, [images])
    analysis = cs.analyze(net)
    optimized = Optimization(
        source=BAD, before=analysis, after=cs.analyze(made.net), rewriting=made,
        verification=verification, calibration_images=8, skipped=(f"{BAD}: too small",), timings={},
        speedup=None, proof=Proof(original=0.0, rewritten=0.0), pictures=(),
        files=Files.at(Path("x")), notes=(BAD,),
    )  # fmt: skip
    program = cs.compile(net, tune=False)
    transposed = TransposedSpec(size=(4, 4), channels=2, filters=2, kernel=(4, 4), stride=(2, 2))
    every: list[Displayed] = [
        net,
        analysis,
        analysis.by_module(),
        symbolic(net),
        cs.explain(net),
        cs.compare(hostile("4@9 > conv 4 5 p2")),
        cs.diff(net, made.net),
        cs.lint(net),
        find_rule("stride-skips-pixels"),
        Rules(),
        made,
        made.plan,
        compare_plans(made.plan, replace(made.plan, choices=made.plan.choices[:1])),
        verification,
        optimized,
        sweep(net, [1.0, 0.001], calibration=calibration),
        distill(net, made.net, [images], steps=1),
        cs.merge(net),
        cs.spectrum(net),
        image_spectrum(np.random.default_rng(0).random((2, 8, 8)), through=net, source=BAD),
        portrait(net),
        made_bench(name=BAD),
        run(net, runs=1, tune=False, profile=True),
        program,
        program.describe(),
        replace(diagnose(), problems=(Problem(fact=BAD, remedy=BAD),)),
        conv_plan(ConvSpec(size=(8, 8), channels=4, filters=4, kernel=(3, 3))),
        plan_transposed(transposed),
    ]
    return {type(one).__name__: one for one in every}


def kinds() -> Iterator[type]:
    """Every class of the package that a notebook can show."""
    for module in pkgutil.walk_packages(convsmith.__path__, "convsmith."):
        if ".peers" not in module.name and not module.name.endswith("__main__"):
            import_module(module.name)
    waiting: list[type] = [Displayed]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("convsmith.") and kind.__name__ not in {
            "Displayed",
            "Result",
        }:
            yield kind


def test_there_is_one_of_every_kind(shown: dict[str, Displayed]) -> None:
    assert {kind.__name__ for kind in kinds()} == set(shown)


class Seen(HTMLParser):
    """The tags and attributes of a page, and the words between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.depth = 0
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.depth += tag not in {"br", "hr"}

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        self.words += data


def test_names_cannot_act_in_html(shown: dict[str, Displayed]) -> None:
    for kind, one in shown.items():
        html = one._repr_html_()
        page = Seen(html)
        assert page.tags <= TAGS, kind
        assert page.attributes <= {"style"}, kind
        assert page.depth == 0, kind
        assert len(html) < 200_000, kind
        assert "\x1b" not in html, kind
        assert "\u202e" not in html, kind
        assert page.words.strip(), kind


def test_names_cannot_act_in_markdown(shown: dict[str, Displayed]) -> None:
    """Shown by a parser that allows everything."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    for kind, one in shown.items():
        made = one._repr_markdown_()
        page = Seen(parser.render(made))
        assert page.tags <= TAGS, kind
        assert len(made) < 200_000, kind
        assert "\x1b" not in made, kind


def test_the_names_are_there_as_they_are(shown: dict[str, Displayed]) -> None:
    for kind in ("Graph", "Analysis", "Plan", "Profile", "Program", "Portrait"):
        words = Seen(shown[kind]._repr_html_()).words
        assert "<script>alert(1)</script>|![x](http" in words, kind


def test_a_network_as_a_table() -> None:
    html = cs.load("3@32 > conv 8 3 p1 > relu")._repr_html_()
    assert "2 nodes, 224 parameters" in html
    assert '<td style="text-align:left">conv 8 3 p1</td>' in html


def test_a_long_network_is_cut_in_its_middle() -> None:
    net = cs.load("3@9 > ( conv 3 3 p1 > relu ) x300")
    for one in (net, cs.analyze(net), cs.explain(net)):
        html = one._repr_html_()
        assert len(html) < 200_000
        assert "conv1" in html
        assert "more" in html
        assert "300" in html
        assert len(one._repr_markdown_()) < 200_000


@pytest.mark.parametrize("name", ["\\" * 999, "`" * 999, "|" * 999, "a" * 99_999, "<" * 500])
def test_a_long_name_is_cut_and_stays_one_cell(name: str) -> None:
    net = cs.load("3@9 > conv 3 3")
    node = replace(net.nodes[0], name=name)
    net = replace(net, nodes=(node,), outputs=(replace(net.outputs[0], value=name),))
    for one in (net, cs.analyze(net)):
        html = one._repr_html_()
        assert len(html) < 10_000
        rows = html.split("<tr>")
        assert len({row.count("<td") for row in rows if "<td" in row}) == 1
        assert "conv 3 3" in html


def test_a_plan_of_a_convolution_is_shown_as_it_prints_itself() -> None:
    made = conv_plan(ConvSpec(size=(8, 8), channels=4, filters=4, kernel=(3, 3)))
    assert "<pre><code>ConvPlan of" in made._repr_html_()
    assert made._repr_markdown_().startswith("```\nConvPlan of")


def test_what_has_no_form_at_all_is_shown_as_text() -> None:
    class Odd(Displayed):
        def __str__(self) -> str:
            return "``` <b> " * 3

    assert Seen(Odd()._repr_html_()).tags == {"div", "pre", "code"}
    assert Odd()._repr_markdown_().startswith("````\n")
