"""The program as a whole: streams, exit codes, and what a person sees when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import convsmith.sources
from convsmith.analysis import analyze
from convsmith.cli.running import run
from convsmith.graph import parse

CHAIN = "3@200 > conv 8 5/2 p1 > maxpool 3/1 > conv 8 3/1 p1"
UNKNOWN = "3@8 > unsupported Foo 8@8 > conv 4 1"

Ran = tuple[int, str, str]
"""Exit code, stdout, stderr."""

Command = Callable[..., Ran]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process."""

    def ran(*arguments: str) -> Ran:
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed program."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "convsmith"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


# The program ----------------------------------------------------------------------


def test_the_version(command: Command) -> None:
    code, out, err = command("--version")
    assert (code, err) == (0, "")
    assert out.startswith("convsmith 0.")


def test_without_a_verb_it_helps(command: Command) -> None:
    code, out, _ = command()
    assert code == 0
    assert "Usage: convsmith" in out
    assert "analyze" in out


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_examples(command: Command, option: str) -> None:
    code, out, _ = command(option)
    assert code == 0
    assert "convsmith analyze zoo:resnet50" in out
    code, out, _ = command("analyze", option)
    assert code == 0
    assert all(word in out for word in ("SOURCE", "--input", "--json", "--format", "--force"))


def test_an_unknown_verb_is_bad_usage_with_a_guess(command: Command) -> None:
    code, out, err = command("analyse", "zoo:vgg16")
    assert (code, out) == (2, "")
    assert err == (
        "convsmith: No such command 'analyse'. Did you mean 'analyze'?\nSee 'convsmith --help'.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze"], "Missing argument 'SOURCE'."),
        (["analyze", CHAIN, "--formt", "csv"], "No such option: --formt"),
        (["--nonsense"], "No such option: --nonsense"),
    ],
)
def test_bad_usage(command: Command, arguments: list[str], message: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"convsmith: {message}")
    assert "--help'.\n" in err


def test_starting_up_loads_nothing_heavy() -> None:
    code = (
        "import sys; from convsmith.cli.running import run; run(['--version']);print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(shown.stdout.split())
    assert "typer" in loaded
    assert not {"numpy", "onnx", "torch", "scipy", "onnxruntime", "numba"} & loaded


# What is wrong is said in one message ---------------------------------------------


def test_bad_input_is_one_message_without_a_traceback(command: Command) -> None:
    code, out, err = command("analyze", "3@200 > conv 8 5/2 p1 > cnv 8 3")
    assert (code, out) == (2, "")
    assert err == (
        "convsmith: unknown operator 'cnv'; did you mean 'conv'?\n"
        "  3@200 > conv 8 5/2 p1 > cnv 8 3\n"
        "                          ^\n"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("zoo:vgg", "zoo:vgg: the zoo has no network 'vgg'; did you mean 'vgg1"),
        ("3@4 > conv 8 9", "conv1: kernel 9x9 does not fit input 4x4 with padding 0"),
        ("nowhere.onnx", "no such file 'nowhere.onnx'"),
        ("", "cannot tell what '' is"),
    ],
)
def test_sources_that_cannot_be_read(command: Command, source: str, message: str) -> None:
    code, out, err = command("analyze", source)
    assert (code, out) == (2, "")
    assert err.startswith(f"convsmith: {message}")
    assert "Traceback" not in err


def test_debug_shows_where_an_error_comes_from(command: Command) -> None:
    code, _, err = command("analyze", "3@4 > nothing", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-3].startswith("convsmith: unknown operator 'nothing'")


