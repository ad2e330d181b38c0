"""Parses the notation: one line, or the listing that :mod:`convsmith.graph.printing` prints.

The grammar opens :mod:`convsmith.graph.operators`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from convsmith.errors import ConvsmithError, NotationError
from convsmith.graph.graph import Constant, Graph, GraphBuilder, apply_operator
from convsmith.graph.operators import Concat, Elementwise, Flatten, Linear, Operator, roles
from convsmith.graph.shape import Shape, parameter_shapes
from convsmith.graph.tokens import Reader, Token, read_shape
from convsmith.graph.words import read_operator

__all__ = ["parse"]

MOST_STEPS = 20_000
"""How many steps repeated blocks may unfold to; no real network comes near."""

DEEPEST = 100
"""How deep brackets may be nested."""


def parse(text: str, *, source: str = "") -> Graph:
    """Reads a network from one line of notation or from a listing.

    A single size after ``@`` means a square (``64@56`` is 64 channels of 56 x 56); a 1-D input
    is written as a plain shape, ``<1,64,100>``.

    Raises:
        NotationError: With a caret under the column that is wrong.
        ShapeError: If sizes do not fit, with the name of the layer.

    >>> parse("3@200 > conv 8 5/2 p1 > maxpool 3/1").shape("maxpool1")
    (1, 8, 97, 97)
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise NotationError(
            "the notation is empty", text=text.strip(), column=0, remedy="such as 3@32 > conv 8 3"
        )
    is_listing = len(lines) > 1 or re.search(r"\s[:=]\s", lines[0]) or _starts_return(lines[0])
    graph = _Listing().read(lines) if is_listing else _Chain(" ".join(lines)).read()
    return replace(graph, source=source or text.strip())


def _starts_return(line: str) -> bool:
    return line.split()[0] == "return"


