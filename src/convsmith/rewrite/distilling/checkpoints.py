"""Everything that a run needs to go on where it was cut off, in one file.

A safetensors file: weights of the trained network and of its best state so far, the state of the
optimizer and of the random stream as tensors; the position in the data, the loss curve and what
the run was asked for as JSON in its header. Nothing in it can run. It is replaced as a whole, so
whenever a run is killed, the last one written is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from convsmith.errors import DataError, UsageError
from convsmith.files import check_target, write_atomically

__all__ = ["Checkpoint", "damaged", "read", "write"]

SCHEMA = "convsmith.distillation-checkpoint/1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A state of a run.

    Attributes:
        run: What the run was asked for, and of which networks and batches; decides whether
            another run can go on with it.
        progress: Numbers, texts and lists.
        tensors: By group, then by name.
    """

    run: Mapping[str, Any]
    progress: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def group(self, name: str, like: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
        """One group of tensors, if they are those that are needed.

        Raises:
            DataError: If one is missing, is one too many, or has another shape or type.
        """
        found = dict(self.tensors.get(name, {}))
        same = found.keys() == like.keys() and all(
            found[key].shape == tensor.shape and found[key].dtype == tensor.dtype
            for key, tensor in like.items()
        )
        if not same:
            raise damaged(place, f"its tensors {name!r} do not fit this network")
        return found


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, in place of the one before.

    Raises:
        OutputError: If it cannot be written.
    """
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().clone().contiguous()
        for group, members in checkpoint.tensors.items()
        for name, tensor in members.items()
    }
    head = {"schema": SCHEMA, "run": checkpoint.run, "progress": checkpoint.progress}
    metadata = {"convsmith": json.dumps(head, allow_nan=False)}
    write_atomically(path, write_tensors(tensors, metadata), overwrite=True)


def read(path: Path, run: Mapping[str, Any]) -> Checkpoint | None:
    """Reads the checkpoint of this run; ``None`` if there is none yet.

    Raises:
        DataError: If the file is no checkpoint, or damaged.
        OutputError: If no checkpoint could be written there.
        UsageError: If it belongs to another run; says what differs.
    """
    place = str(path)
    check_target(path, overwrite=True)
    if not path.exists():
        return None
    try:
        data = path.read_bytes()
        tensors = read_tensors(data)
        size = int.from_bytes(data[:8], "little")
        head = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["convsmith"])
        schema, its_run, progress = head["schema"], head["run"], head["progress"]
    except OSError as error:
        raise DataError(
            f"it cannot be read: {error.strerror or error}", place=place, remedy="check the file"
        ) from None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise damaged(place, "this is no whole checkpoint") from None
    if schema != SCHEMA or not isinstance(its_run, dict) or not isinstance(progress, dict):
        raise damaged(place, "this is no checkpoint of this version")
    differing = [key for key in run if its_run.get(key) != run[key]]
    if differing:
        key = differing[0]
        raise UsageError(
            f"this checkpoint belongs to another run: {_said(key, its_run.get(key), run[key])}",
            place=place,
            remedy="ask for the same again, or give another file",
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    return Checkpoint(run=its_run, progress=progress, tensors=groups)


def _said(key: str, before: object, now: object) -> str:
    if key == "data":
        return "its batches were others"
    if key in ("original", "rewritten"):
        return f"its {key} network was another"
    return f"{key} was {str(before)[:60]!r} there, and is {str(now)[:60]!r} now"


def damaged(place: str, fact: str) -> DataError:
    """The error for a file that is no checkpoint of this run."""
    return DataError(fact, place=place, remedy="remove it, or give another file")
