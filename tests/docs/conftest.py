"""Where the examples of the pages run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the repository's examples, as the current one; torch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several tests run side by side: their threads would fight
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    yield tmp_path
    torch.set_num_threads(threads)
