"""Settings and suppressions: which rules do not matter where, and why.

They stand in a file, ``convsmith-lint.toml`` by default::

    select = ["default", "performance"]
    ignore = ["P103"]
    object = [96, 96]

    [anchors]
    conv4_3 = 32

    [[suppress]]
    rule = "bias-before-batch-norm"
    layer = "features.*"
    reason = "the trained weights have biases"

or on the command line: ``--ignore "bias-before-batch-norm@features.* # trained that way"``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Any

from convsmith.errors import ConvsmithError, UsageError
from convsmith.linting.registry import matching_rules

__all__ = ["SETTINGS_FILE", "Settings", "Suppression", "read_settings", "read_text"]

SETTINGS_FILE = "convsmith-lint.toml"

LARGEST_FILE = 4 << 20
"""Bytes; no file of settings or known findings is as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """Rules that do not matter at some layers.

    Attributes:
        rule: A name, a code, the beginning of codes, or a category.
        layer: A layer's name, or a pattern with ``*`` and ``?``.
        reason: Why; without one, the suppression itself is found.
    """

    rule: str
    layer: str = "*"
    reason: str = ""

    def __post_init__(self) -> None:
        matching_rules(self.rule)

    @classmethod
    def parse(cls, text: str) -> Suppression:
        """Reads ``RULE@LAYER # REASON``; the reason may be missing.

        Raises:
            UsageError: If there is no such rule, or no layer.

        >>> Suppression.parse("S301@conv1 # trained that way")
        Suppression(rule='S301', layer='conv1', reason='trained that way')
        """
        where, _, reason = text.partition(" #")
        rule, _, layer = where.partition("@")
        if not layer.strip():
            raise UsageError(f"{text!r} names no layer", remedy="such as S301@conv1")
        return cls(rule=rule.strip(), layer=layer.strip(), reason=reason.strip())

    @property
    def codes(self) -> frozenset[str]:
        """The codes of its rules."""
        return frozenset(rule.code for rule in matching_rules(self.rule))

    def covers(self, layer: str) -> bool:
        """Whether it is about a layer."""
        return layer == self.layer or fnmatchcase(layer, self.layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a settings file says; empty where it says nothing."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    object_size: tuple[int, ...] = ()
    anchors: Mapping[str, int] = field(default_factory=dict)
    suppressions: tuple[Suppression, ...] = ()


def read_text(path: Path) -> str:
    """Returns the text of a small file.

    Raises:
        UsageError: If there is none, or it is too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise UsageError("there is no such file", place=str(path)) from None
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror or error}", place=str(path)) from None
    if len(data) > LARGEST_FILE:
        raise UsageError(f"it is larger than {LARGEST_FILE >> 20} MiB", place=str(path))
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError("it is not UTF-8 text", place=str(path)) from None


def read_settings(path: str | PathLike[str]) -> Settings:
    """Reads a settings file.

    Raises:
        UsageError: If it cannot be read, or says something that makes no sense.
    """
    file = Path(path)
    try:
        data = tomllib.loads(read_text(file))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"it is no TOML: {error}", place=str(file)) from None
    try:
        return _settings(data)
    except ConvsmithError as error:
        raise error.at(str(file)) from None


_KEYS = ("select", "ignore", "object", "anchors", "suppress")


def _settings(data: dict[str, Any]) -> Settings:
    for key in data:
        if key not in _KEYS:
            raise UsageError(f"unknown key {key!r}", remedy=f"it may have {', '.join(_KEYS)}")
    size = data.get("object", [])
    anchors = data.get("anchors", {})
    if not isinstance(anchors, dict) or not all(map(_is_size, anchors.values())):
        raise UsageError("'anchors' must give every layer a size", remedy="such as conv4 = 32")
    sizes = [size] if _is_size(size) else size
    if not isinstance(sizes, list) or not all(map(_is_size, sizes)):
        raise UsageError("'object' must be a size or a list of sizes", remedy="such as [96, 96]")
    suppressions = data.get("suppress", [])
    if not isinstance(suppressions, list):
        raise UsageError("'suppress' must be a list of tables", remedy="write [[suppress]]")
    return Settings(
        select=_words(data, "select"),
        ignore=_words(data, "ignore"),
        object_size=tuple(sizes),
        anchors=anchors,
        suppressions=tuple(map(_suppression, suppressions)),
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _words(data: dict[str, Any], key: str) -> tuple[str, ...]:
    words = data.get(key, [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"{key!r} must be a list of names", remedy=f'such as {key} = ["S101"]')
    return tuple(words)


def _suppression(table: object) -> Suppression:
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise UsageError("every [[suppress]] has texts only: rule, layer, reason")
    unknown = set(table) - {"rule", "layer", "reason"}
    if unknown or "rule" not in table:
        fact = f"[[suppress]] has no {min(unknown)!r}" if unknown else "[[suppress]] names no rule"
        raise UsageError(fact, remedy="give rule, layer and reason")
    return Suppression(**table)
