"""Fixtures for the console tests: a browser, pages whose errors fail the test, a fake server, and a stack.

To use a running stack (with its console) instead of starting one, set MILKRUN_E2E_OUTPUTS to the path of its
outputs.json.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)
from xdist.remote import Producer

from ops.stage_outputs import Outputs
from tests.console.stand_in import Feed, State, morning
from tests.e2e.pipeline import Pipeline
from tests.scopes import ScopeScheduling
from tests.time_zones import zone_in_which_it_is_one_in_the_afternoon
from tools.stack import private_files
from tools.stack.stack import Stack

FOLDER = os.environ.get("MILKRUN_LOCAL", ".local-console-test")
PORT = os.environ.get("MILKRUN_PORT", "6300")

# The browser is headless, has no sandbox (because containers run as root) and uses no graphics card, so SwiftShader
# renders WebGL.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK: ViewportSize = {"width": 1360, "height": 860}
PHONE: ViewportSize = {"width": 390, "height": 844}

STACK_TESTS = frozenset({"test_api.py", "test_stack.py"})

type Open = Callable[..., Page]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # the names that tools/setup.sh looks for

# Rendering is slow on a busy machine. Tests of speed measure the time themselves.
expect.set_options(timeout=60_000)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ScopeScheduling:
    # Two scopes of similar duration. With one per file, the stack's tests would start last, because xdist begins with
    # the scope that has the most tests.
    return ScopeScheduling(config, log, lambda file: "stack" if file in STACK_TESTS else "page")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not chromium:
        pytest.exit("The console tests need Chromium. Install it with: apt install chromium", returncode=2)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Yield a function that opens a URL in a new browser context and returns the page. The test fails if a
    page logs an error (such as a violation of the Content-Security-Policy), throws an exception or opens a
    dialog.
    """
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # The browser also reports responses in which the server refuses a request on purpose. They are not
        # errors of the page.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def dismiss(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_page(url: str, *, dark: bool = False, phone: bool = False) -> Page:
        context = browser.new_context(
            viewport=PHONE if phone else DESK,
            color_scheme="dark" if dark else "light",
            timezone_id="America/New_York",  # not the fleet's time zone
            locale="en-GB",
            permissions=["clipboard-read", "clipboard-write"],
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", dismiss)
        page.goto(url)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def state() -> State:
    """Return the fake server's initial data. A test module may override this fixture."""
    return morning()


@pytest.fixture
def feed(state: State) -> Iterator[Feed]:
    with Feed(state) as feed:
        yield feed


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Pipeline]:
    named = os.environ.get("MILKRUN_E2E_OUTPUTS", "")
    with ExitStack() as until_the_end:
        if named:
            environment = dict(os.environ) | {"MILKRUN_LOCAL": str(Path(named).resolve().parent)}
            outputs = Outputs.read(Path(named))
        else:
            environment = dict(os.environ) | {"MILKRUN_LOCAL": FOLDER, "MILKRUN_PORT": PORT}
            stack = until_the_end.enter_context(Stack.of(environment))
            # The page shows today's visits, and the tests send those of the past seven hours, so it must be afternoon
            # in the stage's time zone. Only the console and the report use it. The console reads it when it starts.
            file = stack.settings.outputs_file
            deployed = json.loads(file.read_text())
            private_files.write(
                file, json.dumps(deployed | {"time_zone": zone_in_which_it_is_one_in_the_afternoon()})
            )
            stack.console()
            outputs = stack.outputs()
        warehouse = until_the_end.enter_context(outputs.warehouse())
        yield Pipeline(outputs, environment, warehouse)


@pytest.fixture(scope="session")
def console(pipeline: Pipeline) -> str:
    """Send the events of 12 trucks in a morning that began seven hours ago, and return the console's URL."""
    assert pipeline.outputs.console_url
    sent = pipeline.ops("send", "--seed", "9", "--begin", "7 hours ago", "--json")
    assert sent.exit_code == 0, sent.output
    return pipeline.outputs.console_url


@pytest.fixture(scope="session")
def marts(pipeline: Pipeline, console: str) -> None:
    """Build the marts from the events of the morning."""
    pipeline.build_marts()
