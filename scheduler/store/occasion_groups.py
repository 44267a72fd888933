"""Groups of occasions: how often their members may write to one user, all together.

An occasion names its group by key; the database keeps a group for as long as an occasion names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from psycopg.errors import ForeignKeyViolation
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Occasion
from scheduler.errors import Conflict, InvalidInput

_PUT: Final = text("""
INSERT INTO occasion_groups (tenant_id, key, most_occurrences, period)
VALUES (:tenant_id, :key, :most_occurrences, CAST(:period AS interval))
ON CONFLICT (tenant_id, key) DO UPDATE SET most_occurrences = excluded.most_occurrences, period = excluded.period""")

_REMOVE: Final = text("DELETE FROM occasion_groups WHERE tenant_id = :tenant_id AND key = :key")

_LIST: Final = text("""
SELECT key, most_occurrences, period FROM occasion_groups WHERE tenant_id = :tenant_id ORDER BY key""")

# What names it must not be saved while it is being removed.
_LOCK: Final = text("""
SELECT 1 FROM occasion_groups WHERE tenant_id = :tenant_id AND key = :key FOR KEY SHARE""")


@dataclass(frozen=True, slots=True)
class OccasionGroup:
    """At most `most_occurrences` of the group's occasions reach a user within any `period`.

    Raises ValueError for a limit that allows nothing, or that no `smallint` holds.
    """

    key: str
    most_occurrences: int
    period: timedelta

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("a group has a key")
        if not 0 < self.most_occurrences < 2**15:
            raise ValueError("a group allows at least one occurrence, and at most 32767")
        if self.period <= timedelta():
            raise ValueError("the period of a group is longer than nothing")


def put(connection: Connection, tenant_id: int, group: OccasionGroup) -> None:
    """Add a group, or give the one of that key another limit: it holds from the next claim on."""
    connection.execute(
        _PUT,
        {
            "tenant_id": tenant_id,
            "key": group.key,
            "most_occurrences": group.most_occurrences,
            "period": group.period,
        },
    )


def remove(connection: Connection, tenant_id: int, key: str) -> bool:
    """Remove a group; False where there is none.

    Raises Conflict where an occasion names it; the transaction is then lost.
    """
    try:
        return connection.execute(_REMOVE, {"tenant_id": tenant_id, "key": key}).rowcount == 1
    except IntegrityError as error:
        if isinstance(error.orig, ForeignKeyViolation):
            raise Conflict(f"an occasion names the group {key!r}; take it out of its group first") from None
        raise


def list_all(connection: Connection, tenant_id: int) -> list[OccasionGroup]:
    """A tenant's groups in order of their keys."""
    return [OccasionGroup(*row) for row in connection.execute(_LIST, {"tenant_id": tenant_id})]


def check_group(connection: Connection, occasion: Occasion) -> None:
    """Keep the group that `occasion` names until the transaction ends; raises InvalidInput where there is none."""
    if occasion.group is None:
        return
    parameters = {"tenant_id": occasion.tenant_id, "key": occasion.group}
    if connection.execute(_LOCK, parameters).one_or_none() is None:
        raise InvalidInput([FieldError("/group", "is not the key of a group of occasions")])
