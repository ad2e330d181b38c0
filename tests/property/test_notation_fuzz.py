"""Whatever is typed, parsing ends soon, with a network or with an error that helps."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convsmith.analysis import analyze
from convsmith.errors import ConvsmithError, NotationError
from convsmith.graph import Graph, parse
from convsmith.graph.words import _OPERATORS

WORDS = st.one_of(
    st.sampled_from([*_OPERATORS, "3@8", "<1,4>", "2x3@8x4", ">", ">", ">", "[", "|", "]", "(",
                     "+", ")", "x2", "x99999", "-", "{", "}", "=", ":", "weight", "return", "y",
                     "\n", "parameter", "constant", "float32", '"', '"a b"', "64", "3", "3/2",
                     "p1", "psame", "p1,2,3", "d2", "g2", "g0", "o1", "ceil", "nobias", "axis=1",
                     "axis=inf", "eps=nan", "1e999999999", "1/0", "0:1:2:1", "7:0:1:1", "-1,-1",
                     "-2,-2", "2,3", "keep", "linear", "?", "999999999999999999", "x", "(x)",
                     "(x x)", "()", "{weight=x}", "p-1", "d0", "3x3x3x3", "1,-1", "99999999/7"]),
    st.text(max_size=6),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(),
    st.lists(WORDS, max_size=14).map(" ".join),
    st.lists(WORDS, max_size=14).map(lambda words: "3@8 > " + " ".join(words)),
    st.lists(WORDS, max_size=12).map(
        lambda words: "x : 3@8\ny = " + " ".join(words) + "\nreturn y"
    ),
)


@given(TEXTS)
@settings(max_examples=1500)
@example("3@8 > matmul")
@example("3@8 > slice 7:0:1:1")
@example("3@8 > concat axis=inf")
@example("3@8 > up 1e999999999")
@example("3@8 > reshape -2,-2,-2,-24")
@example("x : 3@8\ny = conv 8 3 {weight = nosuch} (x)\nreturn y")
@example("x : <1>\ny = conv 8 3 {bias = x} (x)\nreturn y")
@example("x : 3@8\ny = add ()\nreturn y")
@example("x : 3@8\ny = relu (x x)\nreturn y")
@example("\x85")
def test_any_text_is_a_network_or_a_clear_error(text: str) -> None:
    result = parsed(text)
    if isinstance(result, NotationError):
        assert 0 <= result.column <= len(result.text)
    elif isinstance(result, Graph):
        assert parse(str(result)) == result
        analyze(result)
    else:
        assert result.fact


def parsed(text: str) -> Graph | ConvsmithError:
    try:
        return parse(text)
    except ConvsmithError as error:
        return error


@pytest.mark.parametrize(
    "text",
    [
        "3@8 > ( conv 8 3 p1 ) x1000000",
        "3@8 > ( ( ( relu ) x999 ) x999 ) x999",
        "3@8 > ( ( - ) x999999 ) x999999",
        "3@8 > ( ( - + - ) x999999 ) x999999",
        "3@8 > " + "( " * 5000 + "relu" + " )" * 5000,
        "3@8 > " + "[ " * 200 + "relu",
        "3@8 > " + "[ relu | " * 5000,
    ],
)
def test_what_would_never_end_is_an_error_soon(text: str) -> None:
    start = time.process_time()
    with pytest.raises(NotationError, match="more than"):
        parse(text)
    assert time.process_time() - start < 60  # an endless loop, not a slow machine
