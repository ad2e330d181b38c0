"""Typos in the notation: the caret stands under the word that is wrong."""

from __future__ import annotations

import pytest

from convsmith.errors import GraphError, NotationError
from convsmith.graph import parse


@pytest.mark.parametrize(
    ("text", "caret", "message"),
    [
        ("", "", "the notation is empty"),
        ("hello", "^", "found 'hello', expected an input shape; such as 3@224x224"),
        ("3@8 conv 4 3", "    ^", "found 'conv', expected '>'"),
        ("3@8 >", "     ^", "the text ends, expected an operator; such as conv 64 3 p1"),
        ("3@8 > cnv 4 3", "      ^", "unknown operator 'cnv'; did you mean 'conv'?"),
        ("3@8 > conv", "          ^", "'conv' needs a number of output channels"),
        ("3@8 > conv 4 x", "             ^", "found 'x', expected a kernel size"),
        ("3@8 > conv 4 0", "             ^", "a kernel size must be at least 1"),
        ("3@8 > conv 4 3x3x3", "             ^", "a kernel size for 3 axes, the input has 2"),
        ("3@8 > conv 4 3 q7", "               ^", "'conv' does not take 'q7'"),
        ("3@8 > conv 4 3 p1,2,3", "               ^", "padding has 3 numbers, 2 axes need 4"),
        ("3@8 > conv 4 9", "      ^", "conv1: kernel 9x9 does not fit input 8x8"),
        ("3@8 > relu > conv 4 9", "             ^", "conv1: kernel 9x9 does not fit"),
        ("3@8 > [ relu | relu", "      ^", "'[' is never closed; add ']'"),
        ("3@8 > ( relu ] x2", "             ^", "found ']', expected ')'"),
        ("3@8 > ( conv 4 1 + - )", "      ^", "add1: shapes 1x4x8x8 and 1x3x8x8 do not broadcast"),
        ("3@8 > ( relu ) x0", "               ^", "a block is repeated at least once"),
        ("3@8 > lrn 5 k=abc", "            ^", "expected a number after k="),
        ("3@8 > matmul", "      ^", "matmul1: MatMul takes 2 inputs, not 1"),
        ("3@8 > up 1e9", "         ^", "found '1e9', expected a scale"),
        ("3@8 > reshape -2,96", "      ^", "reshape1: -2,96 is no shape"),
        ("3@8 > pad 1,2,3", "          ^", "padding has 3 numbers, not two an axis"),
        ('3@8 > "relu', "      ^", 'a quoted name does not end; add a "'),
    ],
)
def test_one_line(text: str, caret: str, message: str) -> None:
    with pytest.raises(NotationError) as caught:
        parse(text)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith(message)
    assert lines[1] == f"  {text}"
    if text:
        assert lines[2] == f"  {caret}"


X = "x : 3@8\n"


@pytest.mark.parametrize(
    ("line", "caret", "message"),
    [
        ("y relu (x)", "  ^", "expected ':' or '=' after the name"),
        ("y = relu (z)", "          ^", "'z' is not known yet"),
        ("y = relu (x", "           ^", "the text ends, expected ')'"),
        ("y = relu (x) x", "             ^", "found 'x', expected the end of the line"),
        ("y = relu (x x)", "^", "y: Activation takes 1 input, not 2"),
        ("y = add ()", "^", "y: Elementwise takes at least 1 input, not 0"),
        ("x = relu (x)", "^", "x: two values have this name"),
        ("y = conv 4 3 {wight = w} (x)", "              ^", "Conv has no 'wight'"),
        ("y = conv 4 3 {weight = w} (x)", "^", "y: its weight 'w' is missing"),
        ("z : 3@8 4bit", "        ^", "found '4bit', expected a type, such as float32"),
        ("w : parameter 3", "              ^", "found '3', expected an input shape"),
    ],
)
def test_a_line_of_a_listing(line: str, caret: str, message: str) -> None:
    with pytest.raises(NotationError) as caught:
        parse(f"{X}{line}\nreturn x")
    shown = str(caught.value).split("\n")
    assert shown[0].startswith(message)
    assert shown[1:] == [f"  {line}", f"  {caret}"]


def test_a_listing_ends_with_what_it_returns() -> None:
    with pytest.raises(NotationError, match="the listing has no 'return'; end it with"):
        parse("x : 3@8\ny = relu (x)")
    with pytest.raises(NotationError, match="nothing may follow 'return'"):
        parse("x : 3@8\nreturn x\ny = relu (x)")
    with pytest.raises(GraphError, match="output 'z' is not made by any node"):
        parse("x : 3@8\nreturn z")
