"""GETs that are answered without asking the store: the same answers as by it, and never older than anybody saw."""

from __future__ import annotations

import http.client
import threading

import orjson
import pytest

from tests.support.processes import Stack, wait_for

pytestmark = pytest.mark.alone

READERS = 4
READS = 200
"""Answers of readers that must follow each other, before the kill and after it."""

SECONDS_MAX = 60.0


def key(stack: Stack) -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.key}"}


def path(stack: Stack, distinct_id: str, prefix: str = "projects") -> str:
    return f"/api/{prefix}/{stack.project}/persons/{stack.uuid(distinct_id)}/"


def get(stack: Stack, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=key(stack) | more)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def known(stack: Stack) -> int:
    text = stack.ask("GET", "/metrics").body.decode()
    return int(
        float(next(line.split()[1] for line in text.splitlines() if line.startswith("personlog_known_persons_total")))
    )


def born(stack: Stack, distinct_id: str, **properties: object) -> None:
    sent = stack.capture(event="born", distinct_id=distinct_id, properties={"$set": properties})
    assert stack.persons(f"/?distinct_id={distinct_id}", Min_Position=sent.headers["Position"]).status == 200


def is_known(stack: Stack, distinct_id: str) -> bool:
    before = known(stack)
    get(stack, path(stack, distinct_id))
    return known(stack) > before


@pytest.mark.parametrize("prefix", ["projects", "environments"])
def test_the_answer_is_the_same_by_either_way(stack: Stack, prefix: str) -> None:
    born(stack, "ada", email="ada@example.com", ünïcode="✓", nested={"a": [1, None, 1.5]})
    wait_for(lambda: is_known(stack, "ada"), 60, "rows that are known")
    before = known(stack)
    status, headers, body = get(stack, path(stack, "ada", prefix))
    assert known(stack) == before + 1
    by_aiohttp = get(stack, path(stack, "ada", prefix) + "?format=json", Upgrade="none")
    other_status, other_headers, other_body = by_aiohttp
    assert known(stack) == before + 1
    assert (status, body) == (other_status, other_body)
    assert {name: value for name, value in headers.items() if name != "date"} == {
        name: value for name, value in other_headers.items() if name != "date"
    }


def test_who_was_not_read_before_is_answered_the_same_by_either_way(stack: Stack) -> None:
    sent = stack.capture(event="born", distinct_id="eve", properties={"$set": {"a": 1}})
    assert get(stack, path(stack, "nobody"), Min_Position=sent.headers["Position"])[0] == 404  # eve was not read
    before = known(stack)
    for one, expected in (("eve", 200), ("nobody at all", 404)):
        status, headers, body = get(stack, path(stack, one))
        by_aiohttp = get(stack, path(stack, one) + "?format=json", Upgrade="none")
        other_status, other_headers, other_body = by_aiohttp
        assert (status, body) == (other_status, other_body)
        assert status == expected
        assert {name: value for name, value in headers.items() if name != "date"} == {
            name: value for name, value in other_headers.items() if name != "date"
        }
    assert known(stack) == before


