"""Debian's chromium, driven by Playwright: one browser for all tests of a process, no network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser; tests that need it are skipped where it or its driver is missing."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        # Inside a container there is no room for its sandbox; pages come from these tests alone.
        browser = driver.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"],
            env={**os.environ, "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1"},
        )
        yield browser
        browser.close()
