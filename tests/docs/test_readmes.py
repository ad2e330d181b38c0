"""README.md and README.zh-CN.md say the same: what can be compared without reading is compared."""

from __future__ import annotations

import re
from pathlib import Path

from tests.markdown import blocks, commands, headings, links

REPOSITORY = Path(__file__).parents[2]
ENGLISH, CHINESE = (
    (REPOSITORY / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md")
)


def without_notes(command: str) -> str:
    return re.split(r"\s+# ", command)[0]


def table_numbers(page: str) -> list[list[str]]:
    """The numbers of every row of every table, sorted: languages differ in their order."""
    rows = re.findall(r"^\|(?![\s:|-]+$)(.*)\|$", page, re.MULTILINE)
    return [sorted(re.findall(r"[+\-−]?\d(?:[\d,.]*\d)?", row)) for row in rows]


def test_the_sections_are_the_same() -> None:
    assert [depth for depth, _ in headings(ENGLISH)] == [depth for depth, _ in headings(CHINESE)]


def test_every_command_is_the_same_and_in_the_same_order() -> None:
    assert commands(ENGLISH)
    english, chinese = ([without_notes(line) for line in commands(p)] for p in (ENGLISH, CHINESE))
    assert english == chinese


def test_every_number_behind_a_command_is_the_same() -> None:
    for english, chinese in zip(commands(ENGLISH), commands(CHINESE), strict=True):
        wanted, found = (re.findall(r"\d[\d,.]{2,}", line) for line in (english, chinese))
        assert wanted == found, chinese


def test_every_block_of_code_is_the_same() -> None:
    english, chinese = ([(b.language, b.text) for b in blocks(p)] for p in (ENGLISH, CHINESE))
    assert english
    assert english == chinese


def test_every_number_in_a_table_is_the_same() -> None:
    english, chinese = table_numbers(ENGLISH), table_numbers(CHINESE)
    assert len(english) > 20
    for wanted, found in zip(english, chinese, strict=True):
        assert wanted == found


def test_links_and_pictures_are_the_same() -> None:
    each_other = {"README.md", "README.zh-CN.md"}
    english, chinese = ([to for to in links(p) if to not in each_other] for p in (ENGLISH, CHINESE))
    assert english == chinese


def test_each_leads_to_the_other() -> None:
    assert "(README.md)" in CHINESE
    assert "(README.zh-CN.md)" in ENGLISH


def test_the_counts_in_words_are_the_same() -> None:
    """Counts that stand in the text, as the English has them."""
    for pattern in (r"(\d+) rules in five", r"(\d+) networks come by name", r"on ([\d,]+) random"):
        found = re.search(pattern, " ".join(ENGLISH.split()))
        assert found, pattern
        assert found[1] in CHINESE, pattern
