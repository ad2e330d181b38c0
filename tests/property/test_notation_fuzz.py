"""Whatever is typed, parsing ends soon, with a network or with an error that helps."""

from __future__ import annotations

import time
import tracemalloc

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
@example("3@16 > deconv 8 4/2 p1 o0")
@example("8@4x0x4 > adaptiveavgpool 0")
@example("3@0 > up 2 > gap")
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


# Sizes as large as can be written, and what 64 bits cannot hold.
LARGE = 999_999_999_999_999_999
ADVERSARIAL = {
    "repeated": "3@8 > ( conv 8 3 p1 > relu ) x6000",
    "deep": "3@8 > " + " > ".join(["relu"] * 9000),
    "wide": "1@8 > [ " + " | ".join(["conv 1 1"] * 5000) + " ]",
    "many of the same": "1@8 > ( " + " + ".join(["-"] * 20_000) + " )",
    "doubled channels": "3@8 > ( [ - | - ] ) x300",
    "doubled pixels": "3@8 > ( up 2 ) x300",
    "doubled paths": "x : 3@8\nv0 = add (x x)\n"
    + "\n".join(f"v{i} = add (v{i - 1} v{i - 1})" for i in range(1, 5000))
    + "\nreturn y = v4999",
    "above 64 bits": f"3@{2**63} > relu",
    "large": f"3@{LARGE} > conv {LARGE} 3 > maxpool 2 > up 3/2 > adaptiveavgpool 7",
    "large windows": f"3@{LARGE} > adaptiveavgpool {LARGE - 1} > adaptivemaxpool {LARGE - 2}",
    "large dilation": f"3@8 > conv 3 1 d{LARGE}",
    "large kernel": "3@9999999 > conv 3 999999 p999999 d7",
    "large transposed kernel": f"3@8 > deconv 3 {LARGE}/3 > conv 1 1",
    "large transposed stride": f"3@8 > deconv 3 3/{LARGE} > conv 1 1",
    "large groups": f"3@8 > conv 3 3 g{LARGE}",
    "large padding": f"3@8 > pad {LARGE} > conv 3 3/99999",
    "long periods": "3@8 > ( deconv 3 3/4093 > conv 3 3/4091 p1 ) x5",
    "longer periods": "3@4096 > ( up 4095/4094 linear ) x30",
    "longest periods": "3@99991 > ( adaptiveavgpool 99989 > adaptiveavgpool 99971 ) x20",
    "long periods everywhere": "3@64 > ( reshape 1,1,-1 > reshape 1,3,64,64 ) x3000",
    "long windows on long periods": "3@8 > ( deconv 3 1/4091 > conv 3 9130/4 p4091 > conv 3 1 ) x5",
    "sizes that grow": f"3@8 > ( up {LARGE} ) x6000",
    "no pixels": "3@0x5 > gap > fc 3",
    "no batch": "0x3@8 > conv 3 3 > gap",
    "nothing left": "3@8 > slice 2:8::1 > adaptiveavgpool 3",
    "less than nothing": "3@8 > pad -9 > relu",
    "many axes": "<" + ",".join(["1"] * 3000) + "> > transpose "
    + ",".join(map(str, reversed(range(3000)))),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_what_is_made_to_hurt_takes_little_time_and_memory(name: str) -> None:
    start = time.process_time()
    tracemalloc.start()
    try:
        network = parsed(ADVERSARIAL[name])
        if isinstance(network, Graph):
            analyze(network)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    assert time.process_time() - start < 60  # exponential growth, not a slow machine
