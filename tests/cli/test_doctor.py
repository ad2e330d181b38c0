"""``convsmith doctor``: what it finds, and what it leaves alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from convsmith import diagnosis
from convsmith.cli.running import run
from convsmith.conv.choice import choice_store
from convsmith.diagnosis import Library, Machine, diagnose
from convsmith.kernel.store import code_store
from convsmith.report import render

Ran = tuple[int, str, str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CONVSMITH_THREADS", raising=False)
    monkeypatch.setattr(diagnosis, "threadpool_info", list)
    return tmp_path / "cache"


@pytest.fixture
def command(cache: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def ran(*arguments: str) -> Ran:
        code = run(["doctor", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def test_a_healthy_machine(command: Callable[..., Ran]) -> None:
    code, out, err = command("--json")
    data = json.loads(out)
    assert (code, err, data["schema"]) == (0, "", "convsmith.doctor/1")
    assert data["healthy"]
    assert data["problems"] == []
    assert set(data["machine"]) >= {"cpu", "lanes", "level1", "granted", "threads", "why"}
    assert all(data["pool"][name] > 0 for name in ("alone", "awake", "asleep", "peak_one"))
    assert {store["name"] for store in data["stores"]} == {"code", "choices"}
    assert all(store["trusted"] for store in data["stores"])
    packages = {package["name"]: package for package in data["packages"]}
    assert packages["numpy"]["version"]
    assert packages["ray"]["needed"] is False


def test_clear_removes_our_files_and_no_others(command: Callable[..., Ran], cache: Path) -> None:
    assert code_store().write("a" * 40, b"code")
    assert choice_store().write("b" * 40, b"{}")
    mine = cache / "code" / "thesis.txt"
    mine.write_text("mine")
    outside = cache / "notes.o"
    outside.write_text("mine")
    code, _, err = command("--clear", "--json")
    assert code == 0
    assert "removed 1 of the store of code" in err
    assert "removed 1 of the store of choices" in err
    assert mine.exists()
    assert outside.exists()
    assert choice_store().count() == 0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions as on POSIX")
def test_a_folder_that_others_write_to_is_a_problem_with_a_remedy(
    command: Callable[..., Ran], cache: Path
) -> None:
    (cache / "code").mkdir(parents=True)
    (cache / "code").chmod(0o777)
    code, out, _ = command()
    assert code == 1
    first, *_ = out.splitlines()
    assert first.startswith("problem: the store of code in")
    assert "others may write to it" in " ".join(out.split())
    assert f"remedy: chmod go-w {cache / 'code'}." in " ".join(out.split())


def test_a_folder_that_cannot_be_made_is_a_problem(
    command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVSMITH_CACHE", str(tmp_path / "file"))
    code, out, _ = command("--json")
    facts = [problem["fact"] for problem in json.loads(out)["problems"]]
    assert code == 1
    assert len(facts) == 2
    assert all("it cannot be made: " in fact for fact in facts)


def test_a_number_of_threads_that_is_none(
    command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSMITH_THREADS", "many")
    code, out, _ = command("--json")
    assert code == 1
    assert "CONVSMITH_THREADS is 'many'" in json.loads(out)["problems"][0]["fact"]
    monkeypatch.setenv("CONVSMITH_THREADS", "2")
    data = json.loads(command("--json")[1])
    assert (data["machine"]["threads"], data["machine"]["why"]) == (2, "CONVSMITH_THREADS")


def test_other_libraries_with_too_many_threads(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {"internal_api": "openblas", "filepath": "/x/libblas.so", "num_threads": 4096}
    monkeypatch.setattr(diagnosis, "threadpool_info", lambda: [many])
    found = diagnose()
    assert [problem.fact.partition(" on ")[0] for problem in found.problems] == [
        "openblas (libblas.so) would use 4096 threads"
    ]
    assert found.problems[0].remedy.startswith("set OMP_NUM_THREADS=")


MACHINE = Machine(
    cpu="x", system="Linux", lanes=8, registers=16, level1=1, level2=1, level3=1, online=8,
    affinity=8, granted=8, threads=8, why="all cores",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({}, []),
        ({"threads": 12, "why": "CONVSMITH_THREADS"}, ["12 threads share 8 cores"]),
        ({"affinity": 1, "granted": 1, "threads": 1}, ["this process may run on one core of 8"]),
        ({"affinity": 1, "granted": 1, "threads": 1, "online": 1}, []),
    ],
)
def test_threads_that_do_not_fit_the_cores(
    change: dict[str, int], facts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONVSMITH_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    machine = replace(MACHINE, **change)  # type: ignore[arg-type]  # numbers where numbers belong
    found = diagnosis._thread_problems(machine, (Library(name="omp", threads=1),))
    assert [problem.fact.partition(" (")[0] for problem in found] == facts


def test_threads_that_never_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    (problem,) = diagnosis._thread_problems(MACHINE, ())
    assert problem.fact.startswith("OMP_WAIT_POLICY is active")


def test_a_wrong_width_is_a_problem_and_the_rest_is_shown(
    command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convsmith.kernel.target import host

    host.cache_clear()
    monkeypatch.setenv("CONVSMITH_LANES", "5")
    try:
        code, out, _ = command("--json")
    finally:
        host.cache_clear()
    data = json.loads(out)
    assert (code, data["machine"], data["pool"]) == (1, None, None)
    assert "5 lanes" in data["problems"][0]["fact"]
    assert data["packages"]


def test_a_missing_package_is_a_problem(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = diagnosis._version
    monkeypatch.setattr(diagnosis, "_version", lambda name: None if name == "scipy" else real(name))
    found = diagnose()
    assert [(p.fact, p.remedy) for p in found.problems] == [
        ("scipy is missing", "pip install scipy")
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_text_fits_the_terminal(cache: Path, width: int) -> None:
    found = replace(
        diagnose(),
        problems=(diagnosis.Problem(fact="a long fact " * 20, remedy="a long remedy " * 20),),
        notes=("a \x1b[31m note",),
        stores=(),  # paths and other long words stay whole
        variables=(),
        python="3",
    )
    shown = render(found, "text", width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert shown.startswith("problem: a long fact")
    assert "\x1b" not in shown
    assert "remedy: a long remedy" in shown
    assert "dispatch" in shown
    assert "- **problem**" in render(found, "markdown")
