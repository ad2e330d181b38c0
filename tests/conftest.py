"""What every kind of test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same commit gives the same verdict on every machine: examples do not depend on chance, and no
# test on how long it takes. `pytest --hypothesis-profile=explore` goes looking for new examples.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real networks and images that CONVSMITH_DATA names."""
    name = os.environ.get("CONVSMITH_DATA")
    if not name:
        pytest.skip("CONVSMITH_DATA is not set; it names the folder of real networks and images")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"CONVSMITH_DATA={name} is not a folder")
    return folder
