"""Occasions, and what is done with them, as answers show them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel, RootModel, ValidationError

from api.access import FIRST_TENANT
from api.answers import time_of_day
from api.bodies import JSON, read_body
from api.services import services
from scheduler.domain.duration import format_duration
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Channel, Occasion
from scheduler.domain.occasion_errors import occasion_errors
from scheduler.domain.occasion_input import OccasionInput, occasion_of, rule_as_json
from scheduler.domain.upcoming import Occurrence
from scheduler.domain.zones import zone
from scheduler.errors import InvalidInput
from scheduler.occasion_preview import PreviewedMessage, PreviewedUser
from scheduler.store.backlogs import Backlog
from scheduler.texts.checking import check_texts

Model = TypeVar("Model", bound=BaseModel)

_ANY_OCCASION: Final = {
    "key": "any",
    "name": "Any",
    "rule": {"kind": "yearly", "date_name": "birthday"},
    "subject": "-",
    "body": "-",
}


class _Object(RootModel[dict[str, Any]]):
    """Any object: what it holds is checked by a model of its own."""


def read_occasion_body(model: type[Model], media_types: Collection[str] = (JSON,)) -> Model:
    """The body of the present request, which is, or holds, an occasion. Raises as `read_body` does."""
    given = read_body(_Object, media_types).root
    try:
        return model.model_validate(given)
    except ValidationError as error:
        texts = _text_errors(given, error) if model is OccasionInput else []
        raise InvalidInput([*occasion_errors(error), *texts]) from None


def _text_errors(given: dict[str, Any], error: ValidationError) -> list[FieldError]:
    """What is wrong with the texts of an occasion that is refused anyway, so that all is said at once."""
    wrong = {str(detail["loc"][0]) for detail in error.errors(include_url=False) if detail["loc"]}
    right = {name: value for name, value in given.items() if name not in wrong}
    try:
        return check_texts(occasion_of(OccasionInput.model_validate(_ANY_OCCASION | right), FIRST_TENANT))
    except ValidationError:
        return []


def occasion_as_json(occasion: Occasion) -> dict[str, Any]:
    """An occasion."""
    lateness_limit, retry = occasion.lateness_limit, occasion.retry
    return {
        "id": occasion.id,
        "key": occasion.key,
        "name": occasion.name,
        "rule": rule_as_json(occasion.rule),
        "local_times": [time_of_day(each) for each in occasion.local_times],
        "honours_preferred_time": occasion.honours_preferred_time,
        "channels": occasion.channels,
        "priority": occasion.priority,
        "subject": occasion.subject,
        "body": occasion.body,
        "html": occasion.html,
        "translations": {tag: asdict(said) for tag, said in occasion.translations.items()},
        "group": occasion.group,
        "quiet_hours": None if occasion.quiet_hours is None else str(occasion.quiet_hours),
        "gap": occasion.gap,
        "overlap": occasion.overlap,
        "leap_day": occasion.leap_day,
        "same_day": occasion.same_day,
        "lateness_limit": None if lateness_limit is None else format_duration(lateness_limit),
        "retry": None if retry is None else asdict(retry),
        "active": occasion.active,
        "paused_at": occasion.paused_at,
        "archived_at": occasion.archived_at,
        "version": occasion.version,
        "planned_through": occasion.planned_through,
        "is_replanned": occasion.replan_from is None,
    }


def backlog_as_json(backlog: Backlog) -> dict[str, Any]:
    """What fell due in a pause."""
    return {
        "due": backlog.due,
        "within_limit": backlog.within_limit,
        "too_late": backlog.too_late,
        "oldest_at": backlog.oldest_at,
    }


def warnings_for(channels: Sequence[Channel]) -> list[str]:
    """What the settings have nothing for; not wrong, for a provider may come later."""
    routes = services().settings.provider_plan.routes
    return [
        f"no provider sends on channel {channel}: its messages wait until there is one"
        for channel in channels
        if channel not in routes
    ]


def local_instant(instant: datetime, timezone: str) -> str:
    """An instant by the clock of a zone, with its offset from UTC."""
    return instant.astimezone(zone(timezone)).isoformat()


def previewed_as_json(previewed: PreviewedUser) -> dict[str, Any]:
    """What one user would get."""
    user = previewed.recipient.values
    return {
        "user_id": previewed.recipient.user_id,
        "external_id": user.external_id,
        "timezone": user.timezone,
        "locale": user.locale,
        "channels": previewed.channels,
        "lacks_date": previewed.lacks_date,
        "next": [_message_as_json(each, user.timezone) for each in previewed.messages],
        "odd_days": [
            {"day": each.odd_day, **_message_as_json(each, user.timezone)} for each in previewed.odd
        ],
    }


def _message_as_json(message: PreviewedMessage, timezone: str) -> dict[str, Any]:
    occurrence: Occurrence | None = message.occurrence
    send_at = None if occurrence is None else occurrence.send_at
    return {
        "local_date": message.local_date,
        "local_time": None if occurrence is None else time_of_day(occurrence.local_time),
        "slot": None if occurrence is None else occurrence.slot,
        "date_rule": None if occurrence is None else occurrence.date_rule,
        "time_rule": None if occurrence is None else occurrence.time_rule,
        "send_at": send_at,
        "local": None if send_at is None else local_instant(send_at, timezone),
        "put_off_until": message.put_off_until,
        "text": None if message.text is None else message.text._asdict(),
        "text_error": message.text_error,
    }
