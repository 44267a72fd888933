"""Send messages once, to users chosen now: at once, at an instant, or at a local time of each of them.

A request to send is an occasion of kind `ad_hoc` and is written as a whole or not at all: its messages and batches
by one set-based statement for each instant, in one transaction, however many users it is for. What holds for any
message holds for these: contact rules, retries, callbacks, dead letters.

Limits: up to `FURTHEST` ahead; a send for millions is answered when it is written (tens of thousands of messages a
second). A user who is added or begins to match later gets nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.access import Actor
from scheduler.domain.calendar import Moment, ad_hoc_moments
from scheduler.domain.field_error import FieldError
from scheduler.domain.local_time import GapPolicy, OverlapPolicy, TimeRule
from scheduler.domain.message import MessageKey, NotSentReason
from scheduler.domain.occasion import (
    AdHocRule,
    Channel,
    LeapDayPolicy,
    MessageText,
    Occasion,
    Priority,
    SameDayPolicy,
)
from scheduler.domain.quiet_hours import QuietHours
from scheduler.domain.zones import zone
from scheduler.errors import InvalidInput, NotFound
from scheduler.store import ad_hoc, audit, messages, occasion_groups, occasions
from scheduler.store.ad_hoc import Audience, SendFacts, StoredSend
from scheduler.store.database import in_transaction
from scheduler.store.partitions import Partitions
from scheduler.texts.checking import check_texts

FURTHEST: Final = timedelta(days=366)
MOST_USERS_LISTED: Final = 1_000
MOST_IDS_ANSWERED: Final = 100
"""Up to so many messages, a send is answered with their ids."""

_LAST_ZONE: Final = timedelta(hours=12)
"""In no zone is it earlier than so long before UTC."""

_ONE_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Recipients:
    """Who is to get it: users by id or external id, all of whom there must be, or all of an audience."""

    user_ids: Sequence[int] = ()
    external_ids: Sequence[str] = ()
    audience: Audience | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """A request to send. `at` None: now; without a zone: by each user's clock."""

    to: Recipients
    text: MessageText
    channels: tuple[Channel, ...]
    at: datetime | None = None
    name: str = "Ad hoc"
    priority: Priority = Priority.NORMAL
    translations: Mapping[str, MessageText] = field(default_factory=dict)
    expires_at: datetime | None = None
    lateness_limit: timedelta | None = None
    gap: GapPolicy = GapPolicy.FORWARD
    overlap: OverlapPolicy = OverlapPolicy.FIRST
    same_day: SameDayPolicy = SameDayPolicy.SEND
    group: str | None = None
    quiet_hours: QuietHours | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request came to; `keys` None: too many to tell."""

    send: StoredSend
    keys: Sequence[MessageKey] | None


class Sender:
    """Sends ad hoc on one database. Safe to use from several threads."""

    def __init__(self, engine: Engine, clock: Clock, batch_size: int) -> None:
        self._engine = engine
        self._clock = clock
        self._batch_size = batch_size
        self._partitions = Partitions()

    def send(self, actor: Actor, wanted: Send) -> Sent:
        """Write the messages. Raises InvalidInput for what cannot be meant, with pointers into the request."""
        now = self._clock.now()
        if errors := _errors(wanted, now):
            raise InvalidInput(errors)
        occasion = _occasion(actor.tenant_id, wanted, now)
        rule = occasion.rule
        assert isinstance(rule, AdHocRule)
        if errors := check_texts(occasion):
            raise InvalidInput(errors)
        first, last = _local_dates(rule)
        in_transaction(self._engine, lambda connection: self._partitions.ensure(connection, first, last))

        def work(connection: Connection) -> Sent:
            occasion_groups.check_group(connection, occasion)
            audience = _audience(connection, actor.tenant_id, wanted.to)
            stored = occasions.add(connection, occasion, now=now)
            facts = self._write(connection, stored, rule, audience, now)
            ad_hoc.note(connection, stored, facts)
            audit.add(
                connection, actor, "send", "send", str(stored.id), None, _audited(stored, facts), now=now
            )
            keys = (
                ad_hoc.keys(connection, stored.id, most=MOST_IDS_ANSWERED)
                if facts.messages <= MOST_IDS_ANSWERED
                else None
            )
            return Sent(StoredSend(stored, now, facts), keys)

        sent = in_transaction(self._engine, work)
        facts = sent.send.facts
        logger.bind(send_id=sent.send.occasion.id, users=facts.users, messages=facts.messages).info(
            "sent_ad_hoc"
        )
        return sent

    def cancel(self, actor: Actor, send_id: int) -> int:
        """Take back what waits of a send; returns how many messages. Raises NotFound."""

        def work(connection: Connection) -> int:
            found = ad_hoc.find(connection, actor.tenant_id, send_id)
            if found is None:
                raise NotFound("send", send_id)
            facts = found.facts
            if facts.first_date is None or facts.last_date is None:
                return 0
            cancelled = messages.withdraw_send(
                connection,
                send_id,
                date_first=facts.first_date,
                date_last=facts.last_date,
                reason=NotSentReason.CANCELLED_BY_OPERATOR,
            )
            now = self._clock.now()
            audit.add(
                connection, actor, "cancel", "send", str(send_id), None, {"cancelled": cancelled}, now=now
            )
            return cancelled

        cancelled = in_transaction(self._engine, work)
        logger.bind(send_id=send_id, cancelled=cancelled).info("send_cancelled")
        return cancelled

    def _write(
        self,
        connection: Connection,
        occasion: Occasion,
        rule: AdHocRule,
        audience: Audience,
        now: datetime,
    ) -> SendFacts:
        users = ad_hoc.users_by_zone(connection, occasion.tenant_id, audience)
        due = [
            moment
            for each in ad_hoc_moments(occasion, rule, users)
            if (moment := _due(each, occasion.same_day, now)) is not None
        ]
        due.sort(key=lambda moment: moment.send_at)
        added = 0
        for _, at_one_instant in groupby(due, key=lambda moment: moment.send_at):
            planned = ad_hoc.plan(
                connection, occasion, audience, list(at_one_instant), now=now, batch_size=self._batch_size
            )
            added += planned.added
        channels = len(occasion.channels)
        reached = sum(users[moment.timezone] for moment in due)
        total = sum(users.values())
        dates = [moment.local_date for moment in due] if added else []
        return SendFacts(
            users=total,
            messages=added,
            skipped=(total - reached) * channels,
            # Users may have been added or moved between the count and the messages.
            unreachable=max(0, reached * channels - added),
            first_date=min(dates, default=None),
            last_date=max(dates, default=None),
            audience=audience.description,
        )


def _errors(wanted: Send, now: datetime) -> list[FieldError]:
    """What is wrong with the times of a request."""
    errors: list[FieldError] = []
    at = wanted.at
    if at is not None and at.tzinfo is None:
        if at.date() < (now - _LAST_ZONE).date():
            errors.append(FieldError("/at_local", "is over everywhere on earth"))
        elif at.replace(tzinfo=UTC) > now + FURTHEST:
            errors.append(FieldError("/at_local", f"must be at most {FURTHEST.days} days ahead"))
    elif at is not None and at < now:
        errors.append(FieldError("/at", "must not be past; without it, the messages are sent now"))
    elif at is not None and at > now + FURTHEST:
        errors.append(FieldError("/at", f"must be at most {FURTHEST.days} days ahead"))
    if wanted.expires_at is not None and wanted.expires_at <= _earliest(at, now):
        errors.append(FieldError("/expires_at", "must be after the messages fall due"))
    return errors


def _earliest(at: datetime | None, now: datetime) -> datetime:
    """The first instant at which anything may fall due."""
    if at is None or at.tzinfo is None:
        return now
    return at


def _occasion(tenant_id: int, wanted: Send, now: datetime) -> Occasion:
    at = now if wanted.at is None else wanted.at
    return Occasion(
        id=0,
        tenant_id=tenant_id,
        key=f"ad_hoc:{secrets.token_hex(8)}",
        name=wanted.name,
        rule=AdHocRule(at, wanted.expires_at),
        local_times=(at.time() if at.tzinfo is None else time(0),),
        honours_preferred_time=False,
        channels=wanted.channels,
        priority=wanted.priority,
        subject=wanted.text.subject,
        body=wanted.text.body,
        gap=wanted.gap,
        overlap=wanted.overlap,
        leap_day=LeapDayPolicy.FEB28,
        same_day=wanted.same_day,
        lateness_limit=wanted.lateness_limit,
        retry=None,
        # Nothing plans it any further.
        active=False,
        version=1,
        planned_through=None,
        html=wanted.text.html,
        translations=wanted.translations,
        group=wanted.group,
        quiet_hours=wanted.quiet_hours,
    )


def _local_dates(rule: AdHocRule) -> tuple[date, date]:
    """The local dates on which messages may lie."""
    on = rule.at.date()
    return (on, on) if rule.is_local else (on - _ONE_DAY, on + _ONE_DAY)


def _audience(connection: Connection, tenant_id: int, to: Recipients) -> Audience:
    """Whom the request means; raises InvalidInput for users that there are not."""
    if to.audience is not None:
        return to.audience
    known = ad_hoc.known_users(connection, tenant_id, to.user_ids, to.external_ids)
    external = set(known.values())
    errors = [
        FieldError(f"/to/user_ids/{place}", "is not the id of a user")
        for place, user_id in enumerate(to.user_ids)
        if user_id not in known
    ]
    errors += [
        FieldError(f"/to/external_ids/{place}", "is not the external id of a user")
        for place, external_id in enumerate(to.external_ids)
        if external_id not in external
    ]
    if errors:
        raise InvalidInput(errors)
    return Audience(user_ids=sorted(known))


def _due(moment: Moment, same_day: SameDayPolicy, now: datetime) -> Moment | None:
    """A moment as it falls due; at once where its time is past and its date is not; None: it is over there."""
    if moment.send_at >= now:
        return moment
    lasts = now.astimezone(zone(moment.timezone)).date() == moment.local_date
    if same_day is SameDayPolicy.SKIP or not lasts:
        return None
    return moment._replace(send_at=now, time_rule=TimeRule.SAME_DAY)


def _audited(occasion: Occasion, facts: SendFacts) -> dict[str, object]:
    rule = occasion.rule
    assert isinstance(rule, AdHocRule)
    return {
        "name": occasion.name,
        "at": rule.at.isoformat(),
        "channels": [channel.value for channel in occasion.channels],
        "users": facts.users,
        "messages": facts.messages,
        "audience": dict(facts.audience),
    }
