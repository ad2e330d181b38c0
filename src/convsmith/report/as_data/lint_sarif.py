"""Findings for code scanning: SARIF 2.1.0 and the workflow commands of GitHub.

The OASIS standard "Static Analysis Results Interchange Format (SARIF) Version 2.1.0"; GitHub shows
what it needs: an identity, a level, a place and a message. Layers are logical locations; a
physical one is there when the network is a file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from convsmith.errors import UsageError
from convsmith.linting import RULES, Finding, Findings, Rule
from convsmith.report import wording
from convsmith.results import Result

__all__ = ["github", "sarif"]

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def _expect(result: Result, form: str) -> Findings:
    if not isinstance(result, Findings):
        raise UsageError(
            f"there is no {form} form of {type(result).__name__}", remedy="choose json or text"
        )
    return result


def sarif(result: Result) -> str:
    """Returns findings as a SARIF 2.1.0 log of one run.

    Raises:
        UsageError: If the result is no findings.
    """
    findings = _expect(result, "SARIF")
    used = [rule for rule in RULES if rule.code in {*findings.checked, *_codes(findings)}]
    index = {rule.code: place for place, rule in enumerate(used)}
    uri = _uri(findings.source)
    count: Counter[tuple[str, str]] = Counter()

    def entry(finding: Finding, **more: object) -> dict[str, Any]:
        key = finding.rule, finding.layer
        count[key] += 1
        return {**_result(finding, index, uri, count[key]), **more}

    results = [entry(finding) for finding in findings.findings]
    results += [entry(finding, baselineState="unchanged") for finding in findings.baselined]
    for item in findings.suppressed:
        cover = {"kind": "external", "status": "accepted", "justification": item.reason}
        results.append(entry(item.finding, suppressions=[cover]))
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "convsmith",
                "version": version("convsmith"),
                "rules": [_rule(rule) for rule in used],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    if uri:
        run["artifacts"] = [{"location": {"uri": uri}}]
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _codes(findings: Findings) -> set[str]:
    covered = (item.finding for item in findings.suppressed)
    return {f.code for f in (*findings.findings, *findings.baselined, *covered)}


def _uri(source: str) -> str:
    """The file that a network was read from, relative where it can be; empty for no file."""
    if not source.lower().endswith(".onnx") or "\n" in source:
        return ""
    path = Path(source)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": f"{rule.summary}."},
        "fullDescription": {"text": f"{rule.what} {rule.why}"},
        "help": {
            "text": f"{rule.remedy} False alarms: {rule.caveats}",
            "markdown": f"{rule.what}\n\n{rule.why}\n\n**Remedy.** {rule.remedy}\n\n"
            f"**False alarms.** {rule.caveats}",
        },
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"category": rule.category, "tags": [rule.category]},
    }


def _result(finding: Finding, index: dict[str, int], uri: str, count: int) -> dict[str, Any]:
    """One result; ``count`` tells apart what one rule says about one layer."""
    layer = wording.plain(finding.layer)
    location: dict[str, Any] = {
        "logicalLocations": [{"name": layer, "fullyQualifiedName": layer, "kind": "element"}]
    }
    if uri:
        location["physicalLocation"] = {"artifactLocation": {"uri": uri, "index": 0}}
    identity = hashlib.sha256(f"{finding.rule}\0{finding.layer}\0{count}".encode()).hexdigest()
    message = wording.plain(f"{finding.layer}: {finding.message}. {finding.remedy}")
    return {
        "ruleId": finding.code,
        "ruleIndex": index[finding.code],
        "level": finding.severity,
        "message": {"text": message},
        "locations": [location],
        "partialFingerprints": {"ruleAndLayer/v1": identity},
    }


def github(result: Result) -> str:
    """Returns findings as workflow commands, one line each, which GitHub shows as annotations.

    Raises:
        UsageError: If the result is no findings.
    """
    findings = _expect(result, "GitHub")
    commands = {"error": "error", "warning": "warning", "note": "notice"}
    uri = findings.source if _uri(findings.source) else ""
    lines = []
    for finding in findings.findings:
        title = _property(f"{finding.code} {finding.rule}")
        place = f"file={_property(uri)}," if uri else ""
        message = _data(f"{finding.layer}: {finding.message}. {finding.remedy}")
        lines.append(f"::{commands[finding.severity]} {place}title={title}::{message}")
    return "\n".join(lines) + "\n" if lines else ""


def _data(text: str) -> str:
    """A message, escaped as GitHub's toolkit does."""
    return wording.plain(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
