"""The errors Daybreak raises for its callers, in one tree.

Every error carries what the caller needs to answer it; its text is fit to be shown and holds no personal data
and no secret. Mistakes of the programmer stay `ValueError`, `TypeError` or `AssertionError`.
"""

from collections.abc import Iterable

from scheduler.domain.field_error import FieldError


class DaybreakError(Exception):
    """The root of the tree; raised only through its leaves.

    ```
    DaybreakError
    ├── ConfigurationError        a setting is wrong: nothing may start
    ├── InvalidInput              what was handed in breaks a rule; lists every breach
    ├── NotFound                  no such thing, or another tenant's
    ├── Conflict                  it clashes with what is there already
    │   └── PersonErased          whoever has this external id was erased, and must not come back by themselves
    ├── VersionConflict           it has changed since the caller read it
    ├── LeaseLost                 the batch is someone else's by now: write nothing
    └── Unavailable               another server does not answer: worth trying again
        ├── DatabaseUnavailable
        └── BrokerUnavailable
    ```
    """


class ConfigurationError(DaybreakError):
    """One line that names the setting, what it got (never a secret) and what it takes."""


class InvalidInput(DaybreakError):
    """Input that breaks rules. `errors` holds all breaches found, at least one, in the order of the input."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = list(errors)
        if not self.errors:
            raise ValueError("InvalidInput needs at least one FieldError")
        super().__init__(self.errors)

    def __str__(self) -> str:
        """All breaches on one line."""
        return "; ".join(map(str, self.errors))


class NotFound(DaybreakError):
    """No `kind` has this `identity`, or it belongs to another tenant: a caller must not be able to tell."""

    def __init__(self, kind: str, identity: object) -> None:
        self.kind = kind
        self.identity = str(identity)
        super().__init__(kind, self.identity)

    def __str__(self) -> str:
        """What was looked for."""
        return f"no {self.kind} {self.identity!r}"


class Conflict(DaybreakError):
    """The change clashes with what is stored; its text says with what."""


class PersonErased(Conflict):
    """The external id belongs to somebody who was erased; it is not repeated. Nothing was written."""

    def __init__(
        self, words: str = "this external_id is of somebody who was erased; it must be allowed first"
    ) -> None:
        super().__init__(words)


class VersionConflict(DaybreakError):
    """The thing is no longer of the version that the caller expects to change; nothing was written."""

    def __init__(self, expected_version: int, current_version: int) -> None:
        self.expected_version = expected_version
        self.current_version = current_version
        super().__init__(expected_version, current_version)

    def __str__(self) -> str:
        """Which versions."""
        return f"it is of version {self.current_version} by now, not {self.expected_version}"


class LeaseLost(DaybreakError):
    """The lease on batch `batch_id` has lapsed or was given to another worker; nothing was written."""

    def __init__(self, batch_id: int) -> None:
        self.batch_id = batch_id
        super().__init__(batch_id)

    def __str__(self) -> str:
        """Which batch."""
        return f"the lease on batch {self.batch_id} is lost"


class Unavailable(DaybreakError):
    """A server this process depends on does not answer; what was asked of it may have happened."""


class DatabaseUnavailable(Unavailable):
    """PostgreSQL refused, dropped or timed out the connection. A COMMIT under way may have taken effect."""


class BrokerUnavailable(Unavailable):
    """The broker refused, dropped or timed out the connection. A publish under way may have been enqueued."""
