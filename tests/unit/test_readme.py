"""What README.md shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import convsmith as cs
from convsmith.cli.running import run
from convsmith.linting import Rules
from convsmith.runtime import timing
from convsmith.sources.zoo import NETWORKS

HEAVY = ("optimize", "calibrate", "rewrite", "run")
"""Verbs that need a trained network and images."""

README = Path(__file__).parents[2] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_library_lines_run_and_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 5)).eval()
    images = np.random.default_rng(0).random((2, 3, 224, 224), dtype=np.float32)
    cs.save(cs.load(module, (1, *images.shape[1:])), "network.onnx")
    names: dict[str, object] = {"batches": [images[:1], images[1:]], "module": module}
    code, fast = _blocks("python")
    exec(code, names)
    printed = capsys.readouterr().out
    assert "multiply-accumulates" in printed
    assert "calibration samples" in printed
    smaller = names["module"]
    assert isinstance(smaller, nn.Module)
    assert smaller is not module
    with torch.inference_mode():
        expected = smaller(torch.from_numpy(images[:1])).numpy()
    made = timing.outputs(Path("smaller.onnx"), {"input": images[:1]})
    np.testing.assert_allclose(made["output"], expected, atol=1e-5)
    x, w, b = images, np.ones((4, 3, 3, 3), np.float32), np.zeros(4, np.float32)
    names |= {"x": x, "w": w, "b": b, "example": torch.from_numpy(images[:1])}
    exec(fast, names)
    inputs, weights, biases = (torch.from_numpy(array) for array in (x, w, b))
    wanted = nn.functional.conv2d(inputs, weights, biases, padding=1).relu().numpy()
    np.testing.assert_allclose(np.asarray(names["y"]), wanted, atol=1e-4)


def test_the_commands_run_and_say_what_stands_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 5))
    cs.save(cs.load(module, (1, 3, 224, 224)), "network.onnx")
    Image.new("RGB", (300, 240), "olive").save("photograph.jpg")
    commands = re.findall(r"^    (convsmith .*)$", README.read_text("utf-8"), re.MULTILINE)
    verbs = set()
    for line in commands:
        verb, *options = shlex.split(line, comments=True)[1:]
        if verb in HEAVY or verb.startswith("--"):
            continue
        if "--measure" in options:
            options.append("--no-tune")
        if verb == "bench":  # as it stands it takes a while
            options += ["--peers", "none", "--rounds", "1", "--algorithms", "direct"]
        verbs.add(verb)
        capsys.readouterr()
        code = run([verb, *options])
        printed = capsys.readouterr()
        may_find = verb in ("lint", "doctor")
        assert code in (0, 1) if may_find else code == 0, (line, printed.err)
        note = line.rpartition("  # ")[2]
        for number in re.findall(r"\d[\d,.]{3,}\d", note if "  # " in line else ""):
            assert number in printed.out, line
    assert len(verbs) == 11
    written = (
        "costs.csv",
        "conv1.tex",
        "found.sarif",
        "baseline.json",
        "network.html",
    )
    assert all(Path(name).stat().st_size for name in written)


def test_the_counts_in_words_are_true() -> None:
    text = " ".join(README.read_text("utf-8").split())
    assert f"{len(Rules().rules)} rules in five categories" in text
    assert f"{len(NETWORKS)} networks come by name" in text


def test_every_convsmith_command_is_a_verb() -> None:
    from convsmith.cli.app import app

    verbs = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    }
    used = re.findall(r"^\s+convsmith (\w+) ", README.read_text(), re.MULTILINE)
    assert used
    assert set(used) <= verbs


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_commands_of_a_rewrite_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    module = nn.Sequential(nn.Conv2d(3, 8, 5), *pooled).eval()
    cs.save(cs.load(module, (1, 3, 16, 16)), "network.onnx")
    random = np.random.default_rng(0)
    for folder in ("images", "labelled/one", "labelled/two"):
        Path(folder).mkdir(parents=True)
        for index in range(3):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{folder}/{index}.png")
    seen = []
    for line in re.findall(r"^    (convsmith .*)$", README.read_text("utf-8"), re.MULTILINE):
        verb, *options = shlex.split(line, comments=True)[1:]
        if verb not in HEAVY:
            continue
        capsys.readouterr()
        code = run([verb, *options, *(["--force"] if "-o" in options else [])])
        said = capsys.readouterr().err
        too_fast = "--latency" in options and "cannot be met" in said  # it depends on the machine
        assert code == (2 if too_fast else 0), (line, said)
        seen.append(verb)
    assert sorted(seen) == ["calibrate", "optimize", "rewrite", "rewrite", "rewrite", "run"]
    assert cs.load("smaller.onnx").shapes["input"] == (1, 3, 16, 16)
