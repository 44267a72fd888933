"""Who must not be written to now: suppressed addresses, unsubscribed users, and groups that are used up.

Asked once a batch, for all of its users, at the claim: what was entered a moment ago already counts. Each look-up
goes by a key, so that the size of the lists does not matter.

Limits: an occurrence counts towards a cap for as long as its local date is not further back than the period, the
longest lateness limit of the group and `_DATE_MARGIN` together; what is replayed later than that goes uncounted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.address import normal_address
from scheduler.domain.message import MessageState, NotSentReason
from scheduler.domain.occasion import Occasion
from scheduler.store.arrays import Bigints
from scheduler.store.batches import LeasedBatch
from scheduler.store.direct import Answer, Call, Direct, answers

_EVERY_OCCASION: Final = 0
# Retries, nights and the width of the world come on top of the lateness limit.
_DATE_MARGIN: Final = timedelta(days=4)
_AHEAD: Final = timedelta(days=2)

# Most tenants have few suppressions, many have none: then the addresses need not be sent.
_HAS_SUPPRESSED: Final = Direct("""
SELECT true FROM suppressions WHERE tenant_id = :tenant_id AND channel = CAST(:channel AS channel)
ORDER BY tenant_id, channel, address LIMIT 1""")

# One long text costs the driver a quarter of what 500 short ones do; no address has a line break in it.
_SUPPRESSED: Final = text("""
SELECT address FROM suppressions
WHERE tenant_id = :tenant_id AND channel = CAST(:channel AS channel)
  AND address = ANY(string_to_array(CAST(:addresses AS text), chr(10)))""")

_UNSUBSCRIBED: Final = Direct("""
SELECT user_id FROM unsubscribes
WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND channel = CAST(:channel AS channel)
  AND occasion_id = ANY(CAST(:occasion_ids AS integer[]))""")

_LIMIT: Final = text("""
SELECT g.most_occurrences, g.period, array_agg(o.id) AS occasion_ids, max(o.lateness_limit) AS lateness_limit
FROM occasion_groups g JOIN occasions o ON o.tenant_id = g.tenant_id AND o.group_key = g.key
WHERE g.tenant_id = :tenant_id AND g.key = :key
GROUP BY g.tenant_id, g.key""")

_ON_THEIR_WAY: Final = ", ".join(f"'{state}'" for state in (MessageState.SENDING, MessageState.RETRYING))
_ACCEPTED: Final = ", ".join(
    f"'{state}'" for state in (MessageState.SENT, MessageState.DELIVERED, MessageState.BOUNCED)
)
_CAPPED: Final = text(f"""
SELECT user_id FROM (
    SELECT DISTINCT user_id, local_date, occasion_id, slot FROM message_log
    WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND local_date BETWEEN :date_first AND :date_last
      AND occasion_id = ANY(CAST(:occasion_ids AS integer[]))
      AND (state IN ({_ON_THEIR_WAY}) OR state IN ({_ACCEPTED}) AND accepted_at > :since)
      AND (occasion_id, local_date, slot) <> (:occasion_id, :local_date, :slot)
) AS occurrences
GROUP BY user_id HAVING count(*) >= :most_occurrences""")


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """How many occurrences of these occasions a user may get within `period`."""

    most_occurrences: int
    period: timedelta
    occasion_ids: tuple[int, ...]
    lateness_limit: timedelta
    """The longest of these occasions."""


def barred(
    connection: Connection, batch: LeasedBatch, addresses: Mapping[int, str]
) -> dict[int, NotSentReason]:
    """The users among these (with the addresses they would be written to at) who must not be, and why not."""
    return barred_by(connection, batch, lambda: addresses, answers(connection, looking(batch, addresses)))


def looking(batch: LeasedBatch, user_ids: Iterable[int]) -> list[Call]:
    """What tells which of these users may be barred, to be sent in company."""
    of_channel = {"tenant_id": batch.tenant_id, "channel": batch.channel.value}
    of_users = {
        "user_ids": Bigints(user_ids),
        "channel": batch.channel.value,
        "occasion_ids": [_EVERY_OCCASION, batch.occasion_id],
    }
    return [Call(_UNSUBSCRIBED, of_users), Call(_HAS_SUPPRESSED, of_channel)]


def barred_by(
    connection: Connection,
    batch: LeasedBatch,
    addresses: Callable[[], Mapping[int, str]],
    found: Sequence[Answer],
) -> dict[int, NotSentReason]:
    """As `barred`, by what `looking` has found for these users, and perhaps for others; `addresses` may not be asked
    for.
    """
    unsubscribed, any_suppressed = found
    barred_users: dict[int, NotSentReason] = dict.fromkeys(
        [user_id for (user_id,) in unsubscribed.rows], NotSentReason.UNSUBSCRIBED
    )
    if any_suppressed.rows:
        suppressed = _suppressed(connection, batch, addresses())
        barred_users |= dict.fromkeys(suppressed, NotSentReason.SUPPRESSED)
    return barred_users


def _suppressed(connection: Connection, batch: LeasedBatch, addresses: Mapping[int, str]) -> list[int]:
    normal = {user_id: normal_address(batch.channel, address) for user_id, address in addresses.items()}
    parameters = {
        "tenant_id": batch.tenant_id,
        "channel": batch.channel.value,
        "addresses": "\n".join(normal.values()),
    }
    suppressed = set(connection.execute(_SUPPRESSED, parameters).scalars())
    return [user_id for user_id, address in normal.items() if address in suppressed] if suppressed else []


def group_limit(
    connection: Connection, occasion: Occasion, *, lateness_limit: timedelta
) -> GroupLimit | None:
    """The limit of the group that `occasion` is in; None: it is in none. `lateness_limit` is the settings'."""
    if occasion.group is None:
        return None
    parameters = {"tenant_id": occasion.tenant_id, "key": occasion.group}
    row = connection.execute(_LIMIT, parameters).one_or_none()
    if row is None:
        return None
    longest = max(lateness_limit, row.lateness_limit or lateness_limit)
    return GroupLimit(row.most_occurrences, row.period, tuple(row.occasion_ids), longest)


def capped(
    connection: Connection, batch: LeasedBatch, user_ids: Sequence[int], limit: GroupLimit, *, now: datetime
) -> list[int]:
    """The users among these who have had as many occurrences of the group, besides this one, as it allows.

    Strict only while their rows are locked (`users.lock`): two claims of one group then take turns.
    """
    since = now - limit.period
    parameters = {
        "user_ids": Bigints(user_ids),
        "occasion_ids": list(limit.occasion_ids),
        "date_first": (since - limit.lateness_limit - _DATE_MARGIN).date(),
        "date_last": (now + _AHEAD).date(),
        "since": since,
        "occasion_id": batch.occasion_id,
        "local_date": batch.local_date,
        "slot": batch.slot,
        "most_occurrences": limit.most_occurrences,
    }
    return list(connection.execute(_CAPPED, parameters).scalars())