class _Chain:
    """One line: every operator follows the one before it."""

    def __init__(self, text: str) -> None:
        self.reader = Reader(text)
        self.builder = GraphBuilder()
        self.counts: Counter[str] = Counter()
        self.image = False
        self.steps = 0
        self.depth = 0

    def read(self) -> Graph:
        reader = self.reader
        token = reader.take("an input shape, such as 3@224x224")
        shape = read_shape(reader, token)
        if "@" in token.text:
            self.image = True
        current = self.builder.input("x", shape)
        while reader.peek() is not None:
            reader.mark(">")
            current = self.step(current)
        return self.builder.build(("y", current))

    def step(self, current: str) -> str:
        reader = self.reader
        self.count_step()
        if reader.next_is("["):
            return self.branches(current, "[", "|", "]", Concat())
        if reader.next_is("("):
            start = reader.at
            result = self.branches(current, "(", "+", ")", Elementwise())
            token = reader.peek()
            if token is None or not re.fullmatch(r"x\d{1,18}", token.text, re.ASCII):
                return result
            reader.at += 1
            times, end = int(token.text[1:]), reader.at
            if times < 1:
                raise reader.error("a block is repeated at least once", token)
            for _ in range(times - 1):
                self.count_step()
                reader.at = start
                result = self.branches(result, "(", "+", ")", Elementwise())
            reader.at = end
            return result
        return self.operator(current)

    def count_step(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise self.reader.error(
                f"the network has more than {MOST_STEPS:,} steps",
                remedy="repeat its blocks less often",
            )

    def branches(
        self, current: str, opening: str, between: str, closing: str, join: Operator
    ) -> str:
        reader = self.reader
        start = reader.mark(opening)
        self.depth += 1
        if self.depth > DEEPEST:
            raise reader.error(f"brackets are nested more than {DEEPEST} deep", start)
        ends = [self.body(current)]
        while reader.next_is(between):
            reader.at += 1
            ends.append(self.body(current))
        self.depth -= 1
        if reader.peek() is None:
            raise reader.error(f"{opening!r} is never closed", start, f"add {closing!r}")
        reader.mark(closing)
        if len(ends) == 1:
            return ends[0]
        word = "concat" if isinstance(join, Concat) else "add"
        return self.add(word, join, *ends, token=start)

    def body(self, current: str) -> str:
        reader = self.reader
        if reader.next_is("-"):
            reader.at += 1
            return current
        current = self.step(current)
        while reader.next_is(">"):
            reader.at += 1
            current = self.step(current)
        return current

    def operator(self, current: str) -> str:
        head, op = read_operator(self.reader, [self.builder.shapes[current]])
        shape = self.builder.shapes[current]
        if isinstance(op, Linear) and self.image and shape is not None and len(shape) > 2:
            current = self.add("flatten", Flatten(), current, token=head)
        return self.add(head.text, op, current, token=head)

    def add(self, word: str, op: Operator, *inputs: str, token: Token) -> str:
        self.counts[word] += 1
        try:
            return self.builder.add(op, *inputs, name=f"{word}{self.counts[word]}")
        except ConvsmithError as error:
            raise _located(error, self.reader, token) from None


def _located(error: ConvsmithError, reader: Reader, token: Token) -> NotationError:
    """An error about sizes, with the caret under the operator that has them."""
    return NotationError(
        error.fact, text=reader.text, column=token.column, place=error.place, remedy=error.remedy
    )


class _Listing:
    """Many lines: every line names the value it makes."""

    def __init__(self) -> None:
        self.builder = GraphBuilder()
        self.outputs: list[tuple[str, str]] | None = None

    def read(self, lines: list[str]) -> Graph:
        for line in lines:
            reader = Reader(line)
            if self.outputs is not None:
                raise reader.error("nothing may follow 'return'")
            self.line(reader)
        if self.outputs is None:
            raise NotationError(
                "the listing has no 'return'",
                text=lines[-1],
                column=len(lines[-1]),
                remedy="end it with: return NAME",
            )
        return self.builder.build(*self.outputs)

    def line(self, reader: Reader) -> None:
        head = reader.take("a name")
        second = reader.peek()
        try:
            if head.is_("return") and not (second is not None and second.is_(":", "=")):
                self.outputs = self.results(reader)
            elif second is not None and second.is_(":"):
                reader.at += 1
                self.declaration(reader, head.text)
            elif second is not None and second.is_("="):
                reader.at += 1
                self.node(reader, head.text)
            else:
                raise reader.error("expected ':' or '=' after the name", second)
        except NotationError:
            raise
        except ConvsmithError as error:
            raise _located(error, reader, head) from None

    def declaration(self, reader: Reader, name: str) -> None:
        kind = reader.take("a shape")
        is_constant = kind.is_("parameter", "constant")
        shape = read_shape(reader, reader.take("a shape") if is_constant else kind)
        token = reader.peek()
        dtype = reader.take("a type").text if token is not None else "float32"
        if token is not None and not re.fullmatch(r"[a-z][a-z0-9_]*", dtype):
            raise reader.error(f"found {dtype!r}, expected a type, such as float32", token)
        if (extra := reader.peek()) is not None:
            raise reader.error(f"found {extra.text!r}, expected the end of the line", extra)
        if is_constant:
            learnable = kind.text == "parameter"
            self.builder.constant(name, Constant(shape=shape, dtype=dtype, learnable=learnable))
        else:
            self.builder.input(name, shape, dtype)

    def node(self, reader: Reader, name: str) -> None:
        start = reader.at
        reader.words()
        given: dict[str, str] = {}
        roles_at: dict[str, Token] = {}
        if reader.next_is("{"):
            reader.at += 1
            while not reader.next_is("}"):
                role = reader.take("a role").text
                roles_at[role] = reader.tokens[reader.at - 1]
                if not reader.take("'='").is_("="):
                    raise reader.error("expected '='", reader.tokens[reader.at - 1])
                given[role] = reader.take("the name of a constant").text
            reader.at += 1
        reader.mark("(")
        inputs: list[Token] = []
        while not reader.next_is(")"):
            inputs.append(reader.take("')'"))
        reader.mark(")")
        if (extra := reader.peek()) is not None:
            raise reader.error(f"found {extra.text!r}, expected the end of the line", extra)
        for token in inputs:
            if token.text not in self.builder.shapes:
                raise reader.error(f"{token.text!r} is not known yet", token)
        reader.at = start
        shapes = [self.builder.shapes[token.text] for token in inputs]
        _, op = read_operator(reader, shapes)
        for role, token in roles_at.items():
            if role not in roles(op):
                raise reader.error(f"{type(op).__name__} has no {role!r}", token)
        parameters = [given.get(role, f"{name}.{role}") for role in roles(op)] if given else None
        if parameters is not None:
            self.fill(op, shapes, name, parameters)
        self.builder.add(op, *(t.text for t in inputs), name=name, parameters=parameters)

    def fill(
        self, op: Operator, shapes: list[Shape | None], name: str, parameters: list[str]
    ) -> None:
        """Makes the constants that follow the usual naming and were left out of the braces."""
        known = [shape for shape in shapes if shape is not None]
        if len(known) < len(shapes):
            return
        apply_operator(op, shapes, name)  # before its parameters: the inputs must fit
        for role, constant, shape in zip(
            roles(op), parameters, parameter_shapes(op, *known), strict=True
        ):
            if constant == f"{name}.{role}" and not self.builder.has_constant(constant):
                learnable = role not in ("mean", "variance")
                self.builder.constant(constant, Constant(shape=shape, learnable=learnable))

    def results(self, reader: Reader) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        while reader.peek() is not None:
            first = reader.take("a name")
            if reader.next_is("="):
                reader.at += 1
                pairs.append((first.text, reader.take("a name").text))
            else:
                pairs.append((first.text, first.text))
        return pairs
