"""A run that is killed and taken up again ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.test_distilling import images, pair
from torch import nn

from convsmith.errors import DataError, OutputError, UsageError
from convsmith.rewrite import distill
from convsmith.rewrite.distilling import Distillation

OPTIONS: dict[str, Any] = {
    "epochs": 4,
    "lr": 0.01,
    "average": 0.9,
    "batch_norm": "update",
    "evaluate_every": 3,
}
STEPS = 32


class Loader:
    """Shuffles and augments by the global generators; its order is drawn anew every epoch."""

    def __iter__(self) -> Any:
        data = torch.cat(images(9))
        for rows in torch.randperm(len(data)).split(4):
            yield data[rows]


def noisy(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """A loss that draws random numbers, as dropout would."""
    far = (made - wanted).square()
    return (far * (0.5 + torch.rand(far.shape[0], 1))).mean()


def run(path: Path | None, **options: Any) -> Distillation[nn.Module]:
    original, rewritten = pair()
    given = {**OPTIONS, "loss": noisy, **options}
    return distill(original, rewritten, Loader(), checkpoint=path, **given)


class Killed(BaseException):
    """What a run cannot catch."""


def kill_at(step: int) -> Any:
    def progress(_what: str, done: int, _total: int) -> None:
        if done == step:
            raise Killed

    return progress


def same(one: Distillation[nn.Module], other: Distillation[nn.Module]) -> None:
    states = one.module.state_dict(), other.module.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    facts = [found.to_dict() for found in (one, other)]
    for fact in facts:
        del fact["seconds"], fact["resumed"]
    assert facts[0] == facts[1]


@pytest.fixture(scope="module")
def uninterrupted() -> Distillation[nn.Module]:
    return run(None)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_run_cut_off_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, uninterrupted: Distillation[nn.Module], optimizer: str
) -> None:
    whole = uninterrupted if optimizer == "adam" else run(None, optimizer=optimizer)
    path = tmp_path / "run.safetensors"
    resumed = []
    for step in (3, 6, 9, 20, 21):
        with pytest.raises(Killed):
            run(path, every=2, progress=kill_at(step), optimizer=optimizer)
    found = run(path, every=2, progress=None, optimizer=optimizer)
    resumed.append(found.resumed)
    same(found, whole)
    assert resumed == [20]
    assert found.improved
    assert sum(phase.steps for phase in found.phases) == STEPS


def test_an_interval_does_not_end_with_a_phase(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "run", every=4, progress=kill_at(9))  # the first phase has 6 steps
    found = run(tmp_path / "run", every=4)
    assert found.phases[0].steps == 6
    assert found.resumed == 8


def test_a_run_that_is_over_is_not_run_again(
    tmp_path: Path, uninterrupted: Distillation[nn.Module]
) -> None:
    path = tmp_path / "run"
    same(run(path), uninterrupted)
    seen: list[object] = []
    again = run(path, progress=lambda *said: seen.append(said))
    same(again, uninterrupted)
    assert not seen
    assert again.resumed == STEPS


SCRIPT = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, {repository!r})
from tests.unit.test_distilling_checkpoint import run
torch.set_num_threads(1)

def progress(what, done, total):
    print(done, flush=True)
    time.sleep(0.05)

run(Path({path!r}), every=3, progress=progress)
"""


def test_killed_by_the_system(tmp_path: Path) -> None:
    """``kill -9`` in the middle of steps; at most one interval is lost."""
    path = tmp_path / "run"
    script = SCRIPT.format(repository=str(Path(__file__).parents[2]), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as run_:
        assert run_.stdout is not None
        reached = 0
        while reached < 11:
            reached = int(run_.stdout.readline())
        os.kill(run_.pid, signal.SIGKILL)
        reached = max([reached, *map(int, run_.stdout.read().split())])
        assert run_.wait() == -signal.SIGKILL
    assert reached < STEPS
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found, wanted = run(path, every=3), run(None)
    finally:
        torch.set_num_threads(threads)
    assert reached - 3 <= found.resumed <= reached
    same(found, wanted)


def test_a_checkpoint_holds_nothing_that_can_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["convsmith"])
    assert head["schema"] == "convsmith.distillation-checkpoint/1"
    assert head["progress"]["done"] is True
    groups = {name.partition("/")[0] for name in load_file(path)}
    assert groups == {"student", "best", "average", "random"}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(path)
    with pytest.raises(UsageError, match=r"another run: lr was '0\.01' there, and is '0\.02' now"):
        run(path, lr=0.02)
    with pytest.raises(UsageError, match="belongs to another run: its batches were others"):
        distill(*pair(), images(9), checkpoint=path, loss=noisy, **OPTIONS)
    original, rewritten = pair()
    with torch.no_grad():
        rewritten[7].bias += 1
    with pytest.raises(UsageError, match="another run: its rewritten network was another"):
        distill(original, rewritten, Loader(), checkpoint=path, loss=noisy, **OPTIONS)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, every=2, progress=kill_at(9))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # no map

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message + ".*; remove it, or give another file"):
            run(path)

    for cut in (0, 4, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        refused("this is no whole checkpoint")
    path.write_bytes(b"PK\x03\x04" + data)
    refused("this is no whole checkpoint")
    save_file(tensors, path)
    refused("this is no whole checkpoint")
    save_file(tensors, path, {"convsmith": "[1]"})
    refused("this is no whole checkpoint")

    def changed(**tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**tensors, **{name.replace("__", "/"): value for name, value in tensor.items()}}

    save_file(changed(student__extra=torch.zeros(1)), path, metadata)
    refused("its tensors 'student' do not fit this network")
    save_file(changed(random__torch=torch.zeros(3, dtype=torch.uint8)), path, metadata)
    refused("its numbers make no sense")
    save_file({**tensors, "optimizer/0.exp_avg": torch.zeros(3)}, path, metadata)
    refused("its optimizer does not fit this network")
    for key, value in (("step", "x"), ("phase", 7), ("points", 3), ("steps", [1, 2, 3])):
        head = json.loads(metadata["convsmith"])
        head["progress"][key] = value
        save_file(tensors, path, {"convsmith": json.dumps(head)})
        refused("its numbers make no sense")
    path.write_bytes(data)
    assert run(path).resumed == 8


def test_where_no_checkpoint_can_be_written_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="this is a folder"):
        run(tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        run(tmp_path / "none" / "run")
