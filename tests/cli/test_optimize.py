"""``convsmith optimize``, from files to files, on a network of a few hundred weights."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import convsmith.evidence
from convsmith.cli.optimize import EXAMPLES
from convsmith.cli.running import run
from convsmith.runtime import timing
from convsmith.runtime.timing import Timing

SIDE = 24
REPOSITORY = Path(__file__).parents[2]

Ran = tuple[int, str, str]
Command = Callable[..., Ran]


def write_network(path: Path) -> None:
    """Three convolutions that blur, of random weights."""
    generator = np.random.default_rng(0)
    nodes, tensors, last, channels = [], [], "noisy", 1
    for index, (made, kernel) in enumerate([(6, 5), (6, 5), (1, 3)]):
        weight = generator.normal(0, 0.2, (made, channels, kernel, kernel)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{index}"))
        out = "restored" if made == 1 else f"c{index}"
        pads = [kernel // 2] * 4
        nodes.append(
            helper.make_node("Conv", [last, f"w{index}"], [out], f"conv{index}", pads=pads)
        )
        if made > 1:
            nodes.append(helper.make_node("Relu", [out], [f"r{index}"], f"relu{index}"))
        last, channels = f"r{index}", made
    shape = [1, 1, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("noisy", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("restored", TensorProto.FLOAT, shape)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def write_pictures(folder: Path, count: int, side: int = SIDE) -> None:
    generator = np.random.default_rng(count)
    for part in ("input", "target"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (side, side), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / part / f"{side}-{index}.png")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and pictures, to work in."""
    write_network(tmp_path / "tiny.onnx")
    write_pictures(tmp_path / "data", 4)
    write_pictures(tmp_path / "test", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def ran(*arguments: str) -> Ran:
        code = run(("optimize", *arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


ALL = (
    *("tiny.onnx", "--data", "data", "--test", "test", "-o", "made/here"),
    *("--strategy", "fast"),
)


def test_it_writes_everything_and_says_where(here: Path, command: Command) -> None:
    code, out, err = command(*ALL)
    assert (code, err) == (0, "")
    assert out.splitlines()[-3:] == [
        "model: made/here/model.onnx",
        "plan: made/here/plan.json",
        "report: made/here/report.html",
    ]
    assert "\x1b" not in out
    assert re.search(r"PSNR +-?\d+\.\d\d dB +-?\d+\.\d\d dB +[+-]\d", out)
    assert "sees 11 x 11 pixels, as before" in out
    names = ["model.onnx", "plan.json", "plan.safetensors", "report.html"]
    assert sorted(file.name for file in Path("made/here").iterdir()) == names
    report = Path("made/here/report.html").read_text("utf-8")
    assert report.startswith("<!doctype html>")
    assert "--data data --test test --macs 0.5" in report


def test_other_budgets_are_tried_and_drawn(here: Path, command: Command) -> None:
    code, out, _ = command(*ALL, "--params", "0.7", "--sweep", "0.5:0.9:2", "--json")
    assert code == 0
    data = json.loads(out)
    assert data["after"]["params"] <= 0.7 * data["before"]["params"]
    assert [point["budget"] for point in data["sweep"]["points"]] == [0.5, 0.7, 0.9]
    assert data["sweep"]["currency"] == "params"
    assert data["sweep"]["points"][1]["plan"] == data["plan"]
    assert set(data["milliseconds"]) == {"convsmith", "onnxruntime"}
    assert data["sweep"]["points"][1]["metric"] == data["after"]["metric"]
    report = Path("made/here/report.html").read_text("utf-8")
    assert "Other budgets" in report
    budgets = report.partition('id="budgets"')[2].partition("</section>")[0]
    assert budgets.count("<circle") == 4  # the original and three budgets
    assert "--params 0.7 --strategy fast --sweep 0.5:0.9:2" in report


def test_a_bound_on_the_loss_is_kept(here: Path, command: Command) -> None:
    code, out, _ = command(*ALL, "--max-loss", "0.02", "--measure", "", "--exclude", "conv2")
    assert code == 0
    assert "budget an output loss of at most 0.02" in out
    assert "kept: conv 6 5" in out
    assert "ms in" not in out


def test_an_onnx_name_puts_the_rest_beside_it(here: Path, command: Command) -> None:
    code, out, _ = command("tiny.onnx", "--data", "data", "-o", "small.onnx")
    assert code == 0
    assert out.endswith("report: small.report.html\n")
    assert Path("small.plan.json").exists()
    assert "note: verified on the calibration images" in out


def test_json_says_the_same(here: Path, command: Command) -> None:
    code, out, err = command(*ALL, "--json", "--macs", "0.6")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["schema"] == "convsmith.rewrite/1"
    assert data["after"]["macs"] <= 0.6 * data["before"]["macs"]
    assert data["files"]["report"] == "made/here/report.html"


@pytest.mark.parametrize(("form", "start"), [("csv", "name,form,"), ("markdown", "**")])
def test_other_forms(here: Path, command: Command, form: str, start: str) -> None:
    code, out, _ = command(*ALL, "--format", form)
    assert code == 0
    assert out.startswith(start)


def test_what_cannot_be_used_is_skipped_and_counted(here: Path, command: Command) -> None:
    write_pictures(here / "data", 1, side=10)
    (here / "data" / "input" / "bad.png").write_bytes(b"no picture")
    (here / "data" / "target" / "bad.png").write_bytes(b"no picture")
    code, out, _ = command(*ALL)
    assert code == 0
    assert "4 calibration images" in " ".join(out.split())
    assert "skipped 2 images" in out
    assert "10-0.png: is 10x10, the network takes 24x24" in out


@pytest.mark.parametrize("name", ["model.onnx", "plan.json", "plan.safetensors", "report.html"])
def test_nothing_is_overwritten(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def too_late(*_: object) -> None:
        raise AssertionError("it was noticed too late")

    monkeypatch.setattr(convsmith.evidence, "load", too_late)
    Path("made/here").mkdir(parents=True)
    Path("made/here", name).write_text("precious", "utf-8")
    code, out, err = command(*ALL)
    assert (code, out) == (2, "")
    assert err == (
        f"convsmith: made/here/{name}: this file exists; choose another name or pass --force.\n"
    )
    assert Path("made/here", name).read_text("utf-8") == "precious"


def test_force_replaces_a_report_but_never_the_network_it_reads(
    here: Path, command: Command
) -> None:
    Path("made/here").mkdir(parents=True)
    Path("made/here/report.html").write_text("old", "utf-8")
    assert command(*ALL, "--force")[0] == 0
    assert Path("made/here/report.html").read_text("utf-8") != "old"
    before = Path("tiny.onnx").read_bytes()
    code, _, err = command("tiny.onnx", "--data", "data", "-o", "tiny.onnx", "--force")
    assert code == 2
    assert "would replace the network that is read" in err
    assert Path("tiny.onnx").read_bytes() == before


BAD: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no such model": (("nowhere.onnx", *ALL[1:]), "no such file 'nowhere.onnx'"),
    "not an ONNX file": (("text.onnx", *ALL[1:]), "text.onnx: "),
    "no such folder": ((ALL[0], "--data", "nowhere", *ALL[3:]), "nowhere: "),
    "an empty folder": ((ALL[0], "--data", "empty", *ALL[3:]), "empty: "),
    "no test folder": ((*ALL[:3], "--test", "nowhere", *ALL[5:]), "nowhere: "),
    "no image fits": ((ALL[0], "--data", "small", *ALL[3:]), "small: "),
    "a budget that cannot be met": (
        (*ALL, "--macs", "0.001"),
        "tiny.onnx: the budget of 636 multiply-accumulates cannot be met",
    ),
    "two budgets": ((*ALL, "--macs", "0.5", "--params", "0.5"), "exactly one of macs, params,"),
    "a sweep of losses": (
        (*ALL, "--max-loss", "0.1", "--sweep", "0.3:0.9"),
        "a sweep goes over costs, and max_loss= is a loss",
    ),
    "no such form": ((*ALL, "--forms", "magic"), "there is no form 'magic'; choose from spatial"),
    "no such strategy": ((*ALL, "--strategy", "slow"), "there is no strategy 'slow'; choose fast"),
    "no such runtime": ((*ALL, "--measure", "tvm"), "there is no runtime 'tvm'; choose convsmith"),
    "no budget": ((*ALL, "--macs", "-1"), "macs=-1.0 is no budget"),
    "budget as a word": ((*ALL, "--macs", "half"), "Invalid value for '--macs'"),
    "mean as a word": ((*ALL, "--mean", "grey"), "--mean: 'grey' is not a list of numbers"),
    "too many means": ((*ALL, "--mean", ".4,.4,.4"), "mean has 3 numbers"),
    "no image at all": ((*ALL, "--limit", "0"), "Invalid value for '--limit'"),
    "another size": ((*ALL, "--input", "nonsense"), "cannot read the input size"),
    "no output": (ALL[:5], "Missing option '-o'"),
    "no data": (("tiny.onnx", "-o", "made"), "Missing option '--data'"),
    "a file for a folder": ((*ALL[:6], "tiny.onnx/here"), "the folder 'tiny.onnx/here' cannot be"),
    "contradiction": ((*ALL, "--json", "--format", "csv"), "--json and --format csv contradict"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_leaves_nothing(
    here: Path, command: Command, case: str
) -> None:
    Path("text.onnx").write_text("this is no network", "utf-8")
    Path("empty").mkdir()
    write_pictures(Path("small"), 2, side=10)
    before = sorted(here.rglob("*"))
    arguments, message = BAD[case]
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"convsmith: {message}")
    assert err.count("convsmith: ") == 1
    assert "Traceback" not in err
    assert "internal" not in err
    assert len(err.splitlines()) <= 2
    assert sorted(here.rglob("*")) == before


def test_a_network_that_is_not_faster_is_called_that(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(nets: Mapping[str, Any], *_: object, **options: Any) -> Mapping[str, Any]:
        def timed(time: float) -> Timing:
            return Timing(samples=(time,) * 5, engine="Engine", version="1", threads=1, shapes={})

        return {
            name: {runtime: timed(time) for runtime in options["runtimes"]}
            for name, time in zip(nets, (2.0, 4.0), strict=True)
        }

    monkeypatch.setattr("convsmith.rewrite.measuring.networks", slower)
    code, out, _ = command(*ALL)
    assert code == 0
    assert "fewer multiply-accumulates, 2.00x slower" in out
    assert "note: it is not faster in convsmith and onnxruntime" in out
    assert "so it is no improvement" in " ".join(out.split())


def test_a_file_that_computes_something_else_is_called_that(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = timing.outputs

    def wrong(model: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: array + 1 for name, array in true(model, inputs).items()}

    code, out, _ = command(*ALL)
    assert "disagrees" not in out
    monkeypatch.setattr("convsmith.runtime.timing.outputs", wrong)
    code, out, _ = command(*ALL, "--force")
    assert code == 0
    assert "note: The written file disagrees with what was verified" in out


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    name = str(Path(sys.executable).parent / "convsmith")
    return subprocess.run([name, "optimize", *arguments], text=True, check=True, **options)


def on_a_terminal(*arguments: str) -> tuple[str, str]:
    """What the program prints, and what a person sees of its standard error."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are a Unix thing")
    master, slave = pty.openpty()
    shown: list[bytes] = []

    def watch() -> None:
        """Reads along: a terminal that nobody reads fills up, and the program waits for it."""
        with os.fdopen(master, "rb", buffering=0) as screen, contextlib.suppress(OSError):
            while part := screen.read(100_000):  # Linux raises when the other end is closed
                shown.append(part)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ran = program(
            *arguments, stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"}
        )
    finally:
        os.close(slave)
        watcher.join()
    return ran.stdout, b"".join(shown).decode()


def test_progress_is_for_terminals(here: Path) -> None:
    out, shown = on_a_terminal(*ALL)
    assert out.endswith("report: made/here/report.html\n")
    assert "calibrating" in shown
    assert "timing" in shown
    out, shown = on_a_terminal(*ALL, "--force", "--quiet")
    assert out.endswith("report: made/here/report.html\n")
    assert shown == ""


def test_the_example_in_the_help_names_files_that_are_there(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert all(word in out for word in ("MODEL", "--data", "--test", "--macs", "--force"))
    paths = re.findall(r"examples/\S+", EXAMPLES)
    assert len(paths) == 3
    assert all((REPOSITORY / path).exists() for path in paths)
