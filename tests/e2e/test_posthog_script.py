"""A script written for PostHog, run unchanged: only its environment says where it talks to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import PERSONAL_KEY, ROOT, TOKEN, running

pytestmark = pytest.mark.alone

NO_WINDOW = {"PERSONLOG_WINDOW": "0 0 29 2 *", "PERSONLOG_WINDOW_HOURS": "1"}
"""No deletion window opens while the script looks at what is pending."""

PRINTED = """\
capture Ok
batch Ok
person ada@example.com ['ada@example.com', 'device-1'] \
{'email': 'ada@example.com', 'name': 'Ada', 'plan': 'free', 'theme': 'dark'}
person bob@example.com ['bob@example.com'] {'email': 'bob@example.com', 'name': 'Bob', 'plan': 'pro'}
person cyd@example.com ['cyd@example.com'] {'email': 'cyd@example.com', 'name': 'Cyd', 'plan': 'free'}
person device-2 ['device-2'] {}
person test@example.com ['test@example.com'] {'email': 'test@example.com', 'name': 'T', 'plan': 'pro'}
by distinct_id ada@example.com
by email ['bob@example.com']
by search ['ada@example.com', 'bob@example.com', 'cyd@example.com', 'test@example.com']
by properties ['bob@example.com', 'test@example.com']
without email [['device-2']]
updated {'email': 'ada@example.com', 'name': 'Ada', 'plan': 'pro', 'theme': 'dark', 'vip': True}
split True
left ['ada@example.com'] apart ['device-1']
activity split_person Person properties
activity delete_property Person properties
activity updated Person properties
activity updated Person properties
activity merged Person properties
bulk_delete found 2 deleted 2
deletion_status ['pending']
deletion_status ['pending']
delete 204 again 404 Not found.
remaining ['ada@example.com', 'bob@example.com', 'device-1']
"""


def test_a_script_written_for_posthog_runs_unchanged(tmp_path: Path) -> None:
    with running(tmp_path / "var", **NO_WINDOW) as stack:
        ran = subprocess.run(
            [sys.executable, ROOT / "tests/golden/posthog_script.py"],
            env=os.environ
            | {
                "POSTHOG_HOST": stack.url,
                "POSTHOG_PROJECT_ID": "1",
                "POSTHOG_PERSONAL_API_KEY": PERSONAL_KEY,
                "POSTHOG_PROJECT_API_KEY": TOKEN,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == PRINTED


def test_the_script_knows_nothing_of_personlog() -> None:
    text = (ROOT / "tests/golden/posthog_script.py").read_text().lower()
    assert [word for word in ("personlog", "position", "idempotency", "as_of", "prefer") if word in text] == []
