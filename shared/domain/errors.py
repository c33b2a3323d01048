"""The tree of errors; its branches say what the caller should do. Never knows HTTP.

PersonlogError
├── Rejected            tell the client; sending the same again fails again
│   ├── BadInput            a field, body or parameter is wrong
│   ├── NotFound            no such person, project or request
│   └── PreconditionFailed  the person changed since the client read it
├── NotYet              wait: the projection has not reached a position
├── Transient           retry, a bounded number of times
│   ├── LogUnavailable      an append's outcome may be unknown
│   │   └── LogClosed           the generation takes nothing more; look for the next one
│   └── StoreUnavailable    ClickHouse did not answer
└── Corrupt             stop: going on would cost data
    ├── BadRecord           a record that cannot be decoded or folded
    ├── NewerVersion        written by a later version: whoever is upgraded goes on here
    ├── Fenced              somebody else owns the partition now
    ├── Superseded          the log was renewed; start again on its next generation
    └── LogMismatch         log and tables do not belong together
"""


class PersonlogError(Exception):
    """Something went wrong in personlog."""

    slug = "error"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (type(self).__doc__ or "").partition("\n")[0])

    @property
    def detail(self) -> str:
        return str(self.args[0])


class Rejected(PersonlogError):
    """The request was refused."""

    slug = "invalid_input"


class BadInput(Rejected):
    """The input is not valid."""

    def __init__(
        self, detail: str = "", *, attr: str | None = None, slug: str | None = None
    ) -> None:
        super().__init__(detail)
        self.attr = attr
        if slug is not None:
            self.slug = slug


class NotFound(Rejected):
    """Not found."""

    slug = "not_found"


class PreconditionFailed(Rejected):
    """The person has changed since it was read."""

    slug = "precondition_failed"


class NotYet(PersonlogError):
    """The projection has not reached the asked position yet."""

    slug = "projection_lag"


class Transient(PersonlogError):
    """A part that is needed did not answer; try again."""

    slug = "unavailable"


class LogUnavailable(Transient):
    """The log did not acknowledge in time; the outcome is unknown."""


class LogClosed(LogUnavailable):
    """The log is being renewed: this generation of it takes nothing more."""


class StoreUnavailable(Transient):
    """The store did not answer."""


class Corrupt(PersonlogError):
    """A rule that protects data was about to be broken."""

    slug = "corrupt"


class BadRecord(Corrupt):
    """A record of the log cannot be read."""


class NewerVersion(Corrupt):
    """A newer version wrote this; upgrade the projectors first."""


class Fenced(Corrupt):
    """Another worker owns this partition now."""


class Superseded(Corrupt):
    """The log was renewed: this process goes on when it starts again."""


class LogMismatch(Corrupt):
    """The log is not the one that the tables belong to."""
