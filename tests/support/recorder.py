"""What each SDK really asks: a server between it and personlog that keeps every request, and the files of a recording.

    python -m tests.support.recorder

tells the story of `tests.support.sdks` by each SDK to a personlog of its own and writes tests/golden/sdk/*.json anew.
Everybody in the story is made up; what is kept of a machine is its operating system and the versions of its programs.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.between import Between, between
from tests.support.chromium import browsing, shop
from tests.support.processes import PERSONAL_KEY, ROOT, Stack, running, wait_for
from tests.support.sdks import (
    BUNDLES,
    SECONDS_MAX,
    captured,
    told_by_browser,
    told_by_go,
    told_by_node,
    told_by_python,
    told_by_rust,
    write_shop,
)

RECORDINGS = ROOT / "tests" / "golden" / "sdk"
HEADERS = ("authorization", "content-type", "content-encoding", "origin", "access-control-request-headers",
           "access-control-request-method", "posthog-")  # fmt: skip
"""What a request is understood by; the rest is the transport's."""

class _Recording(Between):
    kept: list[dict[str, Any]]

    def serve(self, body: bytes) -> None:
        reply = self.forward(body)
        if not self.path.startswith("/static/"):
            headers = {name: value for name, value in self.headers.items() if name.lower().startswith(HEADERS)}
            self.kept.append({
                "method": self.command, "path": self.path, "headers": headers, "status": reply.status,
                "body": base64.b64encode(body).decode(),
            })  # fmt: skip
        self.reply(reply)


@contextmanager
def recording(port: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server that passes everything on to a port, and what it keeps."""
    kept: list[dict[str, Any]] = []
    with between(_Recording, port=port, kept=kept) as host:
        yield host, kept


def _browse(host: str, stack: Stack, folder: Path) -> None:
    """Both pages, the second as another visitor, and the end of each in a beacon."""
    write_shop(folder / "shop", host)
    with shop(folder / "shop") as origin, browsing(folder) as browser:
        for number, how in enumerate(("bundle", "snippet"), 1):
            page = browser.page()
            told_by_browser(page, f"{origin}/{how}.html", stack)
            page.close()
            wait_for(partial(_left, stack, number), SECONDS_MAX, "the beacon")
            assert page.noise == []


def _left(stack: Stack, number: int) -> bool:
    return len(captured(stack, "left")) == number


def main() -> None:
    """Record all of them, or those that are named."""
    how: dict[str, Callable[[str, Stack, Path], Any]] = {
        "python": lambda host, stack, folder: told_by_python(host, key=PERSONAL_KEY),
        "python-v1": lambda host, stack, folder: told_by_python(host, "v1"),
        "node": lambda host, stack, folder: told_by_node(host, key=PERSONAL_KEY),
        "node-v1": lambda host, stack, folder: told_by_node(host, "v1"),
        "go": lambda host, stack, folder: told_by_go(host, key=PERSONAL_KEY),
        "rust": lambda host, stack, folder: told_by_rust(host, key=PERSONAL_KEY),
        "rust-v1": lambda host, stack, folder: told_by_rust(host, "v1"),
        "browser": _browse,
    }
    RECORDINGS.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or how:
        with tempfile.TemporaryDirectory() as folder:
            with running(Path(folder) / "data", PERSONLOG_STATIC=str(BUNDLES)) as stack:
                with recording(stack.port) as (at, kept):
                    how[name](at, stack, Path(folder))
        (RECORDINGS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{name}: {len(kept)} requests")


if __name__ == "__main__":
    main()
