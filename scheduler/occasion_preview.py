"""What an occasion would send, before anybody has saved it: to whom, when, by which rules, and in what words.

It asks the calendar that plans and the texts that are sent, for real users or made-up ones, and writes nothing.

Limits: contact rules that only a claim can know (caps, suppressions, unsubscribes) are not looked at; quiet hours are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel, Occasion, YearlyRule
from scheduler.domain.quiet_hours import QuietHours, quiet_until
from scheduler.domain.upcoming import Occurrence, OddDay, Person, odd_days, upcoming
from scheduler.domain.user import UserInput
from scheduler.domain.zones import zone
from scheduler.links import LinkSigner
from scheduler.texts.environment import Reading
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.message_texts import (
    OccasionTexts,
    RenderedText,
    as_attributes,
    as_dates,
    full_name,
)

SAMPLE: Final = UserInput(
    external_id="sample",
    first_name="Ann",
    last_name="Sample",
    email="ann@example.org",
    phone="+442071838750",
    timezone="Europe/London",
    dates={"birthday": date(1990, 6, 15), "anniversary": date(2015, 9, 5)},
)
"""Somebody, where there is nobody."""

_DISTURBING: Final = frozenset({Channel.EMAIL, Channel.SMS, Channel.PUSH})
_A_DATE: Final = date(1990, 6, 15)
_NO_LINK: Final = "https://daybreak.invalid/unsubscribe/preview"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who would get it; no `user_id`: nobody who is stored."""

    user_id: int | None
    values: UserInput


@dataclass(frozen=True, slots=True)
class PreviewedMessage:
    """One occurrence for one user. No `send_at`, or no `text`: the reason is in `not_sent` or `text_error`."""

    occurrence: Occurrence | None
    local_date: date
    odd_day: OddDay | None
    put_off_until: datetime | None
    text: RenderedText | None
    text_error: str | None


@dataclass(frozen=True, slots=True)
class PreviewedUser:
    """What one user would get. Channels they have no address for are left out."""

    recipient: Recipient
    channels: Sequence[Channel]
    lacks_date: bool
    """Whether they have not got the date that a yearly occasion celebrates."""
    messages: Sequence[PreviewedMessage]
    odd: Sequence[PreviewedMessage]


@dataclass(frozen=True, slots=True)
class PreviewPolicy:
    """What the settings say for occasions that say nothing of their own."""

    quiet_hours: QuietHours | None
    links: LinkSigner | None


def preview(
    occasion: Occasion,
    recipients: Sequence[Recipient],
    policy: PreviewPolicy,
    *,
    now: datetime,
    most: int,
    with_odd_days: bool,
) -> list[PreviewedUser]:
    """What each of these would get next, up to `most` occurrences of it, and on odd days."""
    texts = OccasionTexts(occasion, with_html=True)
    return [
        _of_user(occasion, each, texts, policy, now=now, most=most, with_odd_days=with_odd_days)
        for each in recipients
    ]


def sample_for(occasion: Occasion) -> Recipient:
    """Somebody made up, who has the date that the occasion celebrates."""
    rule = occasion.rule
    if not isinstance(rule, YearlyRule):
        return Recipient(None, SAMPLE)
    dates = {rule.date_name: _A_DATE} | SAMPLE.dates
    return Recipient(None, SAMPLE.model_copy(update={"dates": dates}))


def message_id(occasion: Occasion, user_id: int, occurrence: Occurrence, channel: Channel) -> str:
    """The identity that the message of an occurrence has, or will have."""
    return MessageKey(occasion.id, user_id, occurrence.local_date, occurrence.slot, channel).text


def person_of(user: UserInput) -> Person:
    """What the calendar asks of a user."""
    return Person(user.timezone, user.preferred_time, user.dates)


def reachable(user: UserInput, channels: Sequence[Channel]) -> list[Channel]:
    """The channels among these that a user has an address for; everyone has an inbox."""
    addresses = addresses_of(user)
    return [channel for channel in channels if channel is Channel.IN_APP or channel in addresses]