def test_a_patch_that_does_not_wait_has_the_same_answer_and_effect_by_either_way(stack: Stack) -> None:
    born(stack, "pat", a=0)
    wait_for(lambda: is_known(stack, "pat"), 60, "rows that are known")
    told = []
    for more, number in (("", 1), ("Upgrade: none\r\n", 2)):
        wait_for(lambda: is_known(stack, "pat"), 60, "rows that are known")
        connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
        body = b'{"properties": {"a": %d, "b%d": null}}' % (number, number)
        headers = key(stack) | {"Content-Type": "application/json", "Prefer": "respond-async"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"PATCH {path(stack, 'pat')} HTTP/1.1\r\nHost: x\r\n{head}{more}Content-Length: {len(body)}\r\n\r\n"
        connection.connect()
        connection.sock.sendall(request.encode() + body)  # in one piece, which http.client does not do
        answer = http.client.HTTPResponse(connection.sock, method="PATCH")
        answer.begin()
        told.append((answer.status, {name.lower() for name, _ in answer.getheaders()}, answer.read()))
        position = answer.getheader("Position")
        assert position is not None
        read = stack.persons(f"/{stack.uuid('pat')}/", Min_Position=position)
        assert read.json["properties"] == {"a": number} | {f"b{one}": None for one in range(1, number + 1)}
        connection.close()
    assert told[0] == told[1]
    assert told[0][0] == 202
    where = f"source = 'update' AND fragment = toUUID('{stack.uuid('pat')}')"
    assert stack.query(f"SELECT count(), uniqExact(actor), min(actor) != '' FROM timeline WHERE {where}") == "2\t1\t1"


@pytest.mark.parametrize(
    "body", [b"[]", b'{"properties": 1}', b'{"x": 1}', b'{"properties": {"a": 99999999999999999999}}', b"{", b""]
)
def test_a_patch_that_is_wrong_is_told_so_for_a_known_person_too(stack: Stack, body: bytes) -> None:
    born(stack, "wrong", a=0)
    wait_for(lambda: is_known(stack, "wrong"), 60, "rows that are known")
    answers = []
    for more in ("", "?format=json"):
        connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
        headers = key(stack) | {"Content-Type": "application/json", "Prefer": "respond-async"}
        connection.request("PATCH", path(stack, "wrong") + more, body=body, headers=headers)
        answer = connection.getresponse()
        answers.append((answer.status, answer.read()))
        connection.close()
    assert answers[0] == answers[1]
    assert answers[0][0] == 400


def test_who_may_not_read_is_told_so_for_a_known_person_too(stack: Stack) -> None:
    born(stack, "bob")
    wait_for(lambda: is_known(stack, "bob"), 60, "rows that are known")
    assert get(stack, path(stack, "bob"), Authorization="Bearer phx_wrong")[0] == 401
    assert get(stack, path(stack, "bob").replace(f"/{stack.project}/", "/777777/"))[0] == 404
    assert get(stack, path(stack, "bob"), Min_Position="c.0.999999999")[0] == 503


def test_a_merge_a_split_and_a_deletion_are_seen_at_once(stack: Stack) -> None:
    born(stack, "cyd", a=1)
    born(stack, "device", b=2)
    for one in ("cyd", "device"):
        wait_for(lambda one=one: is_known(stack, one), 60, "rows that are known")
    sent = stack.capture(event="$identify", distinct_id="cyd", properties={"$anon_distinct_id": "device"})
    assert stack.persons("/?limit=1", Min_Position=sent.headers["Position"]).status == 200
    for one in ("cyd", "device"):
        assert orjson.loads(get(stack, path(stack, one))[2])["distinct_ids"] == ["cyd", "device"]
    assert stack.persons(f"/{stack.uuid('cyd')}/split/", "POST", {}).status in (200, 201)
    wait_for(lambda: orjson.loads(get(stack, path(stack, "device"))[2])["distinct_ids"] == ["device"], 60, "the split")
    wait_for(lambda: is_known(stack, "cyd"), 60, "rows that are known")
    assert stack.persons(f"/{stack.uuid('cyd')}/", "DELETE").status in (202, 204)
    assert get(stack, path(stack, "cyd"))[0] == 404


@pytest.mark.parametrize("killed", ["", "projector", "engine", "api"])
def test_no_reader_sees_less_than_anybody_saw_before(own_stack: Stack, killed: str) -> None:
    """Readers poll one person while it is written; each answer holds at least what was seen before it was asked for."""
    stack, name = own_stack, f"counted-{killed}"
    born(stack, name, n=0)
    seen, wrong, counted = [0], list[str](), [0]
    ended = threading.Event()

    def read() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
        while not ended.is_set():
            floor = seen[0]
            try:
                connection.request("GET", path(stack, name), headers=key(stack))
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):  # killed: a new connection
                connection.close()
                continue
            if answer.status != 200:
                continue
            number = orjson.loads(body)["properties"]["n"]
            counted[0] += 1
            if number < floor:
                wrong.append(f"{number} after {floor}")
            seen[0] = max(seen[0], number)

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            try:
                answer = stack.persons(f"/{stack.uuid(name)}/", "PATCH", {"properties": {"n": number}})
            except (OSError, http.client.HTTPException):
                continue
            if answer.status == 200:
                seen[0] = max(seen[0], answer.json["properties"]["n"])

    def went_on() -> None:
        """Both have: a newer value was seen, and read again and again."""
        number, count = seen[0], counted[0]
        wait_for(lambda: seen[0] > number + 1 and counted[0] > count + READS, SECONDS_MAX, "readers and the writer")

    threads = [threading.Thread(target=read) for _ in range(READERS)] + [threading.Thread(target=write)]
    before = known(stack)
    for thread in threads:
        thread.start()
    try:
        went_on()
        if killed:
            stack.wait_restarted(killed, stack.kill(killed))
        went_on()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    if killed != "api":  # its counter begins anew
        assert known(stack) > before, "nothing was answered without the store: nothing was tested"
