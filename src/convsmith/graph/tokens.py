"""Takes a line of notation apart: tokens and shapes, each error with its column."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from convsmith.errors import NotationError
from convsmith.graph.shape import Shape

__all__ = ["Reader", "Token", "read_shape"]

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([^\s>\[\]|()+{}"]+)|([>\[\]|()+{}]))')
_PUNCTUATION = frozenset(">[]|()+{}")


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a quoted name or a punctuation mark, and the column where it starts."""

    text: str
    column: int
    quoted: bool = False

    def is_(self, *words: str) -> bool:
        """Whether this is one of the given words, unquoted."""
        return not self.quoted and self.text in words


class Reader:
    """The tokens of one line, with errors that point at the column."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[Token] = []
        self.at = 0
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                column = position + len(text[position:]) - len(text[position:].lstrip())
                raise NotationError(
                    "a quoted name does not end", text=text, column=column, remedy='add a "'
                )
            quoted, word, mark = match.groups()
            group = 1 if quoted else 2 if word else 3
            value = self._unquote(quoted, match.start(1)) if quoted else word or mark
            self.tokens.append(Token(value, match.start(group), bool(quoted)))
            # "<1,2>" is one word although ">" separates: join it again.
            if word and word.startswith("<") and text[match.end() : match.end() + 1] == ">":
                self.tokens[-1] = Token(word + ">", match.start(group))
                position = match.end() + 1
            else:
                position = match.end()

    def _unquote(self, quoted: str, column: int) -> str:
        try:
            return str(json.loads(quoted))
        except ValueError:
            raise NotationError(
                "this quoted name has a bad escape", text=self.text, column=column
            ) from None

    def peek(self) -> Token | None:
        """The next token, left in place; ``None`` at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def next_is(self, *words: str) -> bool:
        """Whether the next token is one of the given words."""
        token = self.peek()
        return token is not None and token.is_(*words)

    def take(self, expected: str) -> Token:
        """Takes any token; ``expected`` says in the error what should have been there."""
        token = self.peek()
        if token is None:
            raise self.error(f"the text ends, expected {expected}")
        self.at += 1
        return token

    def mark(self, mark: str) -> Token:
        """Takes this punctuation mark and nothing else."""
        token = self.peek()
        if token is None or not token.is_(mark):
            found = "the text ends" if token is None else f"found {token.text!r}"
            raise self.error(f"{found}, expected {mark!r}")
        self.at += 1
        return token

    def words(self) -> list[Token]:
        """The words up to the next punctuation."""
        start = self.at
        while (token := self.peek()) and (token.quoted or token.text not in _PUNCTUATION):
            self.at += 1
        return self.tokens[start : self.at]

    def error(self, fact: str, token: Token | None = None, remedy: str = "") -> NotationError:
        """An error at a token, by default the next one."""
        token = token or self.peek()
        column = len(self.text.rstrip()) if token is None else token.column
        return NotationError(fact, text=self.text, column=column, remedy=remedy)


def read_shape(reader: Reader, token: Token) -> Shape:
    """Reads a shape, such as ``3@224x224``, ``8x3@32`` or ``<1,1000>``.

    Raises:
        NotationError: With the caret under the token.
    """
    text = token.text
    if re.fullmatch(r"<(\d{1,18}(,\d{1,18})*)?>", text, re.ASCII):
        return tuple(int(part) for part in text[1:-1].split(",") if part)
    match = re.fullmatch(r"(?:(\d{1,18})x)?(\d{1,18})@(\d{1,18}(?:x\d{1,18}){0,2})", text, re.ASCII)
    if match is None:
        raise reader.error(
            f"found {text!r}, expected an input shape", token, "such as 3@224x224 (C@HxW)"
        )
    batch, channels, spatial = match.groups()
    sizes = tuple(map(int, spatial.split("x")))
    if len(sizes) == 1:
        sizes *= 2
    return (int(batch or 1), int(channels), *sizes)
