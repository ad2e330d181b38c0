"""What the pages show works as it stands there, and what they point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.examples import run_page
from tests.markdown import blocks, headings, links, prose, slug

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAMES = [str(page.relative_to(DOCS)) for page in PAGES]
WITH_EXAMPLES = [
    page for page in PAGES if any(blocks(page.read_text("utf-8"), "python", "console"))
]


@pytest.mark.parametrize(
    "page", WITH_EXAMPLES, ids=[str(page.relative_to(DOCS)) for page in WITH_EXAMPLES]
)
def test_the_examples_run_and_print_what_stands_there(page: Path, desk: Path) -> None:
    assert run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page.read_text("utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor and found.suffix == ".md":
            text = found.read_text("utf-8")
            anchors = {slug(heading) for _, heading in headings(text)}
            assert anchor in anchors or "<!-- library:" in text, f"{page.name} links to {target}"


def test_every_page_can_be_reached() -> None:
    listed = {"index.md"}
    for page in PAGES:
        for block in blocks(page.read_text("utf-8"), "{toctree}"):
            names = [line for line in block.text.splitlines() if line and not line.startswith(":")]
            for name in names:
                path = (page.parent / f"{name}.md").resolve()
                listed.add(str(path.relative_to(DOCS)))
    assert listed == set(NAMES)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_has_one_title_and_no_command_that_is_not_run(page: Path) -> None:
    text = page.read_text("utf-8")
    assert [depth for depth, _ in headings(text)].count(1) == 1
    for block in blocks(text):
        if block.language not in ("console", "python", "yaml", "{literalinclude}"):
            assert "$ convsmith" not in block.text, f"{page.name}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_shown_code_is_there(page: Path) -> None:
    for name, options in re.findall(
        r"^```\{literalinclude\} (\S+)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S
    ):
        source = (page.parent / name).resolve()
        assert source.is_file(), name
        for wanted in re.findall(r"^:(?:start-at|end-before|start-after): (.*)$", options, re.M):
            assert wanted in source.read_text("utf-8"), f"{page.name}: {wanted!r} is not in {name}"


def test_formulas_are_closed() -> None:
    for page in PAGES:
        text = re.sub(r"`[^`\n]*`", "", prose(page.read_text("utf-8")))
        assert text.count("$$") % 2 == 0, page.name
