"""All rules, and how one is found by name or code and several by category or prefix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from convsmith.errors import UsageError
from convsmith.linting import (
    correctness,
    deployment,
    housekeeping,
    numbers,
    performance,
    redundancy,
    sight,
    structure,
    windows,
)
from convsmith.linting.rule import CATEGORIES, Rule
from convsmith.results import Result

__all__ = ["DEFAULT", "RULES", "Rules", "choose_rules", "find_rule", "matching_rules"]

DEFAULT = ("correctness", "suspicious", "numerics")
"""The categories that are checked unless others are selected."""

_MODULES = (
    correctness,
    windows,
    sight,
    structure,
    housekeeping,
    performance,
    redundancy,
    numbers,
    deployment,
)

RULES: tuple[Rule, ...] = tuple(
    sorted(
        (
            found
            for module in _MODULES
            for found in vars(module).values()
            if isinstance(found, Rule)
        ),
        key=lambda rule: ("CSNPD".index(rule.code[0]), rule.code),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(Result):
    """Several rules; prints as a list."""

    rules: tuple[Rule, ...] = RULES

    def to_dict(self) -> dict[str, Any]:
        """Returns all pages as JSON-ready data, schema ``convsmith.rules/1``."""
        return {"schema": "convsmith.rules/1", "rules": [rule.to_dict() for rule in self.rules]}


def find_rule(name: str) -> Rule:
    """Returns a rule by its name or its code.

    Raises:
        UsageError: If there is none; with a guess.

    >>> find_rule("s101").name
    'stride-skips-pixels'
    """
    wanted = name.strip().lower()
    for rule in RULES:
        if wanted in (rule.name, rule.code.lower()):
            return rule
    raise _unknown(name, [n for rule in RULES for n in (rule.name, rule.code.lower())])


def matching_rules(pattern: str) -> tuple[Rule, ...]:
    """Returns the rules of ``all``, ``default``, a category, a name, a code or its beginning.

    Raises:
        UsageError: If there is no such thing.

    >>> [rule.code for rule in matching_rules("S9")]
    ['S901', 'S902']
    """
    wanted = pattern.strip().lower()
    if wanted == "all":
        return RULES
    if wanted == "default":
        return tuple(rule for rule in RULES if rule.category in DEFAULT)
    found = tuple(rule for rule in RULES if wanted in (rule.category, rule.name))
    if not found and wanted:
        found = tuple(rule for rule in RULES if rule.code.lower().startswith(wanted))
    if not found:
        words = ["all", "default", *CATEGORIES.values(), *(rule.name for rule in RULES)]
        raise _unknown(pattern, words)
    return found


def choose_rules(select: Iterable[str], ignore: Iterable[str]) -> tuple[Rule, ...]:
    """Returns what is selected and not ignored, in the order of ``RULES``.

    Raises:
        UsageError: If a pattern matches nothing.
    """
    wanted = {rule.code for pattern in select for rule in matching_rules(pattern)}
    wanted -= {rule.code for pattern in ignore for rule in matching_rules(pattern)}
    return tuple(rule for rule in RULES if rule.code in wanted)


def _unknown(name: str, known: list[str]) -> UsageError:
    close = get_close_matches(name.strip().lower(), known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(
        f"there is no rule {name.strip()!r}", remedy=f"{guess}convsmith rule lists all"
    )
