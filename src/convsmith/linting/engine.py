"""Runs rules over a network and sorts what they find."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike

from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.linting.baseline import apply_baseline, read_baseline
from convsmith.linting.findings import SEVERITIES, Finding, Findings, NotChecked, Suppressed
from convsmith.linting.housekeeping import suppression_without_reason, unused_suppression
from convsmith.linting.registry import choose_rules
from convsmith.linting.rule import Rule, Site
from convsmith.linting.subject import Subject
from convsmith.linting.suppressing import Suppression

__all__ = ["lint"]


def lint(
    graph: Graph,
    *,
    select: str | Iterable[str] = "default",
    ignore: str | Iterable[str] = (),
    suppressions: Iterable[Suppression] = (),
    object_size: int | Sequence[int] | None = None,
    anchors: Mapping[str, int] | None = None,
    baseline: str | PathLike[str] | None = None,
) -> Findings:
    """Finds what is wrong, wasteful or fragile in a network.

    Args:
        graph: A network, as ``convsmith.load`` returns it. Without weights the rules about
            numbers are not checked, and the result says so.
        select: Rules by name, code, beginning of codes (``"S1"``) or category, or ``"all"``;
            ``"default"`` is correctness, suspicious and numerics.
        ignore: Rules that are not checked, in the same words; ``"RULE@LAYER # REASON"``
            suppresses one at a layer (or a pattern with ``*``).
        suppressions: More of those.
        object_size: The size of the objects to be seen, in pixels: one number, or one per axis.
        anchors: The anchor, in pixels, of every layer that predicts boxes.
        baseline: A file of findings that are known and do not count.

    Returns:
        The findings; true if there are any.

    Raises:
        UsageError: If there is no such rule or layer, a size is not positive, or the baseline
            cannot be read.

    >>> from convsmith.graph import parse
    >>> for finding in lint(parse("64@28 > relu > conv 128 1/2")).findings:
    ...     print(finding.code, finding.layer, finding.message)
    S101 conv1 13 of 27 positions along axes 2 and 3 of relu1 are read by no window (kernel 1, \
stride 2)
    S102 conv1 the last position of 28 along axes 2 and 3 of relu1 is read by no window (kernel 1, \
stride 2, padding 0 and 0)
    """
    if not isinstance(graph, Graph):
        raise UsageError(
            f"lint needs a network, not {type(graph).__name__}",
            remedy="read it first: convsmith.lint(convsmith.load(source))",
        )
    ignored = [ignore] if isinstance(ignore, str) else list(ignore)
    selected = [select] if isinstance(select, str) else list(select)
    covers = [*map(Suppression.parse, (word for word in ignored if "@" in word)), *suppressions]
    rules = choose_rules(selected, (word for word in ignored if "@" not in word))
    known = read_baseline(baseline) if baseline is not None else ()
    net = Subject(graph, object_size=_sizes(object_size), anchors=_anchors(graph, anchors or {}))

    found: list[Finding] = []
    checked: list[str] = []
    not_checked: list[NotChecked] = []
    for rule in rules:
        reason = _missing(net, rule)
        if reason:
            not_checked.append(NotChecked(rule=rule.name, code=rule.code, reason=reason))
        else:
            checked.append(rule.code)
            found += [_finding(rule, site) for site in rule.check(net)]
    kept, suppressed = _suppress(found, covers)
    kept += _housekeeping(covers, found, checked)
    kept.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    new, old, gone = apply_baseline(kept, known)
    return Findings(
        source=graph.source,
        findings=tuple(new),
        suppressed=tuple(suppressed),
        baselined=tuple(old),
        fixed=tuple(gone),
        checked=tuple(checked),
        not_checked=tuple(not_checked),
    )


def _finding(rule: Rule, site: Site) -> Finding:
    return Finding(
        rule=rule.name,
        code=rule.code,
        severity=rule.severity,
        layer=site.layer,
        message=site.message,
        remedy=_sentence(site.remedy) or rule.remedy,
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _missing(net: Subject, rule: Rule) -> str:
    """What a rule needs and does not have."""
    if rule.needs == "weights" and not net.has_weights:
        return "the network has no weights"
    if rule.needs == "anchors" and not net.anchors:
        return "no anchors were given"
    return ""


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _sizes(given: int | Sequence[int] | None) -> tuple[int, ...]:
    sizes = () if given is None else (given,) if isinstance(given, int) else tuple(given)
    if not all(map(_is_positive, sizes)):
        raise UsageError(f"an object of {given} pixels makes no sense", remedy="give 1 or more")
    return sizes


def _anchors(graph: Graph, given: Mapping[str, int]) -> Mapping[str, int]:
    for layer, size in given.items():
        if layer not in graph.shapes:
            close = get_close_matches(layer, list(graph.by_name), n=1)
            raise UsageError(
                f"the anchor of {layer!r} belongs to no layer",
                remedy=f"did you mean {close[0]!r}?" if close else "convsmith analyze lists them",
            )
        if not _is_positive(size):
            raise UsageError(f"the anchor of {layer!r} is {size}", remedy="give 1 pixel or more")
    return given


def _suppress(
    found: list[Finding], covers: list[Suppression]
) -> tuple[list[Finding], list[Suppressed]]:
    kept, suppressed = [], []
    for finding in found:
        for cover in covers:
            if finding.code in cover.codes and cover.covers(finding.layer):
                suppressed.append(Suppressed(finding=finding, reason=cover.reason))
                break
        else:
            kept.append(finding)
    return kept, suppressed


def _housekeeping(
    covers: list[Suppression], found: list[Finding], checked: list[str]
) -> list[Finding]:
    """What is wrong with the suppressions themselves."""
    result = []
    for cover in covers:
        if not cover.reason and suppression_without_reason.code in checked:
            site = Site(cover.layer, f"{cover.rule} is suppressed here without a reason")
            result.append(_finding(suppression_without_reason, site))
        if cover.codes.isdisjoint(checked) or unused_suppression.code not in checked:
            continue
        if not any(f.code in cover.codes and cover.covers(f.layer) for f in found):
            site = Site(cover.layer, f"{cover.rule} is suppressed here but was not found")
            result.append(_finding(unused_suppression, site))
    return result
