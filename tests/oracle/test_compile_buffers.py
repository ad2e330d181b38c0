"""The kernels of whole networks touch no memory but that of their arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convsmith.kernel.target import WIDTHS

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="pages are protected with mprotect")
@pytest.mark.parametrize("lanes", WIDTHS)
def test_kernels_between_forbidden_pages(lanes: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.guarded_kernels", "12"],
        cwd=REPOSITORY,
        env={**os.environ, "CONVSMITH_LANES": str(lanes)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = ran.stdout.splitlines()[-1:]
    assert (ran.returncode, last) == (0, ["done"]), f"{last} {ran.stderr}"
