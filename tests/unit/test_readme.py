"""What README.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import convsmith as cs
from convsmith.runtime import timing

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
    (code,) = _blocks("python")
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