def broken(error: BaseException) -> Callable[..., None]:
    def load(*arguments: object, **options: object) -> None:
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            ZeroDivisionError("division by zero"),
            3,
            "internal error: ZeroDivisionError: division by zero. Run it again with --debug",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "not enough memory"),
    ],
)
def test_what_is_not_the_users_fault(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(convsmith.sources, "load", broken(error))
    found, out, err = command("analyze", CHAIN)
    assert (found, out) == (code, "")
    assert err.startswith(f"convsmith: {message}")
    assert "Traceback" not in err


@pytest.mark.parametrize("form", ["text", "json"])  # less and more than a pipe holds
def test_a_reader_that_leaves_early_is_no_error(form: str) -> None:
    shell = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" analyze zoo:resnet50 --format "$1" | head -n 1',
         str(Path(sys.executable).parent / "convsmith"), form],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (shell.returncode, shell.stderr) == (0, "")
    assert shell.stdout == {"text": "zoo:resnet50\n", "json": "{\n"}[form]


# analyze --------------------------------------------------------------------------


def test_json_is_what_python_returns(command: Command) -> None:
    code, out, err = command("analyze", CHAIN, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data == analyze(parse(CHAIN)).to_dict()
    assert [row["rf"]["size"] for row in data["rows"]] == [[5, 5], [9, 9], [13, 13]]
    assert command("analyze", CHAIN, "--format", "json")[1] == out


@pytest.mark.parametrize(
    ("source", "key", "count"),
    [
        ("1@28 > conv 1 3 nobias > conv 1 3 nobias", "macs", 11_268),
        ("1@28 > conv 1 5 nobias", "macs", 14_400),
        ("1@5 > conv 1 3 nobias", "mults", 81),
        ("64@28 > conv 64 3 p1 nobias > conv 64 3 p1 nobias", "params", 73_728),
        ("64@28 > conv 64 5 p2 nobias", "params", 102_400),
        ("192@28 > conv 32 5 p2", "macs", 120_422_400),
        ("192@28 > conv 16 1 > conv 32 5 p2", "macs", 12_443_648),
        ("zoo:vgg16", "macs", 15_470_264_320),
        ("zoo:resnet50", "params", 25_557_032),
    ],
)
def test_the_worked_examples(command: Command, source: str, key: str, count: int) -> None:
    code, out, _ = command("analyze", source, "--json")
    assert code == 0
    assert json.loads(out)["total"][key] == count


def test_text_is_the_default_and_has_no_escape_sequences(command: Command) -> None:
    code, out, err = command("analyze", CHAIN)
    assert (code, err) == (0, "")
    assert "conv 8 5/2 p1" in out
    assert "11,300,184  multiply-accumulates" in out
    assert "\x1b" not in out


def test_another_input_size(command: Command) -> None:
    code, out, _ = command("analyze", "zoo:vgg16", "--input", "1,3,448,448", "--json")
    assert code == 0
    assert json.loads(out)["inputs"] == {"x": [1, 3, 448, 448]}


@pytest.mark.parametrize(
    ("form", "start"), [("csv", "name,op,text,"), ("markdown", "| layer |"), ("text", "3@200 >")]
)
def test_other_forms(command: Command, form: str, start: str) -> None:
    code, out, _ = command("analyze", CHAIN, "--format", form)
    assert code == 0
    assert out.startswith(start)
    assert out.endswith("\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "yaml"], "--format: there is no format 'yaml'; use text, json, csv"),
        (["--json", "--format", "csv"], "--json and --format csv contradict each other"),
        (["--input", "nonsense"], ""),
        (["--input", "0,0"], ""),
    ],
)
def test_options_that_make_no_sense(command: Command, options: list[str], message: str) -> None:
    code, out, err = command("analyze", CHAIN, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"convsmith: {message}")
    assert "internal" not in err