def addresses_of(user: UserInput) -> dict[Channel, str]:
    """The addresses that a user has."""
    addresses = {
        Channel.EMAIL: user.email,
        Channel.SMS: user.phone,
        Channel.PUSH: user.push_token,
        Channel.WEBHOOK: user.webhook_url,
    }
    return {channel: address for channel, address in addresses.items() if address is not None}


def _of_user(
    occasion: Occasion,
    recipient: Recipient,
    texts: OccasionTexts,
    policy: PreviewPolicy,
    *,
    now: datetime,
    most: int,
    with_odd_days: bool,
) -> PreviewedUser:
    person = person_of(recipient.values)
    rule = occasion.rule

    def message(
        occurrence: Occurrence | None, local_date: date, odd_day: OddDay | None = None
    ) -> PreviewedMessage:
        text, mistake = _text(occasion, recipient, texts, policy, local_date, is_odd=odd_day is not None)
        is_sent = occurrence is not None and occurrence.send_at is not None
        return PreviewedMessage(
            occurrence,
            local_date,
            odd_day,
            _put_off(occasion, recipient.values, policy, occurrence),
            text if is_sent else None,
            mistake if is_sent else None,
        )

    odd = odd_days(occasion, person, now) if with_odd_days else []
    return PreviewedUser(
        recipient,
        reachable(recipient.values, occasion.channels),
        isinstance(rule, YearlyRule) and rule.date_name not in recipient.values.dates,
        [message(each, each.local_date) for each in upcoming(occasion, person, now, most)],
        [message(each.occurrence, each.local_date, each.day) for each in odd],
    )


def _put_off(
    occasion: Occasion, user: UserInput, policy: PreviewPolicy, occurrence: Occurrence | None
) -> datetime | None:
    """When quiet hours would let it through on channels that disturb; None: at once."""
    quiet = occasion.quiet_hours or policy.quiet_hours
    if quiet is None or occurrence is None or occurrence.send_at is None:
        return None
    if _DISTURBING.isdisjoint(occasion.channels):
        return None
    return quiet_until(quiet, occurrence.send_at, zone(user.timezone))


def _text(
    occasion: Occasion,
    recipient: Recipient,
    texts: OccasionTexts,
    policy: PreviewPolicy,
    local_date: date,
    *,
    is_odd: bool,
) -> tuple[RenderedText | None, str | None]:
    user = recipient.values
    dates: Mapping[str, date] = user.dates
    rule = occasion.rule
    if is_odd and isinstance(rule, YearlyRule) and rule.date_name not in dates:
        dates = {**dates, rule.date_name: local_date - timedelta(days=rule.offset_days)}
    reading = Reading(user.locale, local_date, occasion.leap_day)
    try:
        values = _values(occasion, recipient, dates, policy, local_date)
        return texts.of(user.locale).render(values, reading), None
    except RenderingFailed as error:
        return None, str(error)


def _values(
    occasion: Occasion,
    recipient: Recipient,
    dates: Mapping[str, date],
    policy: PreviewPolicy,
    local_date: date,
) -> dict[str, Any]:
    """What the texts may name, as a worker would have it."""
    user = recipient.values
    link = _NO_LINK
    if policy.links is not None and recipient.user_id is not None:
        link = policy.links.unsubscribe_url(
            occasion.tenant_id, recipient.user_id, occasion.channels[0], occasion.id
        )
    return {
        "first_name": user.first_name,
        "last_name": user.last_name,
        "full_name": full_name(user.first_name, user.last_name),
        "external_id": user.external_id,
        "locale": user.locale,
        "timezone": user.timezone,
        "occasion": occasion.key,
        "occasion_name": occasion.name,
        "local_date": local_date,
        "unsubscribe_url": link,
        "dates": as_dates(dates),
        "attributes": as_attributes(user.attributes),
    }
