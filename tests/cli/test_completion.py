"""Shell completion: networks of the zoo and names of layers; quick, quiet, and safe."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convsmith.cli import completing
from convsmith.cli.running import run
from convsmith.sources.zoo import NETWORKS

Ask = Callable[..., list[str]]
Answer = Callable[..., tuple[int, str]]
RESTORER = Path(__file__).parents[2] / "examples" / "restorer" / "restorer.onnx"


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ask:
    """Asks as Typer's script for Bash does; the words are those that Bash makes of a line."""

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("_CONVSMITH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["convsmith", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        assert run([]) == 0
        captured = capfd.readouterr()
        assert captured.err == ""
        return captured.out.split()

    return ask


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Answer:
    """Asks as Typer's scripts for Zsh and Fish do, with the line as it stands."""

    def ask(line: str, *, shell: str, action: str = "") -> tuple[int, str]:
        monkeypatch.setenv("_CONVSMITH_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", f"convsmith {line}")
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", action)
        code = run([])
        captured = capfd.readouterr()
        assert captured.err == ""
        return code, captured.out

    return ask


def test_verbs_and_options(complete: Ask) -> None:
    assert {"analyze", "spectrum", "optimize"} <= set(complete(""))
    assert complete("comp") == ["compare"]
    assert "--symbolic" in complete("analyze", "--sy")


def test_networks_of_the_zoo(complete: Ask) -> None:
    assert complete("analyze", "z") == [f"zoo:{name}" for name in NETWORKS]
    # Bash breaks words at colons and replaces the last one.
    assert complete("analyze", "zoo", ":") == list(NETWORKS)
    assert complete("analyze", "zoo", ":", "resnet1") == ["resnet18", "resnet101", "resnet152"]
    assert complete("analyze", "") == []  # the shell offers files


def test_layers_of_the_network_in_the_command(complete: Ask) -> None:
    assert complete("explain", "zoo", ":", "resnet18", "layer1.0.c") == [
        "layer1.0.conv1", "layer1.0.conv2",
    ]  # fmt: skip
    assert complete("explain", "'3@32 > conv 8 3 > relu > conv 8 3'", "c") == ["conv1", "conv2"]
    # Without a size of its own.
    found = complete("spectrum", str(RESTORER), "--layer", "conv")
    assert found == [f"conv{i}" for i in range(1, 9)]
    through = ("spectrum", "photograph.png", "--through", str(RESTORER), "--layer", "conv8")
    assert complete(*through) == ["conv8"]
    assert complete("compare", "zoo", ":", "resnet18", "--layer", "co") == ["conv1"]


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "nothing.onnx", ""),
        ("explain", "3@32 > conv", ""),
        ("explain", "zoo:nothing", ""),
        ("explain", "os:abort", ""),  # a factory is code: it is not called for a key
        ("explain", '"unbalanced', ""),
        ("spectrum", "--layer", ""),
        ("explain", "zoo:vgg16", "nothing"),
    ],
)
def test_what_cannot_be_read_offers_nothing(complete: Ask, words: tuple[str, ...]) -> None:
    assert complete(*words) == []


LINES = {
    "analyze zoo:resnet1": ["zoo:resnet18", "zoo:resnet101", "zoo:resnet152"],
    "explain zoo:resnet18 layer1.0.c": ["layer1.0.conv1", "layer1.0.conv2"],
    "explain '3@32 > conv 8 3 > relu > conv 8 3' c": ["conv1", "conv2"],
    f"spectrum '{RESTORER}' --layer conv": [f"conv{i}" for i in range(1, 9)],
}


@pytest.mark.parametrize("line", LINES)
def test_zsh_gets_words_of_its_language(answer: Answer, line: str) -> None:
    code, said = answer(line, shell="zsh")
    words = said.removeprefix("_arguments '*: :((").removesuffix("))'\n").split("\n")
    assert [word.strip('"').replace(r"\\:", ":") for word in words] == LINES[line]
    assert code == 0


@pytest.mark.parametrize("line", LINES)
def test_fish_gets_lines(answer: Answer, line: str) -> None:
    assert answer(line, shell="fish", action="is-args") == (0, "")
    code, said = answer(line, shell="fish", action="get-args")
    assert (code, said.splitlines()) == (0, LINES[line])


@pytest.mark.parametrize("line", ["analyze rest", "analyze ", "explain nothing.onnx conv"])
def test_with_nothing_to_offer_a_shell_is_told_to_offer_files(answer: Answer, line: str) -> None:
    assert answer(line, shell="zsh") == (0, "_files\n")
    # Typer's script for Fish looks at nothing but the exit code.
    assert answer(line, shell="fish", action="is-args") == (1, "")


def test_names_that_a_shell_would_run_are_not_offered() -> None:
    names = ("$(reboot)", "a;b", "a b", "`id`", "a\nb", "-x", "fine.conv-1/2", "block[0]", "'")
    assert completing._offered(lambda: names, "") == ["fine.conv-1/2"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_shell_can_be_told() -> None:
    command = Path(sys.executable).with_name("convsmith")
    told = subprocess.run(
        ["bash", "-c", f"'{command}' --show-completion; true"],  # so that bash stays its parent
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_CONVSMITH_COMPLETE=complete_bash" in told.stdout
