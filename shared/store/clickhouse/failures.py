"""What the store's failures mean for a caller, and what of their texts may be said. Never lets a
value through.

ClickHouse quotes rows, parameters and whole expressions in its exceptions, and a torn answer is
rows. So of a failure only the code and its name are said. Its first sentence, where that speaks of
the schema, of settings or the server, is for the operator at a terminal (`explained`), and is never
logged nor sent.
"""

from __future__ import annotations

import re

from clickhouse_connect.driver.exceptions import (
    ClickHouseError,
    DatabaseError,
    OperationalError,
    ProgrammingError,
    StreamFailureError,
)

from shared.domain.errors import Corrupt, PersonlogError, StoreUnavailable

TRANSIENT_CODES = frozenset(
    {
        159,
        160,
        209,
        210,
        394,  # TIMEOUT_EXCEEDED, TOO_SLOW, SOCKET_TIMEOUT, NETWORK_ERROR, QUERY_WAS_CANCELLED
        202,
        203,
        745,
        749,
        # TOO_MANY_SIMULTANEOUS_QUERIES, NO_FREE_CONNECTION, SERVER_OVERLOADED, connection limits
        762,
        241,
        439,
        473,  # MEMORY_LIMIT_EXCEEDED, CANNOT_SCHEDULE_TASK, DEADLOCK_AVOIDED
        75,
        243,
        252,
        425,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR, NOT_ENOUGH_SPACE, TOO_MANY_PARTS, SYSTEM_ERROR
        236,
        341,  # ABORTED, UNFINISHED: a server that stops, a mutation
        469,  # VIOLATED_CONSTRAINT: a table that a rebuild holds
        242,
        285,
        319,
        # TABLE_IS_READ_ONLY, TOO_FEW_LIVE_REPLICAS, UNKNOWN_STATUS_OF_INSERT, KEEPER_EXCEPTION
        999,
        254,
        265,
        # NO_ACTIVE_REPLICAS, NO_AVAILABLE_REPLICA, ALL_CONNECTION_TRIES_FAILED: who holds the rows
        # is away
        279,
        286,
        # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE, REPLICA_IS_NOT_IN_QUORUM: until another replica has
        # caught up
        289,
        305,  # TABLE_WAS_NOT_DROPPED: the session with the Keeper ended meanwhile
        1001,  # STD_EXCEPTION
    }
)
"""It may work later. Not 1000 (POCO_EXCEPTION): that is how a server refuses a form, and it would
refuse it again."""

SAID_CODES = frozenset(
    {
        16,
        46,
        47,
        57,
        60,
        62,
        81,
        115,
        452,  # about tables, columns, functions, settings and our own SQL
        159,
        160,
        202,
        203,
        209,
        241,
        243,
        252,
        285,
        469,
        745,
        749,
        762,  # about limits and the server
        164,
        194,
        497,
        516,  # about rights
    }
)
"""Codes whose first sentence never quotes a value."""

SENTENCE_CHARS_MAX = 300
"""Of what is said: a sentence of ClickHouse's has up to two hundred."""

TAIL_BYTES_MAX = 65_536
"""Of an answer, in which an exception block is looked for: a server cuts its own messages at 16
KiB."""

_SENTENCE = re.compile(
    r"DB::Exception: (.*?)(?:\. |\n|:? [Ii]n scope |: [Ww]hile "
    r"| \([A-Z][A-Z0-9_]{3,}\)(?= \(version |\Z)|\Z)",
    re.DOTALL,
)
_CODE = re.compile(r"\bCode: (\d+)")
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]{3,})\)(?= \(version | \(for url |\s*\Z)")
_STATUS = re.compile(r"HTTP driver received HTTP status \d+")
_BLOCK = re.compile(
    rb"\r\n__exception__\r\n([a-z]{16})\r\n(.*)\n\d+ \1\r\n__exception__\r\n\Z",
    re.DOTALL,
)


class StoreError(Corrupt):
    """The store refused a statement; asking again would fail again."""

    sentence = ""

    def __init__(self, detail: str = "", code: int | None = None) -> None:
        super().__init__(detail)
        self.code = code


class StoreAway(StoreUnavailable):
    """The store did not answer."""

    sentence = ""


def explained(error: PersonlogError) -> str:
    """What went wrong, for the operator who has run the command."""
    sentence = getattr(error, "sentence", "")
    return f"{error.detail}: {sentence}" if sentence else error.detail


def failure(name: str, error: ClickHouseError) -> PersonlogError:
    """What a statement's caller is to do about this: StoreUnavailable if it may work later, else
    StoreError."""
    code = getattr(error, "code", None)
    if isinstance(error, StreamFailureError):
        code = None  # the client looks for one in the whole answer, and rows may have that text
    if code is not None:
        detail = summary(str(error), code)
    elif status := _STATUS.match(str(error)):
        detail = status[0]
    elif isinstance(error.__cause__, OSError):
        detail = str(error.__cause__).partition("\n")[0][
            :SENTENCE_CHARS_MAX
        ]  # where it could not connect, and why
    elif isinstance(error, ProgrammingError):
        detail = str(error).partition("\n")[0][
            :SENTENCE_CHARS_MAX
        ]  # the client's own, of names and settings
    else:
        detail = f"no whole answer ({type(error.__cause__ or error).__name__})"
    # Without a code nobody who knows ClickHouse has answered, unless the client itself refused
    # (other classes).
    nobody = code is None and type(error) in (
        DatabaseError,
        OperationalError,
        StreamFailureError,
    )
    outcome: StoreAway | StoreError = StoreError(f"{name}: {detail}", code)
    if code in TRANSIENT_CODES or nobody:
        outcome = StoreAway(f"{name}: {detail}")
    if code in SAID_CODES and (sentence := _SENTENCE.search(str(error))) is not None:
        outcome.sentence = sentence[1][:SENTENCE_CHARS_MAX]
    return outcome


def summary(text: str, code: int | None = None) -> str:
    """Code and name of an exception of ClickHouse's."""
    match = _CODE.search(text)
    code = int(match[1]) if code is None and match is not None else code
    if code is None:
        return "an exception without a code" if text else "no exception"
    names = _NAME.findall(text)
    return f"code {code}, {names[-1]}" if names else f"code {code}"


def exception_in(answer: bytes) -> DatabaseError | None:
    """The exception that a server wrote behind rows that it had sent; None if the answer does not
    end with one."""
    block = _BLOCK.search(answer, max(0, len(answer) - TAIL_BYTES_MAX))
    if block is None:
        return None
    text = block[2].decode("utf-8", "replace")
    code = _CODE.search(text[:200])  # it begins with it
    return DatabaseError(text, code=int(code[1]) if code is not None else None)
