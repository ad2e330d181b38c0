"""What pages take from the library when they are built: there for every page that asks, and true.

Building itself needs the extra ``docs``: ``make docs``, where warnings are errors.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import convsmith as cs
from convsmith.analysis.conventions import CONVENTIONS
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.linting import RULES
from convsmith.rewrite.forms import FORMS

DOCS = Path(__file__).parents[2] / "docs"
ASKED = re.compile(r"^<!-- library: (.*) -->$", re.MULTILINE)


def imported(folder: Path, name: str) -> ModuleType:
    """A module that is no part of the package."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return imported(DOCS, "building.tables")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    return imported(DOCS, "building.figures")


def test_everything_asked_for_is_made_and_everything_made_is_asked_for(
    tables: ModuleType, figures: ModuleType
) -> None:
    asked = {name for page in DOCS.rglob("*.md") for name in ASKED.findall(page.read_text("utf-8"))}
    assert asked == {*tables.MAKERS, *figures.MAKERS}


def test_the_rules_are_all_there(tables: ModuleType) -> None:
    page = tables.rules()
    for rule in RULES:
        assert f"### {rule.code} {rule.name}\n" in page
        assert rule.example in page


def test_every_convention_has_its_total_and_its_terms_add_up(tables: ModuleType) -> None:
    exact = cs.analyze(cs.load("zoo:resnet50")).total.macs
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|(.*)\|$", tables.accounts(), re.MULTILINE))
    assert set(rows) == set(CONVENTIONS)
    for row in rows.values():
        total = int(row.rpartition("|")[2].replace(",", ""))
        added = [int(n.replace(",", "")) for n in re.findall(r"[+-]\d[\d,]*", row)]
        assert exact + sum(added) == total, row


def test_every_public_name_is_on_the_page(tables: ModuleType) -> None:
    page = tables.names()
    for name in set(cs.__all__) - {"__version__"}:
        assert re.search(rf"auto(?:function|class):: convsmith\.\S*\b{name}$", page, re.MULTILINE)


def test_every_algorithm_is_in_a_table_and_has_a_page(tables: ModuleType) -> None:
    shown = tables.algorithms()
    text = "".join(page.read_text("utf-8") for page in (DOCS / "algorithms").glob("*.md"))
    for name, method in ALGORITHMS.items():
        assert f"| `{name}` |" in shown
        module = type(method).__module__.rpartition(".")[2]
        if name != "planar":  # its reference is that of direct
            assert f"algorithms/{module}.py\n" in text, name


def test_every_form_has_a_page_that_names_its_module(tables: ModuleType) -> None:
    shown = tables.forms()
    for name, form in FORMS.items():
        module = type(form).__module__
        page = DOCS / "rewriting" / f"{module.rpartition('.')[2]}.md"
        assert f"`{module}`" in page.read_text("utf-8"), name
        assert f"]({page.name})" in shown, name


def test_figures_are_svg_in_the_colours_of_the_page(figures: ModuleType) -> None:
    for make in figures.MAKERS.values():
        drawn = make()
        assert drawn.startswith('<figure class="drawn"><svg ')
        assert "\n\n" not in drawn  # Markdown would end the figure there
        assert "style=" not in drawn  # colours are those of the page
        assert "nan" not in drawn


def test_a_stored_run_is_shown_with_its_command(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    assert tables.benchmarks() == "No run is stored yet.\n"
    storing = imported(DOCS.parent, "benchmarks.storing")
    made = storing.table(["layer", "ms"], [["conv|1", 0.5]], note="one turn")
    storing.store(tmp_path / "benchmarks" / "run.json", "A run", {"first part": made})
    page = tables.benchmarks()
    assert "## A run\n" in page
    assert "| command | `python " in page
    assert "### first part\n\n| layer | ms |\n| :-- | --: |\n| conv\\|1 | 0.5 |\n" in page
    assert "one turn" in page
