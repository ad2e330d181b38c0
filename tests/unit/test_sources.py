"""The one door to every source: what it recognizes, and what it says when it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convsmith.errors import ConvsmithError, GraphError, ShapeError, SourceError, UsageError
from convsmith.graph import parse
from convsmith.sources import load, save
from convsmith.sources.input_sizes import read_sizes

NOTATION = "3@8 > conv 4 3 p1 > relu"


def test_a_graph_is_returned_as_it_is() -> None:
    graph = parse(NOTATION)
    assert load(graph) is graph


def test_notation_and_listings_are_parsed() -> None:
    graph = parse(NOTATION)
    assert load(NOTATION) == graph
    assert load(str(graph)) == graph
    assert load("<1,3,8> > relu").shape("relu1") == (1, 3, 8)
    assert load("  2x3@8 > relu").inputs[0].shape == (2, 3, 8, 8)


def test_a_typo_in_notation_is_a_notation_error() -> None:
    with pytest.raises(SourceError, match=r"\^"):
        load("3@8 > cnov 4 3")


def test_a_module_is_read() -> None:
    graph = load(nn.Conv2d(3, 4, 3), (1, 3, 8, 8))
    assert graph.shape("conv2d") == (1, 4, 6, 6)
    assert load(nn.ReLU(), torch.zeros(1, 3)).inputs[0].shape == (1, 3)


@pytest.mark.parametrize(
    "given",
    [
        (2, 3, 10, 10),
        [2, 3, 10, 10],
        "2,3,10,10",
        "2x3x10x10",
        ((2, 3, 10, 10),),
        {"x": (2, 3, 10, 10)},
        "x=2,3,10,10",
        np.zeros((2, 3, 10, 10)),
        {"x": np.zeros((2, 3, 10, 10))},
        torch.Size((2, 3, 10, 10)),
        tuple(np.array([2, 3, 10, 10])),
    ],
)
def test_input_sizes_in_every_form(given: Any) -> None:
    assert load(NOTATION, given).shape("conv1") == (2, 4, 10, 10)


def test_sizes_of_several_inputs() -> None:
    assert read_sizes("1,3,8,8; 1,10") == ((1, 3, 8, 8), (1, 10))
    assert read_sizes("image=1,3,8,8; vector=1,10") == {"image": (1, 3, 8, 8), "vector": (1, 10)}
    assert read_sizes(((1, 3), (2,))) == ((1, 3), (2,))
    assert read_sizes(None) is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("1,3,x,8", UsageError, "cannot read the input size '1,3,x,8'; give numbers such as"),
        ("", UsageError, "the input size is empty"),
        ("x=1,3;1,4", UsageError, "the input size '1,4' has no name, others have"),
        ((1, 3, 0, 8), UsageError, "the input size 1,3,0,8 has a number below 1"),
        ((1, 3, -8, 8), UsageError, "has a number below 1"),
        (3.5, UsageError, "cannot read an input size from 3.5"),
        ((1, "a"), UsageError, "cannot read an input size from 1"),
        (((1, 3, 8, 8), (1, 3)), UsageError, r"2 input sizes for 1 inputs \(x\)"),
        ({"y": (1, 3, 8, 8)}, GraphError, "no input named 'y'; it has x"),
        ((1, 4, 8, 8), ShapeError, "conv1: its weight has shape"),
        ((1, 3), ShapeError, "conv1: a convolution needs an input"),
    ],
)
def test_input_sizes_that_make_no_sense(
    given: Any, error: type[ConvsmithError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(NOTATION, given)


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("factories")
    module.net = lambda: nn.Sequential(nn.Conv2d(3, 4, 3))
    module.graph = lambda: parse(NOTATION)
    module.ready = nn.ReLU()
    module.Net = nn.ReLU
    module.number = 3
    module.text = lambda: "text"
    module.broken = lambda: 1 // 0
    module.picky = lambda size: size
    monkeypatch.setitem(sys.modules, "factories", module)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize("name", ["net", "graph", "ready", "Net"])
def test_a_factory_is_called(name: str) -> None:
    assert load(f"factories:{name}", (1, 3, 8, 8)).inputs[0].shape == (1, 3, 8, 8)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere:net", "nowhere:net: no module named 'nowhere'; run where Python can import it"),
        ("os.nowhere:net", "no module named 'os.nowhere'"),
        ("factories:nothing", "'factories' has no attribute 'nothing'; check the name after the"),
        ("factories:number", "'number' is of type int; name a function that returns"),
        (
            "factories:text",
            "factories:text: it returns an object of type str; return a torch.nn.Module",
        ),
        ("factories:broken", "calling it raises ZeroDivisionError: .*; the factory must work"),
        ("factories:picky", "calling it raises TypeError: .*missing 1 required"),
    ],
)
def test_a_factory_that_does_not_work(source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(source, (1, 3, 8, 8))


def test_a_factory_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from convsmith.graph import parse\ndef make():\n    return parse('3@8 > relu')\n"
    (tmp_path / "home_made.py").write_text(text)
    (tmp_path / "half_made.py").write_text("import no_such_package\n")
    (tmp_path / "badly_made.py").write_text("raise ValueError('no')\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load("home_made:make") == parse("3@8 > relu")
    with pytest.raises(SourceError, match="no module named 'no_such_package', which it imports"):
        load("half_made:make")
    with pytest.raises(SourceError, match="importing it raises ValueError: no"):
        load("badly_made:make")
    assert sys.path == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.onnx", "no such file 'missing.onnx'; give an .onnx file, a notation"),
        (Path("missing.onnx"), "no such file 'missing.onnx'"),
        ("foo", "cannot tell what 'foo' is; give an .onnx file, a notation such as"),
        ("", "cannot tell what '' is"),
        (5, "an object of type int is not a network"),
    ],
)
def test_what_is_no_source(source: Any, message: str) -> None:
    with pytest.raises(ConvsmithError, match=message):
        load(source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pt", "'weights.pt' holds weights, not a network; give pkg.module:factory"),
        ("weights.safetensors", "holds weights, not a network"),
        ("notes.txt", "'notes.txt' is not an .onnx file"),
        ("folder.onnx", "is a folder; give the .onnx file in it"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, message: str) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"")
    for source in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(SourceError, match=message):
            load(source)


def test_onnx_files_are_written_and_read(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    graph = load(layers, (1, 3, 8, 8))
    path = tmp_path / "net.onnx"
    save(graph, path)
    again = load(path)
    assert [node.op for node in again.nodes] == [node.op for node in graph.nodes]
    assert load(str(path), "1,3,8,8") == again
    with pytest.raises(ConvsmithError, match=r"net.onnx"):
        save(graph, path)
    save(graph, path, overwrite=True)


def test_sizes_of_the_inputs_of_an_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "add.onnx"
    graph = parse("a : 3@8\nb : 3@8\nc = add (a b)\nreturn c")
    save(graph, path)
    for given in (((1, 3, 8, 8), (1, 3, 8, 8)), "a=1,3,8,8;b=1,3,8,8"):
        assert [value.shape for value in load(path, given).inputs] == [(1, 3, 8, 8)] * 2
    with pytest.raises(UsageError, match=r"3 input sizes for 2 inputs \(a, b\)"):
        load(path, ((1, 3, 8, 8),) * 3)


def test_the_zoo() -> None:
    assert load("zoo:vgg16").inputs[0].shape == (1, 3, 224, 224)
    assert load("zoo:vgg16", (2, 3, 64, 64)).inputs[0].shape == (2, 3, 64, 64)
    with pytest.raises(ConvsmithError, match="nothing_like_it"):
        load("zoo:nothing_like_it")


def test_save_wants_the_onnx_suffix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write a network as 'net.pt'; end it in .onnx"):
        save(parse(NOTATION), tmp_path / "net.pt")


def test_notation_needs_neither_torch_nor_onnx() -> None:
    code = f"import sys, convsmith as cs; cs.load({NOTATION!r}, '1,3,9,9'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx"} & set(run.stdout.split())
