"""A real browser for tests: Debian's Chromium, headless, that talks to nobody but the page.

Everything a page asks for is noted, so that a test can say that nothing went elsewhere; and so is everything it
complains about, a violated policy among it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

# Without the lower ones Chromium looks for its maker's servers at every start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MILLISECONDS = 30_000


@dataclass
class Window:
    """One page in a context of its own, and what it did."""

    page: Page
    base: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def asked_elsewhere(self) -> list[str]:
        """What was asked of anybody but the page's own server."""
        return [url for url in self.asked if urlsplit(url).netloc != urlsplit(self.base).netloc]

    def go(self, path: str) -> None:
        """Open a page of ours."""
        self.page.goto(self.base + path)

    def wait_live(self) -> None:
        """Wait until the page says that it is."""
        self.page.wait_for_selector("[data-state='live']", timeout=WAIT_MILLISECONDS)

    def wait(self, expression: str, argument: Any = None) -> Any:
        """Wait until JavaScript finds something true and return it."""
        return self.page.wait_for_function(expression, arg=argument, timeout=WAIT_MILLISECONDS).json_value()

    def faults(self) -> list[str]:
        """Return what axe-core finds seriously wrong for people who cannot see, or cannot use a mouse."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{violation['id']} ({violation['impact']}): {violation['help']}: "
            + "; ".join(node["html"][:200] for node in violation["nodes"][:5])
            for violation in found
            if violation["impact"] in ("serious", "critical")
        ]


@dataclass
class Chromium:
    """A browser that runs."""

    browser: Browser
    base: str
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, path: str, *, dark: bool = False, width: int = 1200, scripts: bool = True) -> Window:
        """Open a page in a fresh context."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            locale="en-GB",
            java_script_enabled=scripts,
        )
        self.contexts.append(context)
        window = Window(context.new_page(), self.base)
        window.page.on("request", lambda request: window.asked.append(request.url))
        window.page.on("pageerror", lambda error: window.complaints.append(str(error)))
        window.page.on("dialog", lambda dialog: window.complaints.append(f"dialog: {dialog.message}"))
        window.page.on(
            "console",
            lambda message: window.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        window.go(path)
        return window

    def close_windows(self) -> None:
        """Close them all."""
        for context in self.contexts:
            context.close()
        self.contexts.clear()


@contextmanager
def chromium(base: str) -> Iterator[Chromium]:
    """Run one while the block lasts. ``base``: where the page is, ``http://host:port``."""
    program = shutil.which("chromium")
    assert program is not None, "no chromium; scripts/install-test-packages installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield Chromium(browser, base)
        finally:
            browser.close()
