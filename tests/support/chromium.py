"""A real headless Chromium, driven over its DevTools pipe, and a web server for the pages that it opens.

Never a driver in between: what the browser reports (console, failed requests, statuses) is what a test sees.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SHOP = "shop.example"
"""The name of every page's host, so that the SDK does not take the visitor for a developer; it leads to loopback."""

ANSWER_SECONDS_MAX = 60.0
"""For one answer of the browser: it starts in a second, and may share two cores with whole stacks."""

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe", f"--host-resolver-rules=MAP {SHOP} 127.0.0.1",
)  # fmt: skip


class Page:
    """One tab. `requests` are (method, url, status) in the order of their answers; `noise` is all that went wrong."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser, self.session, self._target = browser, session, target
        self.requests: list[tuple[str, str, int]] = []
        self.noise: list[str] = []
        self.console: list[str] = []
        self._asked: dict[str, tuple[str, str]] = {}

    def open(self, url: str) -> None:
        """Go there; the page before it is unloaded as when somebody follows a link."""
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Until the expression is true; it is asked again, because a page may be replaced meanwhile."""
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, (script, self.noise, self.requests)
            time.sleep(0.02)
        return found

    def click(self, x: int, y: int) -> None:
        """A real click, for what begins with the first interaction."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def close(self) -> None:
        """As when somebody closes the tab: `pagehide` is told to the page."""
        self.open("about:blank")
        self._browser.call("Target.closeTarget", targetId=self._target)

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self.session, **parameters)

    def heard(self, method: str, told: dict[str, Any]) -> None:
        """One event of the DevTools protocol."""
        if method == "Network.requestWillBeSent":
            self._asked[told["requestId"]] = (told["request"]["method"], told["request"]["url"])
        elif method == "Network.responseReceived":
            asked = self._asked.get(told["requestId"], ("?", told["response"]["url"]))
            status = told["response"]["status"]
            self.requests.append((*asked, status))
            if status >= 400:
                self.noise.append(f"{status} {asked}")
        elif method == "Network.loadingFailed":
            if not told.get("canceled"):
                self.noise.append(f"failed {self._asked.get(told['requestId'])}: {told['errorText']}")
        elif method == "Log.entryAdded":
            self.noise.append(f"{told['entry']['level']}: {told['entry']['text']} {told['entry'].get('url')}")
        elif method == "Runtime.exceptionThrown":
            self.noise.append(f"exception: {told['exceptionDetails']}")
        elif method == "Runtime.consoleAPICalled":
            said = f"{told['type']}: {[one.get('value', one.get('description')) for one in told['args']]}"
            self.console.append(said)
            if told["type"] in ("warning", "error", "assert"):
                self.noise.append(said)


class Chromium:
    """One browser with a profile of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        (takes, self_out), (self_in, gives) = os.pipe(), os.pipe()
        takes, gives = _above_ten(takes), _above_ten(gives)  # 3 and 4 are where Chromium looks, and must be free
        command = f'exec "$@" 3<&{takes} 4>&{gives} {takes}<&- {gives}>&-'
        with (profile.parent / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", command, "bash", program, *FLAGS, f"--user-data-dir={profile}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(takes, gives),
            )  # fmt: skip
        os.close(takes)
        os.close(gives)
        self._out, self._in = os.fdopen(self_out, "wb", buffering=0), os.fdopen(self_in, "rb")
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self._changed = threading.Condition()
        self._number = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def page(self) -> Page:
        """A new tab in which everything is listened to."""
        context = self.call("Target.createBrowserContext")["browserContextId"]  # cookies of its own: another visitor
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Network", "Runtime", "Log", "Page"):
            page.call(f"{domain}.enable")
        return page

    def call(self, method: str, session: str = "", **parameters: Any) -> Any:
        """One command and its answer."""
        with self._changed:
            self._number += 1
            number = self._number
            command = {"id": number, "method": method, "params": parameters}
            command |= {"sessionId": session} if session else {}
            self._out.write(json.dumps(command).encode() + b"\0")
            told = self._changed.wait_for(lambda: number in self._answers, ANSWER_SECONDS_MAX)
            assert told, f"no answer to {method}"
            answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        self._reader.join(timeout=10)
        self._out.close()
        self._in.close()

    def _read(self) -> None:
        waiting = b""
        while piece := self._in.read1(1 << 20):
            *whole, waiting = (waiting + piece).split(b"\0")
            with self._changed:
                for one in map(json.loads, whole):
                    if "id" in one:
                        self._answers[one["id"]] = one
                    elif (page := self._pages.get(one.get("sessionId", ""))) is not None:
                        page.heard(one["method"], one["params"])
                self._changed.notify_all()


def _above_ten(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *values: Any) -> None:
        """Say nothing."""


@contextmanager
def shop(folder: Path) -> Iterator[str]:
    """A web server for a folder of pages on a host and port of its own; its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://{SHOP}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browsing(folder: Path) -> Iterator[Chromium]:
    """A started browser that is ended at the end."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    browser = Chromium(program, folder / "profile")
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with browsing(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
