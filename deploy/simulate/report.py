"""What a simulation shows for itself: a line for each accepted message, then a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

import orjson
from sqlalchemy import Engine

from deploy.simulate.ledger import Acceptance
from scheduler.domain.message import MessageKey, MessageState
from scheduler.store import outcomes

_LOOKED_UP_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class SentMessage:
    """An acceptance and what the log says of its message: one line of the output."""

    id: str
    user: str
    occasion: str
    channel: str
    local_date: str
    timezone: str
    send_at: datetime
    accepted_at: datetime
    attempt: int

    @property
    def lateness(self) -> timedelta:
        """How long after it was due the message was accepted."""
        return self.accepted_at - self.send_at

    def as_line(self) -> bytes:
        """One line of NDJSON, instants in UTC."""
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the messages due in the window; all but people, rejected and took_seconds count messages.

    `duplicates` are acceptances of messages that had been accepted before, whoever's fault. `unfinished` are
    neither sent nor not sent with a reason; there are none.
    """

    people: int
    rejected: int
    planned: int
    sent: int
    expired: int
    dead: int
    cancelled: int
    unfinished: int
    duplicates: int
    worst_lateness_seconds: float
    took_seconds: float

    def as_text(self) -> str:
        """The summary for people, one fact a line."""
        facts = {
            "people": f"{self.people:,}" + (f" ({self.rejected:,} rejected)" if self.rejected else ""),
            "planned": f"{self.planned:,}",
            "sent": f"{self.sent:,}",
            "expired": f"{self.expired:,}",
            "dead": f"{self.dead:,}",
            "cancelled": f"{self.cancelled:,}",
            "unfinished": f"{self.unfinished:,}",
            "duplicates": f"{self.duplicates:,}",
            "worst lateness": str(timedelta(seconds=self.worst_lateness_seconds)),
            "took": f"{self.took_seconds:.1f} s",
        }
        return "\n".join(f"{name:<15} {fact}" for name, fact in facts.items())


def sent_messages(
    engine: Engine, acceptances: Iterable[Acceptance], starts: datetime, ends: datetime
) -> Iterator[SentMessage]:
    """The acceptances of messages due in [starts, ends), in their order.

    Raises LookupError for one that is not in the log: no message is sent without being in it.
    """
    remaining = iter(acceptances)
    while chunk := list(islice(remaining, _LOOKED_UP_AT_ONCE)):
        for message in _joined(engine, chunk):
            if starts <= message.send_at < ends:
                yield message


def _joined(engine: Engine, acceptances: Sequence[Acceptance]) -> Iterator[SentMessage]:
    keys = [MessageKey.parse(acceptance.id) for acceptance in acceptances]
    with engine.connect() as connection:
        logged = outcomes.find(connection, keys)
    for acceptance, key in zip(acceptances, keys, strict=True):
        found = logged.get(acceptance.id)
        if found is None:
            raise LookupError(f"message {acceptance.id} was sent and is not in the log")
        yield SentMessage(
            id=acceptance.id,
            user=acceptance.external_id,
            occasion=acceptance.occasion,
            channel=key.channel.value,
            local_date=key.local_date.isoformat(),
            timezone=found.timezone,
            send_at=found.send_at,
            accepted_at=acceptance.at,
            attempt=found.attempt,
        )


class Tally:
    """Counts sent messages as they pass: duplicates and the worst lateness."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.worst_lateness = timedelta()

    def count(self, message: SentMessage) -> None:
        """Take a message into account."""
        self.accepted[message.id] += 1
        self.worst_lateness = max(self.worst_lateness, message.lateness)

    @property
    def duplicates(self) -> int:
        """Acceptances of messages that had been accepted before."""
        return self.accepted.total() - len(self.accepted)


def summarize(
    states: Counter[MessageState], tally: Tally, *, people: int, rejected: int, took_seconds: float
) -> Summary:
    """The summary of a window, from the log's states in it and the messages sent."""
    ended = {
        "sent": states[MessageState.SENT] + states[MessageState.DELIVERED] + states[MessageState.BOUNCED],
        "expired": states[MessageState.EXPIRED],
        "dead": states[MessageState.DEAD],
        "cancelled": states[MessageState.CANCELLED],
    }
    return Summary(
        people=people,
        rejected=rejected,
        planned=states.total(),
        unfinished=states.total() - sum(ended.values()),
        duplicates=tally.duplicates,
        worst_lateness_seconds=tally.worst_lateness.total_seconds(),
        took_seconds=took_seconds,
        **ended,
    )
