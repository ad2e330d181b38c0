"""What a rule is: a check, and the page that explains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from convsmith.linting.subject import Subject
from convsmith.results import Result

__all__ = [
    "AXES",
    "CATEGORIES",
    "Category",
    "Needs",
    "Rule",
    "Severity",
    "Site",
    "Sites",
    "by_axis",
    "rule",
]

Category = Literal["correctness", "suspicious", "performance", "numerics", "deployment"]

Severity = Literal["error", "warning", "note"]
"""``error``: the result is wrong; ``warning``: most likely not meant; ``note``: worth knowing."""

Needs = Literal["", "weights", "anchors"]

CATEGORIES: dict[str, Category] = {
    "C": "correctness",
    "S": "suspicious",
    "P": "performance",
    "N": "numerics",
    "D": "deployment",
}
"""The first letter of a code is its category."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a rule applies.

    Attributes:
        layer: The name of the node, input or constant.
        message: The fact, with its numbers, without a full stop.
        remedy: What helps here; empty: what the rule's page says.
    """

    layer: str
    message: str
    remedy: str = ""


Sites = Iterator[Site]

AXES = "\0"
"""Stands in a message for the axes that it is about; see :func:`by_axis`."""


def by_axis(found: Iterable[tuple[int, Site]]) -> Sites:
    """Yields sites that differ in nothing but their axis as one.

    >>> sites = [(axis, Site("conv1", f"rows are lost along {AXES}")) for axis in range(2)]
    >>> [site.message for site in by_axis(sites)]
    ['rows are lost along axes 2 and 3']
    """
    axes: dict[Site, list[int]] = {}
    for axis, site in found:
        axes.setdefault(site, []).append(axis + 2)
    for site, numbers in axes.items():
        word = "axis" if len(numbers) == 1 else "axes"
        text = f"{word} {' and '.join(map(str, numbers))}"
        yield replace(site, message=site.message.replace(AXES, text, 1))


Check = Callable[[Subject], Sites]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Result):
    """A check and its page; prints as the page.

    Attributes:
        name: In kebab-case.
        code: A letter for the category and three digits.
        severity: How bad a finding is.
        summary: One line.
        what: The exact condition, with the thresholds that the check uses.
        why: What goes wrong otherwise.
        example: A network in the notation that the rule finds.
        fine: One that comes close and that it does not find.
        given: What the example's weights or options must be; empty: anything.
        remedy: What to do.
        caveats: Known problems and false alarms.
        references: Where the advice comes from.
        needs: What it cannot do without.
        check: Yields the places in a network.
    """

    name: str
    code: str
    severity: Severity
    summary: str
    what: str
    why: str
    example: str
    fine: str
    given: str
    remedy: str
    caveats: str
    references: tuple[str, ...]
    needs: Needs
    check: Check = field(compare=False, repr=False)

    @property
    def category(self) -> Category:
        """What kind of problem it finds."""
        return CATEGORIES[self.code[0]]

    def to_dict(self) -> dict[str, Any]:
        """Returns the page as JSON-ready data, schema ``convsmith.rule/1``."""
        return {
            "schema": "convsmith.rule/1",
            "name": self.name,
            "code": self.code,
            "category": self.category,
            "severity": self.severity,
            "summary": self.summary,
            "what": self.what,
            "why": self.why,
            "example": self.example,
            "fine": self.fine,
            "given": self.given,
            "remedy": self.remedy,
            "caveats": self.caveats,
            "references": list(self.references),
            "needs": self.needs,
        }


def rule(
    code: str,
    severity: Severity,
    *,
    what: str,
    why: str,
    example: str,
    fine: str,
    remedy: str,
    given: str = "",
    caveats: str = "None known.",
    references: tuple[str, ...] = (),
    needs: Needs = "",
) -> Callable[[Check], Rule]:
    """Makes a rule of a function: its name is the rule's, its docstring the summary."""

    def made(check: Check) -> Rule:
        return Rule(
            name=check.__name__.replace("_", "-"),
            code=code,
            severity=severity,
            summary=(check.__doc__ or "").strip().rstrip("."),
            what=what,
            why=why,
            example=example,
            fine=fine,
            given=given,
            remedy=remedy,
            caveats=caveats,
            references=references,
            needs=needs,
            check=check,
        )

    return made
