"""Advice about a network: rules that find what is wrong, wasteful or fragile, each with a page."""

from __future__ import annotations

from convsmith.linting.engine import lint
from convsmith.linting.findings import Finding, Findings, NotChecked, Suppressed
from convsmith.linting.registry import RULES, Rules, find_rule
from convsmith.linting.rule import Rule
from convsmith.linting.suppressing import Settings, Suppression, read_settings

__all__ = [
    "RULES",
    "Finding",
    "Findings",
    "NotChecked",
    "Rule",
    "Rules",
    "Settings",
    "Suppressed",
    "Suppression",
    "find_rule",
    "lint",
    "read_settings",
]
