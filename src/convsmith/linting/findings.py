"""What linting found, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from convsmith.linting.rule import Severity
from convsmith.results import Result

__all__ = ["SEVERITIES", "Entry", "Finding", "Findings", "NotChecked", "Suppressed"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place where one rule applies.

    Attributes:
        rule: The rule's name.
        code: The rule's code.
        severity: ``error``, ``warning`` or ``note``.
        layer: The node, input or constant.
        message: What is wrong there, with the numbers.
        remedy: What to do about it.
    """

    rule: str
    code: str
    severity: Severity
    layer: str
    message: str
    remedy: str

    def to_dict(self) -> dict[str, str]:
        """Returns the finding as JSON-ready data."""
        return {
            "rule": self.rule,
            "code": self.code,
            "severity": self.severity,
            "layer": self.layer,
            "message": self.message,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """A finding that was suppressed, and why."""

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotChecked:
    """A selected rule that could not be checked, and why."""

    rule: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """So many findings of one rule at one layer, as a baseline keeps them."""

    rule: str
    layer: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings(Result):
    """What linting found; true if there is anything.

    Attributes:
        source: What the network was read from.
        findings: Errors first, then in the order of the rules and the layers.
        suppressed: What a suppression covers.
        baselined: What the baseline has.
        fixed: What the baseline has and the network no longer.
        checked: The codes of the rules that were checked.
        not_checked: The rules that could not be.
    """

    source: str
    findings: tuple[Finding, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    baselined: tuple[Finding, ...] = ()
    fixed: tuple[Entry, ...] = ()
    checked: tuple[str, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def counts(self) -> dict[Severity, int]:
        """How many findings there are of each severity."""
        count = Counter(finding.severity for finding in self.findings)
        return {severity: count[severity] for severity in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """Returns the findings as JSON-ready data, schema ``convsmith.lint/1``."""
        return {
            "schema": "convsmith.lint/1",
            "source": self.source,
            "findings": [finding.to_dict() for finding in self.findings],
            "suppressed": [
                {**item.finding.to_dict(), "reason": item.reason} for item in self.suppressed
            ],
            "baselined": [finding.to_dict() for finding in self.baselined],
            "fixed": [
                {"rule": entry.rule, "layer": entry.layer, "count": entry.count}
                for entry in self.fixed
            ],
            "checked": list(self.checked),
            "not_checked": [
                {"rule": item.rule, "code": item.code, "reason": item.reason}
                for item in self.not_checked
            ],
            "counts": dict(self.counts),
        }