def test_an_unknown_operator_is_named_and_the_rest_is_shown(command: Command) -> None:
    code, out, err = command("analyze", UNKNOWN, "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["total"]["macs"] == 8 * 4 * 64
    assert err == (
        "convsmith: warning: not counted, and left out of the totals: unsupported1 (Foo).\n"
    )


def test_strict_makes_an_unknown_operator_a_finding(command: Command) -> None:
    plain = command("analyze", UNKNOWN)[1]
    code, out, err = command("analyze", UNKNOWN, "--strict")
    assert (code, out) == (1, plain)
    assert err == (
        "convsmith: error: not counted, and left out of the totals: unsupported1 (Foo).\n"
    )
    assert command("analyze", CHAIN, "--strict")[0] == 0


def test_very_many_unknown_operators_are_not_all_named(command: Command) -> None:
    _, _, err = command("analyze", "3@8 > ( unsupported Foo 3@8 ) x12", "--json")
    assert err.endswith("unsupported10 (Foo) and 2 more.\n")


# Files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.json", "{"), ("a.csv", "name,"), ("a.md", "| layer"), ("a.txt", "3@200"), ("a", "3@200")],
)
def test_the_ending_of_the_file_says_the_form(
    command: Command, tmp_path: Path, name: str, start: str
) -> None:
    code, out, err = command("analyze", CHAIN, "-o", str(tmp_path / name))
    assert (code, out, err) == (0, "", f"convsmith: wrote {tmp_path / name}\n")
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


def test_quiet_says_nothing(command: Command, tmp_path: Path) -> None:
    target = str(tmp_path / "a.json")
    assert command("analyze", CHAIN, "-o", target, "--quiet") == (0, "", "")


def test_a_file_that_exists_is_kept_unless_forced(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("precious", encoding="utf-8")
    code, out, err = command("analyze", CHAIN, "-o", str(file))
    assert (code, out) == (2, "")
    assert err.startswith(
        f"convsmith: {file}: this file exists; choose another name or pass --force"
    )
    assert file.read_text(encoding="utf-8") == "precious"
    assert command("analyze", CHAIN, "-o", str(file), "--force")[0] == 0
    assert file.read_text(encoding="utf-8").startswith("{")


def test_a_folder_that_is_not_there_is_noticed_before_the_work(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(convsmith.sources, "load", broken(AssertionError("too late")))
    code, _, err = command("analyze", CHAIN, "-o", str(tmp_path / "no" / "a.json"))
    assert code == 2
    assert "does not exist" in err


# Terminals ------------------------------------------------------------------------


def test_a_pipe_gets_the_width_of_columns() -> None:
    narrow, wide = (program("analyze", "zoo:vgg16", COLUMNS=c).stdout for c in ("80", "200"))
    assert "offset" not in narrow
    assert "offset" in wide
    assert max(map(len, narrow.splitlines())) <= 80


def on_a_terminal(**environment: str) -> str:
    """What a person sees: the program's output to a pseudo-terminal."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are a Unix thing")
    master, slave = pty.openpty()
    subprocess.run(
        [str(Path(sys.executable).parent / "convsmith"), "analyze", CHAIN],
        stdout=slave,
        check=True,
        env={k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
        | {"TERM": "xterm"}
        | environment,
    )
    os.close(slave)
    with os.fdopen(master, "rb", closefd=True, buffering=0) as screen:
        return screen.read(100_000).decode()


def test_colors_are_for_terminals_that_want_them() -> None:
    assert "\x1b[" in on_a_terminal()
    assert "\x1b[" not in on_a_terminal(NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal(TERM="dumb")


def test_a_stream_without_unicode_still_gets_its_table() -> None:
    shown = program("analyze", CHAIN, PYTHONIOENCODING="ascii", COLUMNS="80")
    assert shown.returncode == 0
    assert "11,300,184  multiply-accumulates" in shown.stdout
    assert shown.stdout.isascii()
    assert "?" not in shown.stdout
    assert "\n-----------" in shown.stdout


def test_bars_have_a_plain_form() -> None:
    shown = program(
        "analyze", "8@16 > conv 8 3 > conv 3 3", "--by", "module", PYTHONIOENCODING="latin-1"
    )
    assert "############" in shown.stdout
    assert "###. " in shown.stdout
    assert "?" not in shown.stdout
