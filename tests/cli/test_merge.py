"""``convsmith merge``, and ``--merge`` of the verbs that rewrite."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.random_weights import random_network

import convsmith as cs
from convsmith.cli.running import run
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import Plan

Command = Callable[..., tuple[int, str, str]]

NET = random_network(
    "3@9 > conv 8 5 p2 nobias > bn > relu > ( conv 8 3 p1 > bn + conv 8 1 + - ) > relu"
    " > conv 2 3 p1"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and images, to work in."""
    cs.save(NET, tmp_path / "net.onnx")
    images = np.random.default_rng(0).normal(size=(12, 3, 9, 9)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def ran(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def outputs(path: str) -> Any:
    net = cs.load(path)
    return evaluate(net, {"x": np.load("images.npy")})[net.outputs[0].value]


def test_it_writes_the_network_and_shows_every_step(here: Path, command: Command) -> None:
    code, out, err = command("merge", "net.onnx", "-o", "merged.onnx")
    assert (code, err) == (0, "convsmith: wrote merged.onnx\n")
    assert "4 merges, exact up to rounding" in out
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["norm", "norm"] + [
        "parallel"
    ] * 2
    kinds = [type(node.op).__name__ for node in cs.load("merged.onnx").nodes]
    assert kinds == ["Conv", "Activation"] * 2 + ["Conv"]
    wanted = outputs("net.onnx")
    np.testing.assert_allclose(outputs("merged.onnx"), wanted, atol=1e-5 * np.abs(wanted).max())


def test_json_is_what_python_gives(here: Path, command: Command) -> None:
    code, out, err = command("merge", "net.onnx", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == cs.merge(cs.load("net.onnx")).to_dict()
    assert sorted(path.name for path in here.iterdir()) == ["images.npy", "net.onnx"]


def test_rules_can_be_chosen(here: Path, command: Command) -> None:
    code, out, _ = command("merge", "net.onnx", "--rules", "norm, identity", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["kind"] for row in rows] == ["norm", "norm"]
    assert [row["layers"] for row in rows] == ["conv1 bn1", "conv2 bn2"]
    assert all(row["macs_before"] == row["macs_after"] for row in rows)
    assert int(rows[0]["params_before"]) == 8 * 3 * 25 + 16
    assert int(rows[0]["params_after"]) == 8 * 3 * 25 + 8


def test_markdown_is_a_table(here: Path, command: Command) -> None:
    code, out, _ = command("merge", "net.onnx", "--format", "markdown")
    assert code == 0
    assert "| norm | conv1 | conv1 + bn1 | 48,600 | 48,600 |" in out.splitlines()
    assert out.startswith("|  | before | after | change |\n|:--|--:|--:|--:|\n| layers | 9 | 5 |")


def test_what_was_not_merged_is_told_and_nothing_to_merge_is_no_error(
    here: Path, command: Command
) -> None:
    cs.save(random_network("3@9 > conv 4 3 > conv 8 3 p1"), here / "row.onnx")
    code, out, _ = command("merge", "row.onnx", "-o", "same.onnx")
    assert code == 0
    assert "nothing to merge" in out
    assert "conv1 + conv2: not merged: " in out
    assert cs.load("same.onnx").nodes == cs.load("row.onnx").nodes


def test_a_network_of_any_size_stays_one(here: Path, command: Command) -> None:
    import onnx

    model = onnx.load("net.onnx")
    for value in (*model.graph.input, *model.graph.output):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    del model.graph.value_info[:]
    onnx.save(model, "any.onnx")
    code, _, err = command("merge", "any.onnx", "-o", "merged.onnx")
    assert code == 0, err
    x = np.random.default_rng(1).normal(size=(2, 3, 17, 13)).astype(np.float32)
    one, two = (cs.load(name, x.shape) for name in ("any.onnx", "merged.onnx"))
    made, wanted = (evaluate(net, {"x": x})[net.outputs[0].value] for net in (two, one))
    np.testing.assert_allclose(made, wanted, atol=1e-5 * np.abs(wanted).max())
    assert len(two.nodes) == 5


BAD: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no such rule": (("net.onnx", "--rules", "fold"), "merge: there is no rule 'fold'; choose"),
    "no weights": (("3@9 > conv 4 3 > bn", "-o", "a.onnx"), "has no weights, only a shape; load"),
    "another kind of file": (("net.onnx", "-o", "a.txt"), "a.txt"),
    "no such folder": (("net.onnx", "-o", "b/a.onnx"), "the folder 'b' does not exist"),
    "the network itself": (("net.onnx", "-o", "net.onnx", "--force"), "this would replace the net"),
    "a file that exists": (("net.onnx", "-o", "images.npy"), "images.npy: this file exists"),
    "a page": (("net.onnx", "--format", "html"), "no HTML form of a merging; compare both files"),
    "no such network": (("nowhere.onnx",), "no such file 'nowhere.onnx'"),
    "broken statistics": (
        ("broken.onnx", "-o", "a.onnx"),
        "bn1: 1 of the 8 elements of its variance are not finite",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_leaves_nothing(
    here: Path, command: Command, case: str
) -> None:
    if case == "broken statistics":
        import onnx
        from onnx import numpy_helper

        model = onnx.load("net.onnx")
        (name,) = [n.input[4] for n in model.graph.node if n.op_type == "BatchNormalization"][:1]
        for tensor in model.graph.initializer:
            if tensor.name == name:
                data = numpy_helper.to_array(tensor).copy()
                data[3] = np.nan
                tensor.CopyFrom(numpy_helper.from_array(data, name))
        onnx.save(model, "broken.onnx")
    before = sorted(here.rglob("*"))
    arguments, message = BAD[case]
    code, out, err = command("merge", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("convsmith: ") == 1
    assert "Traceback" not in err
    assert sorted(here.rglob("*")) == before


# Rewrites that merge first -------------------------------------------------------------------

WITH = ("net.onnx", "--data", "images.npy", "--strategy", "fast")


def test_a_rewrite_merges_first_and_its_plan_says_so(here: Path, command: Command) -> None:
    code, out, _ = command("rewrite", *WITH, "--macs", "0.5", "--merge", "-o", "small.onnx")
    assert code == 0
    assert "at most 50 % of the multiply-accumulates, after 4 exact merges" in out
    before, after = (cs.analyze(cs.load(name)).total.macs for name in ("net.onnx", "small.onnx"))
    assert after <= 0.5 * before
    plan = Plan.load("small.plan.json")
    assert plan.merges == cs.merge(cs.load("net.onnx")).merges
    code, *_ = command("rewrite", "net.onnx", "--plan", "small.plan.json", "-o", "again.onnx")
    assert code == 0
    assert Path("again.onnx").read_bytes() == Path("small.onnx").read_bytes()
    code, *_ = command("rewrite", *WITH, "--macs", "0.5", "-o", "plain.onnx")
    code, out, _ = command("diff", "plain.plan.json", "small.plan.json")
    assert code == 0
    assert "merged first by one plan only: 0 by the old, 4 by the new one" in out


def test_a_plan_says_itself_what_is_merged(here: Path, command: Command) -> None:
    command("rewrite", *WITH, "--macs", "0.5", "--merge", "-o", "small.onnx")
    code, out, err = command(
        "rewrite", *WITH, "--plan", "small.plan.json", "--merge", "-o", "again.onnx"
    )
    assert (code, out) == (2, "")
    assert "merge: the plan says which layers are merged and replaced" in err
    assert not Path("again.onnx").exists()


def test_a_plan_that_merges_belongs_to_one_network(here: Path, command: Command) -> None:
    command("rewrite", *WITH, "--macs", "0.5", "--merge", "-o", "small.onnx")
    command("merge", "net.onnx", "-o", "merged.onnx")
    code, out, err = command(
        "rewrite", "merged.onnx", "--plan", "small.plan.json", "-o", "again.onnx"
    )
    assert (code, out) == (2, "")
    assert "conv1 + bn1 cannot be merged here; use the network that this was planned for" in err
    assert not Path("again.onnx").exists()


def test_a_sweep_merges_too(here: Path, command: Command) -> None:
    code, out, _ = command(
        "rewrite", *WITH, "--sweep", "0.5:1:2", "--merge", "--measure", "", "--json"
    )
    content = json.loads(out)
    assert code == 0
    assert [len(point["plan"]["merges"]) for point in content["points"]] == [4, 4]
    whole = cs.merge(cs.load("net.onnx"))
    assert content["before"]["macs"] == whole.before.macs
    assert content["points"][1]["macs"] == whole.after.macs


def test_a_nonlinearity_is_for_stacks(here: Path, command: Command) -> None:
    cs.save(random_network("3@9 > conv 16 5 p2 > relu > conv 16 5 p2"), here / "wide.onnx")
    with_data = ("wide.onnx", *WITH[1:])
    relu = ("--nonlinearity", "relu", "--macs", "0.8", "-o", "small.onnx")
    code, _, err = command("rewrite", *with_data, *relu)
    assert code == 2
    assert "only stacks have a place for 'relu', and spatial and channel are tried; try" in err
    code, _, err = command("rewrite", *with_data, *relu, "--forms", "stack")
    assert code == 0, err
    assert " > relu > " in Plan.load("small.plan.json").choices[1].text
    whole = ("--nonlinearity", "relu", "--macs", "1", "-o", "small.onnx", "--force")
    code, out, _ = command("rewrite", *with_data, *whole, "--forms", "stack")
    assert code == 0
    assert "no layer became a stack, so there is no nonlinearity" in " ".join(out.split())
    code, _, err = command("rewrite", *with_data[:1], *relu, "--forms", "stack", "--force")
    assert code == 2
    assert "needs calibration samples to see how far it must be lifted" in err
    code, _, err = command("rewrite", *WITH, "--nonlinearity", "gelu", *relu[2:], "--force")
    assert code == 2
    assert "there is no 'gelu' between layers; give relu" in err
