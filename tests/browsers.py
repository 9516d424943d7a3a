"""A real Chromium without a network, and a page of this project opened in it from a file."""

import os
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

IDLE = "!waiting.size && panels.every((p) => p.box.hidden || p.drawn)"
"""Whether a page has drawn everything that it has to."""

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test, saying why, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        path = own if Path(own).exists() else next(filter(None, map(shutil.which, _NAMES)), None)
        if path is None:
            pytest.skip(f"no Chromium: neither Playwright's own ({own}) nor {', '.join(_NAMES)} on the PATH")
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
        browser = driver.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page in a browser, what it asked for, and what went wrong in it."""

    tab: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def run(self, script: str, argument: object = None) -> Any:
        """The value of a JavaScript expression or function in the page."""
        return self.tab.evaluate(script, argument)

    def settle(self) -> None:
        """Wait until everything is drawn."""
        self.tab.wait_for_function(IDLE)

    def median_ms(self, script: str, times: int) -> float:
        """The median of the milliseconds that an async JavaScript function (i) says it took."""
        return statistics.median(self.run(script, i) for i in range(times))


@contextmanager
def opened(
    browser: Any, path: Path, *, width: int = 1280, script: str = "", **options: Any
) -> Iterator[Opened]:
    """A page opened from disk, network off.

    Args:
        script: JavaScript that runs before the page's own.
        options: of Playwright's browser context, such as `color_scheme`.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
    context.set_default_timeout(60_000)
    try:
        page = Opened(context.new_page())
        page.tab.on("request", lambda request: page.requests.append(request.url))
        page.tab.on("pageerror", lambda error: page.errors.append(str(error)))
        page.tab.on(
            "console", lambda m: page.errors.append(m.text) if m.type in ("error", "warning") else None
        )
        if script:
            page.tab.add_init_script(script)
        page.tab.goto(path.as_uri())
        yield page
    finally:
        context.close()


def slack() -> float:
    """By how much a limit on time is stretched: the processes that wait for each core of this machine."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
