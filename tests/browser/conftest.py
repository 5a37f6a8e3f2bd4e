"""Fixtures for tests of the page: one server and one browser for a module, a fresh page for each test.

A module may set CONFIG (the text of the server's configuration file) and DATA_SETS (what is stored before its tests).
They are fixtures and not helpers since each test needs the same chain, and each page must be checked after its test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import browsing
from tests.browser.browsing import Watch
from tests.system.server import Server, running

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = browsing.headless()
    if executable is None:
        pytest.skip("there is no Chromium: install chromium-headless-shell, or name one in FILMROOM_CHROMIUM")
    expect.set_options(timeout=browsing.TIMEOUT_MS)
    with browsing.launched(executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def serve(
    browser: Browser, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The module's server. It depends on the browser, so that nothing is started where there is none."""
    data = tmp_path_factory.mktemp("browser") / "data"
    with running(data, config=getattr(request.module, "CONFIG", ""), workers=1, http=True) as server:
        if data_sets := getattr(request.module, "DATA_SETS", ()):
            browsing.store(server.url, *data_sets)
        yield server


@pytest.fixture
def watch(serve: Server) -> Iterator[Watch]:
    """Fails the test if a page reports an error or asks another host."""
    watch = Watch(serve.url)
    yield watch
    watch.check()


@pytest.fixture
def open_page(browser: Browser, serve: Server, watch: Watch) -> Iterator[OpenPage]:
    """Opens pages: `open_page("#/upload", locale="de-DE")`; options as of a Playwright context."""
    contexts = []

    def open_page(place: str = "", **options: Any) -> Page:
        defaults = {"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", "timezone_id": "UTC"}
        context = browser.new_context(**{**defaults, "color_scheme": "dark", "base_url": serve.url, **options})
        contexts.append(context)
        context.set_default_timeout(browsing.TIMEOUT_MS)
        watch.attach(context)
        page = context.new_page()
        page.goto(f"/{place}")
        if not place or place.startswith("#"):
            page.locator("#view").wait_for()  # from then on it takes keys
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """The list of studies: 1280 pixels wide, dark, English."""
    return open_page()
