"""``convsmith rewrite``: a network and a plan from a budget, a plan or a range of budgets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.random_weights import random_network

import convsmith as cs
from convsmith.cli.rewrite import EXAMPLES
from convsmith.cli.running import run
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import Plan
from convsmith.runtime import timing

Ran = tuple[int, str, str]
Command = Callable[..., Ran]

NET = random_network("3@9 > conv 8 5 p2 > relu > conv 8 3 p1 > relu > conv 2 3 p1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network, images and a calibration, to work in."""
    cs.save(NET, tmp_path / "net.onnx")
    images = np.random.default_rng(0).normal(size=(12, 3, 9, 9)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    cs.calibrate(cs.load(tmp_path / "net.onnx"), [images]).save(tmp_path / "net.calibration")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def ran(*arguments: str) -> Ran:
        code = run(("rewrite", *arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


FAST = ("net.onnx", "--calibration", "net.calibration", "--strategy", "fast")
OUT = ("-o", "small.onnx")


def outputs(path: str) -> Any:
    net = cs.load(path)
    return evaluate(net, {"x": np.load("images.npy")})[net.outputs[0].value]


def test_it_writes_network_and_plan(here: Path, command: Command) -> None:
    code, out, err = command(*FAST, "--macs", "0.5", *OUT)
    assert code == 0
    assert "at most 50 % of the multiply-accumulates" in out
    assert err == "convsmith: wrote small.onnx\nconvsmith: wrote small.plan.json\n"
    names = {file.name for file in here.iterdir()} - {"net.onnx", "images.npy", "net.calibration"}
    assert names == {"small.onnx", "small.plan.json", "small.plan.safetensors"}
    before, after = (cs.analyze(cs.load(name)).total.macs for name in ("net.onnx", "small.onnx"))
    assert after <= 0.5 * before


def test_json_is_what_python_gives(here: Path, command: Command) -> None:
    code, out, _ = command(*FAST, "--params", "0.6", *OUT, "--json")
    assert code == 0
    content = json.loads(out)
    assert content["schema"] == "convsmith.rewrite/1"
    assert content["after"]["params"] <= 0.6 * content["before"]["params"]
    made = cs.rewrite(
        cs.load("net.onnx"),
        params=0.6,
        calibration=cs.rewrite.Calibration.load("net.calibration"),
        strategy="fast",
    )
    assert content["layers"] == made.to_dict()["layers"]
    assert content["verification"] == made.to_dict()["verification"]


def test_images_stand_in_for_a_calibration(here: Path, command: Command) -> None:
    code, out, _ = command(
        *("net.onnx", "--data", "images.npy", "--limit", "8", "--max-loss", "0.05"),
        *("--forms", "spatial", "--exclude", "conv1,conv3", *OUT, "--json"),
    )
    assert code == 0
    content = json.loads(out)
    assert content["verification"]["images"] == 8
    assert content["verification"]["outputs"][0]["relative_error"] ** 2 <= 0.05
    forms = {layer["name"]: layer["form"] for layer in content["layers"]}
    assert {forms.get(name, "keep") for name in ("conv1", "conv3")} <= {"keep", "refit"}
    assert set(forms.values()) <= {"keep", "refit", "spatial"}


def test_without_data_a_warning_says_what_is_lost(here: Path, command: Command) -> None:
    code, out, err = command("net.onnx", "--macs", "0.6", "--strategy", "fast", *OUT, "--quiet")
    assert code == 0
    assert "fit error" in out
    assert err == (
        "convsmith: warning: no calibration data: the weights alone are approximated,"
        " which loses much more.\n"
    )


def test_a_plan_is_used_again(here: Path, command: Command) -> None:
    assert command(*FAST, "--macs", "0.5", *OUT)[0] == 0
    wanted = outputs("small.onnx")
    code, _, err = command("net.onnx", "--plan", "small.plan.json", "-o", "again.onnx")
    assert code == 0
    assert "warning" not in err
    assert outputs("again.onnx") == pytest.approx(wanted, abs=1e-6)
    code, _, _ = command(*FAST, "--plan", "small.plan.json", "-o", "anew.onnx")
    assert code == 0
    one, two = (Plan.load(f"{name}.plan.json") for name in ("small", "anew"))
    assert [(c.form, c.variant, c.widths) for c in one.choices] == [
        (c.form, c.variant, c.widths) for c in two.choices
    ]


def test_an_edited_plan_is_fitted_anew(here: Path, command: Command) -> None:
    assert command(*FAST, "--macs", "0.5", *OUT)[0] == 0
    file = Path("small.plan.json")
    content = json.loads(file.read_text("utf-8"))
    choice = next(c for c in content["choices"] if c["form"] not in ("keep", "refit"))
    choice["widths"] = [1]
    file.write_text(json.dumps(content), "utf-8")
    code, out, _ = command(*FAST, "--plan", str(file), "-o", "thin.onnx", "--json")
    assert code == 0
    layer = next(one for one in json.loads(out)["layers"] if one["name"] == choice["layer"])
    assert layer["macs_after"] < choice["macs_after"]


def test_two_plans_can_be_compared(
    here: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*FAST, "--macs", "0.5", *OUT)[0] == 0
    assert command(*FAST, "--macs", "0.8", "-o", "large.onnx")[0] == 0
    plans = ("small.plan.json", "large.plan.json")
    old, new = (Plan.load(name) for name in plans)
    changed = [
        one.layer
        for one, two in zip(old.choices, new.choices, strict=True)
        if (one.form, one.variant, one.widths) != (two.form, two.variant, two.widths)
    ]
    assert changed
    assert run(("diff", *plans, "--json")) == 0
    content = json.loads(capsys.readouterr().out)
    assert [change["layer"] for change in content["changes"]] == changed
    assert content["new"]["macs"] == sum(choice.macs_after for choice in new.choices)
    for form in ("text", "markdown", "csv"):
        assert run(("diff", *plans, "--format", form)) == 0
        assert changed[0] in capsys.readouterr().out
    assert run(("diff", plans[0], plans[0])) == 0
    assert "0 changed, 0 fitted anew, 3 the same" in capsys.readouterr().out
    assert run(("diff", *plans, "--max-macs", "+1%")) == 2
    assert "plans have no budgets to keep to" in capsys.readouterr().err


def test_time_is_measured_where_it_was_asked_for(here: Path, command: Command) -> None:
    code, out, _ = command(*FAST, "--macs", "0.5", "--measure", "onnxruntime", *OUT, "--json")
    assert code == 0
    assert set(json.loads(out)["milliseconds"]) == {"onnxruntime"}


def test_a_sweep_writes_nothing(here: Path, command: Command) -> None:
    before = sorted(here.iterdir())
    code, out, err = command(*FAST, "--sweep", "0.001:1:3", "--measure", "")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "cannot be met" in lines["0.001"]
    assert {"original", "0.5005", "1"} <= set(lines)
    assert sorted(here.iterdir()) == before


def test_with_a_budget_a_sweep_writes_that_network(here: Path, command: Command) -> None:
    code, out, _ = command(
        *FAST, "--sweep", "0.5:0.7:2", "--measure", "", "--macs", "0.6", *OUT, "--json"
    )
    assert code == 0
    content = json.loads(out)
    assert content["schema"] == "convsmith.sweep/1"
    assert [point["budget"] for point in content["points"]] == [0.5, 0.6, 0.7]
    assert cs.analyze(cs.load("small.onnx")).total.macs == content["points"][1]["macs"]
    assert Plan.load("small.plan.json").budget == {"macs": 0.6}


@pytest.mark.parametrize("name", ["small.onnx", "small.plan.json", "small.plan.safetensors"])
def test_nothing_is_overwritten(here: Path, command: Command, name: str) -> None:
    Path(name).write_text("precious", "utf-8")
    code, out, err = command(*FAST, "--macs", "0.5", *OUT)
    assert (code, out) == (2, "")
    assert err == (f"convsmith: {name}: this file exists; choose another name or pass --force.\n")
    assert Path(name).read_text("utf-8") == "precious"
    assert command(*FAST, "--macs", "0.9", *OUT, "--force")[0] == 0


def test_a_page_of_one(here: Path, command: Command) -> None:
    code, out, _ = command(*FAST, "--macs", "0.5", *OUT, "--format", "html")
    assert code == 0
    assert out.startswith("<!doctype html>")
    assert "conv1" in out


BAD: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no budget": ((*FAST, *OUT), "exactly one of --macs, --params, --latency, --max-loss and"),
    "two budgets": ((*FAST, "--macs", ".5", "--params", ".5", *OUT), "not --macs and --params"),
    "no name": ((*FAST, "--macs", "0.5"), "-o is missing; say where the network goes"),
    "a name for a sweep": ((*FAST, "--sweep", "0.3:0.9", *OUT), "--sweep alone writes none"),
    "no range": ((*FAST, "--sweep", "0.9"), "'0.9' is no range of budgets"),
    "a sweep of losses": (
        (*FAST, "--sweep", ".3:.9", "--max-loss", ".1", *OUT),
        "--sweep goes over costs, --max-loss is none",
    ),
    "a budget that cannot be met": (
        (*FAST, "--macs", "0.001", *OUT),
        "cannot be met: the cheapest",
    ),
    "a budget of nothing": ((*FAST, "--macs", "-1", *OUT), "macs=-1.0 is no budget"),
    "no such strategy": ((*FAST, "--strategy", "slow", "--macs", ".5", *OUT), "no strategy 'slow'"),
    "no such form": ((*FAST, "--forms", "magic", "--macs", ".5", *OUT), "there is no form 'magic'"),
    "no such layer": (
        (*FAST, "--exclude", "conv9", "--macs", ".5", *OUT),
        "conv9: the network has",
    ),
    "no such runtime": ((*FAST, "--measure", "tvm", "--macs", ".5", *OUT), "no runtime 'tvm'"),
    "torch": ((*FAST, "--measure", "torch", "--macs", ".5", *OUT), "torch runs modules"),
    "no calibration": (
        ("net.onnx", "--calibration", "net.onnx", "--macs", ".5", *OUT),
        "net.onnx: this is not a calibration",
    ),
    "data twice": ((*FAST, "--data", "images.npy", "--macs", ".5", *OUT), "contradict each other"),
    "no plan": ((*FAST, "--plan", "net.onnx", *OUT), "net.onnx: this is not a plan"),
    "the network itself": (
        (*FAST, "--macs", ".5", "-o", "net.onnx", "--force"),
        "net.onnx: this would replace the network that is read",
    ),
    "no such network": (("nowhere.onnx", "--macs", ".5", *OUT), "no such file 'nowhere.onnx'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_leaves_nothing(
    here: Path, command: Command, case: str
) -> None:
    before = sorted(here.rglob("*"))
    arguments, message = BAD[case]
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("convsmith: ") == 1
    assert "Traceback" not in err
    assert sorted(here.rglob("*")) == before


def test_the_help_has_examples(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for option in ("--calibration", "--macs", "--max-loss", "--plan", "--sweep", "--measure"):
        assert option in out
    assert "--merge" in out
    assert "--nonlinearity" in out
    assert EXAMPLES.count("convsmith rewrite") == 5
