"""What people see, character by character.

To accept a change, run with ``CONVSMITH_UPDATE_GOLDEN=1`` and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.cells import cell_len

from convsmith.analysis import Analysis, analyze
from convsmith.graph import GraphBuilder, parse
from convsmith.graph.operators import Activation
from convsmith.report import csv, markdown, text
from convsmith.sources.zoo import network

HERE = Path(__file__).parent

NETWORKS = {
    "vgg16": "zoo:vgg16",
    "gate": "3@64 > conv 16 3 p1 > ( [ gap > conv 4 1 > relu > conv 16 1 > sigmoid ] + - )"
    " > maxpool 2/2 > conv 16 3x1 p1x0 > up 2 bilinear half_pixel > conv 3 3 p1",
    "unknown": "3@8 > conv 8 3 p1 > unsupported GridSample 8@8 > conv 4 1 > flatten > fc 10",
}


def analysis(name: str) -> Analysis:
    source = NETWORKS[name]
    zoo = source.removeprefix("zoo:")
    return analyze(network(zoo) if zoo != source else parse(source))


def check(name: str, found: str) -> None:
    file = HERE / name
    if os.environ.get("CONVSMITH_UPDATE_GOLDEN"):
        file.write_text(f"{found}\n", encoding="utf-8")
    assert f"{found}\n" == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_table(name: str, width: int) -> None:
    check(f"{name}-{width}.txt", text(analysis(name), width=width))


def test_the_table_with_colors() -> None:
    check("unknown-color.txt", text(analysis("unknown"), width=80, color=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_markdown(name: str) -> None:
    check(f"{name}.md", markdown(analysis(name)))


@pytest.mark.parametrize("name", NETWORKS)
def test_csv(name: str) -> None:
    check(f"{name}.csv", csv(analysis(name)).removesuffix("\n"))


@pytest.mark.parametrize("width", [*range(60, 120), 180, 240])
@pytest.mark.parametrize("name", ["googlenet", "resnet50", "unet"])
def test_no_line_is_too_wide_and_no_number_is_cut(name: str, width: int) -> None:
    result = analyze(network(name))
    lines = text(result, width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    total = result.total
    exact = " ".join(lines[-14:])
    for count in (total.params, total.macs, total.flops, total.mults, total.adds, total.others):
        assert f"{count:,}" in exact
    table = lines[5 : 5 + len(result.rows)]
    assert not [line for line in table if "…" in line[40:]]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_odd_names_neither_style_nor_move_anything(width: int) -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 1, 4, 4))
    for name in (
        "[bold]red[/]",
        "a\x1b[2Jb",
        "emoji 😀😀😀😀😀😀😀😀😀😀😀😀",
        "line\nbreak",
        "|*_`<b>",
    ):
        x = builder.add(Activation(kind="relu"), x, name=name)
    shown = text(analyze(builder.build(("y", x))), width=width)
    assert "\x1b" not in shown
    if width > 20:
        assert "[bold]red[/]" in shown
        assert "a\\x1b[2Jb" in shown
    rendered = markdown(analyze(builder.build(("y", x))))
    assert r"\|\*\_\`\<b\>" in rendered
    assert r"\[bold\]red\[/\]" in rendered
