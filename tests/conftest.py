"""What every kind of test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps compiled code and choices out of the user's folder; all processes of a run share it."""
    given = os.environ.get("CONVSMITH_CACHE")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    os.environ["CONVSMITH_CACHE"] = str(shared / "convsmith-cache")
    yield
    if given is None:
        del os.environ["CONVSMITH_CACHE"]
    else:
        os.environ["CONVSMITH_CACHE"] = given
