"""Debian's chromium, driven by Playwright: one browser for all tests of a process, no network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.browser.pages import Open

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


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


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page; afterwards, it must have complained of nothing and asked for nothing."""
    told: list[str] = []
    contexts = []

    def open_page(content: str, address: str = "", *, width: int = 1280, **more: Any) -> Page:
        file = tmp_path / "report.html"
        file.write_text(content, "utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 800}, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("data:", file.as_uri()))
                else told.append(f"asked for {request.url}")
            ),
        )
        page.goto(file.as_uri() + address)
        assert page.get_attribute("html", "data-ready") == "true"
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == []
