"""Sums and differences as people see them, character by character.

To accept a change, run with ``CONVSMITH_UPDATE_GOLDEN=1`` and read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.cells import cell_len

from convsmith.analysis import Difference, View, analyze, diff
from convsmith.graph import parse
from convsmith.report import csv, html, markdown, text
from convsmith.results import Result
from convsmith.sources.zoo import network

HERE = Path(__file__).parent

BLOCK = """
x : 16@32
stem.conv = conv 16 3 p1 (x)
stem.relu = relu (stem.conv)
body.0.conv1 = conv 32 1 (stem.relu)
body.0.relu = relu (body.0.conv1)
body.0.conv2 = conv 16 3 p1 g16 (body.0.relu)
body.0.add = add (body.0.conv2 stem.relu)
body.1 = unsupported Swirl 16@32 (body.0.add)
head.pool = gap (body.1)
head.flat = flatten (head.pool)
head.fc = fc 10 (head.flat)
return scores = head.fc
"""
CHANGED = (
    BLOCK.replace("conv 32 1", "conv 64 1")
    .replace("body.0.add", "body.0.sum")
    .replace("head.flat = flatten (head.pool)\n", "")
    .replace("(head.flat)", "(head.pool)")
    .replace("fc 10", "conv 10 1")
)


def results() -> dict[str, Result]:
    old, new = analyze(parse(BLOCK, source="block")), analyze(parse(CHANGED, source="wider"))
    budgets = diff(old, new, macs="+10%", params="1M", weight_bytes="-1%", same_field=True)
    return {
        "modules": old.by_module(),
        "operators": old.by_operator(),
        "layers": old.by_layer(),
        "difference": budgets,
        "nothing": diff(old, old),
    }


def check(name: str, found: str) -> None:
    file = HERE / name
    if os.environ.get("CONVSMITH_UPDATE_GOLDEN"):
        file.write_text(f"{found}\n", encoding="utf-8")
    assert f"{found}\n" == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", ["modules", "operators", "layers", "difference", "nothing"])
def test_the_table(name: str, width: int) -> None:
    check(f"{name}-{width}.txt", text(results()[name], width=width))


@pytest.mark.parametrize("name", ["modules", "difference"])
def test_the_table_with_colors(name: str) -> None:
    check(f"{name}-color.txt", text(results()[name], width=100, color=True))


@pytest.mark.parametrize("name", ["modules", "difference"])
def test_other_forms(name: str) -> None:
    check(f"{name}.md", markdown(results()[name]))
    check(f"{name}.csv", csv(results()[name]).removesuffix("\n"))


def shown() -> list[View | Difference]:
    analysis = analyze(network("googlenet"))
    views = [analysis.by_module(), analysis.by_module(1), analysis.by_operator()]
    return [*views, diff(network("resnet18"), analysis), diff(analysis, network("resnet50"))]


@pytest.mark.parametrize("width", [60, 80, 100, 119, 120, 180, 240])
def test_no_line_is_too_wide(width: int) -> None:
    for result in shown():
        assert max(map(cell_len, text(result, width=width).splitlines())) <= width


HOSTILE = "<script>alert(1)<\\script>\x1b[2J|*_`[x](y)"


def hostile() -> list[Result]:
    quoted = json.dumps(HOSTILE)
    old = parse(f"x : 3@8\n{quoted} = conv 4 3 (x)\nreturn {quoted} = {quoted}", source=HOSTILE)
    new = parse(f"x : 3@8\n{quoted} = conv 4 5 (x)\nreturn {quoted} = {quoted}", source=HOSTILE)
    assert old.nodes[0].name == HOSTILE
    analysis = analyze(old)
    return [analysis, analysis.by_module(), analysis.by_layer(), diff(old, new, same_field=True)]


def test_names_neither_act_nor_move_anything() -> None:
    for result in hostile():
        page = html(result)
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page
        for shape in (page, text(result, width=200), markdown(result)):
            assert "\x1b" not in shape
        assert r"\|\*\_\`\[x\]" in markdown(result)
