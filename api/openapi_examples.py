"""An example of each body that callers send and of the answers they see most, by the name of its model.

Each is as the API takes or gives it: a test holds them against their schemas, another sends them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]

_PERSON: Final[Json] = {
    "first_name": "Ann",
    "last_name": "Berg",
    "email": "ann.berg@example.org",
    "timezone": "Europe/Stockholm",
    "locale": "sv",
    "preferred_time": "08:30",
    "dates": {"birthday": "1990-03-02"},
    "attributes": {"plan": "gold"},
}
_OCCASION: Final[Json] = {
    "key": "name-day",
    "name": "Name day",
    "rule": {"kind": "yearly", "date_name": "name_day", "offset_days": 0},
    "local_times": ["09:00"],
    "channels": ["email"],
    "subject": "Your name day, {{ first_name }}",
    "body": "All the best today, {{ first_name }}!",
    "lateness_limit": "PT12H",
}
_DEAD: Final[Json] = {"category": "http_503", "channel": "email"}

BODIES: Final[Mapping[str, Json]] = {
    "UserInput": {"external_id": "person-17", **_PERSON},
    "ExternalUserInput": _PERSON,
    "UserPatch": {"timezone": "Europe/Lisbon", "phone": None, "attributes": {"plan": "silver"}},
    "EraseInput": {"reason": "request 2027-14, by letter"},
    "AllowInput": {"external_id": "person-17", "reason": "signed up anew"},
    "OccasionInput": _OCCASION,
    "OccasionPatch": {"local_times": ["10:00"], "quiet_hours": "22:00-08:00", "lateness_limit": None},
    "CloneBody": {"key": "name-day-2027", "name": "Name day, new text"},
    "ResumeBody": {"backlog": "skip"},
    "PreviewBody": {"occasion": _OCCASION, "next": 3, "odd_days": True},
    "GroupBody": {"most_occurrences": 2, "period": "P7D"},
    "SendInput": {
        "to": {"filter": {"timezone": "Europe/Stockholm"}},
        "channels": ["email"],
        "subject": "We move tonight",
        "body": "Dear {{ first_name }}, we are closed from 22:00 to 23:00.",
        "quiet_hours": "22:00-07:00",
        "priority": "critical",
    },
    "ReasonBody": {"reason": "the campaign is over"},
    "ReplayBody": {"filter": _DEAD, "messages_per_second": 10},
    "DiscardBody": {"filter": _DEAD, "reason": "the campaign is over"},
    "HoldInput": {"reason": "maintenance until noon"},
    "SuppressionInput": {"channel": "email", "address": "ann.berg@example.org", "reason": "manual"},
    "KeyInput": {"name": "website", "role": "editor", "expires_at": "2090-01-01T00:00:00Z"},
    "RotationInput": {"overlap_seconds": 3600},
}

FILES: Final[Mapping[str, str]] = {
    "text/csv": "external_id,first_name,timezone,email,birthday\n"
    "person-17,Ann,Europe/Stockholm,ann.berg@example.org,1990-03-02\n",
    "application/x-ndjson": '{"external_id": "person-17", "first_name": "Ann", "timezone": "Europe/Stockholm", '
    '"dates": {"birthday": "1990-03-02"}}\n',
}
"""Bodies that are no JSON, by media type."""

_STORED_USER: Final[Json] = {
    "id": 17,
    "external_id": "person-17",
    "phone": None,
    "push_token": None,
    "webhook_url": None,
    **_PERSON,
    "version": 1,
    "created_at": "2027-01-07T10:00:00Z",
    "updated_at": "2027-01-07T10:00:00Z",
}
_STORED_OCCASION: Final[Json] = {
    "id": 3,
    **_OCCASION,
    "honours_preferred_time": True,
    "priority": "normal",
    "html": None,
    "translations": {},
    "group": None,
    "quiet_hours": None,
    "gap": "forward",
    "overlap": "first",
    "leap_day": "feb28",
    "same_day": "send",
    "retry": None,
    "active": True,
    "paused_at": None,
    "archived_at": None,
    "version": 1,
    "planned_through": "2027-01-09T10:00:00Z",
    "is_replanned": True,
}
_MESSAGE: Final[Json] = {
    "id": "3.17.20270302.0.email",
    "user_id": 17,
    "occasion": "name-day",
    "local_date": "2027-03-02",
    "slot": 0,
    "channel": "email",
    "state": "sent",
    "reason": None,
    "send_at": "2027-03-02T07:30:00Z",
    "accepted_at": "2027-03-02T07:30:01Z",
    "attempt": 1,
    "timezone": "Europe/Stockholm",
    "date_rule": "exact",
    "time_rule": "exact",
    "year": 37,
}
_ATTEMPT: Final[Json] = {
    "number": 1,
    "at": "2027-03-02T07:30:01Z",
    "outcome": "accepted",
    "provider": "smtp",
    "kind": None,
    "category": None,
    "detail": None,
    "batch_id": 12,
}
_KEY: Final[Json] = {
    "id": 4,
    "name": "website",
    "prefix": "dbk_4rT0pQ",
    "state": "active",
    "role": "editor",
    "scopes": ["users:read", "users:write"],
    "created_at": "2027-01-07T10:00:00Z",
    "created_by": "key:1",
    "expires_at": "2090-01-01T00:00:00Z",
    "revoked_at": None,
    "last_used_at": None,
    "replaced_by": None,
}
_REPLANNED: Final[Json] = {"planned": 1, "moved": 0, "kept": 0, "removed": 0}

ANSWERS: Final[Mapping[str, Json]] = {
    "OneUserAnswer": {"user": _STORED_USER},
    "WrittenUserAnswer": {"user": _STORED_USER, "replanned": _REPLANNED},
    "DeletedUserAnswer": {"replanned": {"planned": 0, "moved": 0, "kept": 0, "removed": 1}},
    "UserListAnswer": {"users": [_STORED_USER], "next_cursor": None},
    "OneOccasionAnswer": {"occasion": _STORED_OCCASION},
    "OccasionListAnswer": {"occasions": [_STORED_OCCASION], "next_cursor": None},
    "CreatedOccasionAnswer": {
        "occasion": _STORED_OCCASION,
        "planned": {"added": 1, "already_there": 0, "batches": 1},
        "is_done": True,
        "warnings": [],
    },
    "WrittenOccasionAnswer": {
        "occasion": _STORED_OCCASION,
        "replanned": _REPLANNED,
        "is_done": True,
        "warnings": [],
    },
    "MessageListAnswer": {"messages": [_MESSAGE], "next_cursor": None},
    "OneMessageAnswer": {"message": {**_MESSAGE, "attempts": [_ATTEMPT], "dead_letter": None}},
    "IssuedKeyAnswer": {"api_key": _KEY, "key": "dbk_4rT0pQ_and-so-on-for-43-more-letters"},
    "KeyListAnswer": {"api_keys": [_KEY], "next_cursor": None},
}
