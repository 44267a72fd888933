"""What the text of a setting must look like: each function returns the value it names or raises ValueError.

The types at the end are those that several settings share.

Values that are not text (arguments in tests) pass as they are; pydantic checks their types afterwards.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from apscheduler.triggers.cron import CronTrigger
from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from scheduler.domain.duration import parse_duration
from scheduler.domain.message import ENVELOPE_FIELDS, TEXT_FIELDS
from scheduler.domain.quiet_hours import QuietHours

# From when on a cron expression must have a tick: any instant does.
_ANY_INSTANT = datetime(2000, 1, 1, tzinfo=UTC)

# RFC 9110 §5.6.2: the characters of a header's name.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A field of a body, as `worker/templates.py` has it.
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
# RFC 3986 §3.1: what an address begins with.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def cron_trigger(expression: str) -> CronTrigger:
    """The ticks of a five-field cron expression, in UTC.

    Raises ValueError for weekdays by number as well: APScheduler counts them from Monday, cron from Sunday,
    so `1` would fire on Tuesday.
    """
    trigger = CronTrigger.from_crontab(expression, timezone=UTC)
    if re.search(r"\d", expression.rpartition(" ")[2]):
        raise ValueError("weekdays are given by name")
    if trigger.get_next_fire_time(None, _ANY_INSTANT) is None:
        raise ValueError("this day never comes")
    return trigger


def cron_expression(value: object) -> object:
    """A cron expression that `cron_trigger` accepts, with single spaces."""
    if not isinstance(value, str):
        return value
    expression = " ".join(value.split())
    cron_trigger(expression)
    return expression


def duration(value: object) -> object:
    """Seconds or an ISO 8601 duration."""
    return parse_duration(value) if isinstance(value, str) else value


def path(value: object) -> object:
    """An absolute path; `~` is the user's home."""
    return Path(value).expanduser().absolute() if isinstance(value, str) else value


def upper_case(value: object) -> object:
    """The text in capitals."""
    return value.upper() if isinstance(value, str) else value


def database_url(value: object) -> object:
    """The address of a PostgreSQL database, as libpq or SQLAlchemy write it."""
    return _address(value, "postgresql", "postgres", "postgresql+psycopg")


def broker_url(value: object) -> object:
    """The address of a RabbitMQ virtual host, or of several nodes of a cluster with commas between them."""
    if isinstance(value, str):
        for node in value.split(","):
            _address(node, "amqp", "amqps")
    return value


def http_url(value: object) -> object:
    """An HTTP address; credentials belong in a header, where they are kept secret."""
    if isinstance(value, str):
        parts = urlsplit(value)
        if parts.username is not None or parts.fragment or not parts.hostname:
            raise ValueError("no host, or credentials or a fragment in the address")
    return _address(value, "http", "https")


def origins(value: object) -> object:
    """Origins of web pages (RFC 6454 §6.2), as browsers send them: scheme, host and port."""
    if not isinstance(value, str):
        return value
    listed = tuple(each.strip() for each in value.split(",") if each.strip())
    for each in listed:
        if not _ORIGIN.fullmatch(each):
            raise ValueError("not an origin")
    return listed


def quiet_hours(value: object) -> object:
    """The part of a day that is quiet."""
    return QuietHours.parse(value) if isinstance(value, str) else value


def http_headers(value: object) -> object:
    """Names and texts of headers (RFC 9110 §5) from a JSON object."""
    headers = json.loads(value) if isinstance(value, str) else value
    if not isinstance(headers, dict):
        raise ValueError("not a JSON object")
    for name, text in headers.items():
        if not HEADER_NAME.fullmatch(name):
            raise ValueError("not the name of a header")
        if isinstance(text, str) and not text.isprintable():
            raise ValueError("control characters in a header")
    return headers


def http_body(value: object) -> object:
    """The text of a JSON object whose fields every message has."""
    if isinstance(value, str):
        if not isinstance(json.loads(value), dict):
            raise ValueError("not a JSON object")
        if not set(_FIELD.findall(value.replace("{{", ""))) <= TEXT_FIELDS | ENVELOPE_FIELDS:
            raise ValueError("a field that no message has")
    return value


def without_credentials(text: str) -> str:
    """`text` as it is, unless it is an address: then without user, password, query and fragment."""
    if not _ADDRESS.match(text):
        return text
    try:
        parts = urlsplit(text)
        netloc = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=netloc, query="…" if parts.query else "", fragment=""))
    except ValueError:
        return text.partition("://")[0] + "://…"


def _address(value: object, *schemes: str) -> object:
    if isinstance(value, str):
        parts = urlsplit(value)
        if parts.scheme not in schemes or not value.isprintable() or " " in value:
            raise ValueError(f"not an address of {schemes[0]}")
        _ = parts.port  # raises ValueError unless it is a number from 0 to 65535
    return value


class Takes(NamedTuple):
    """What a setting takes, in words: the last part of the message about a wrong value."""

    words: str


CronExpression = Annotated[
    str,
    BeforeValidator(cron_expression),
    Takes("five cron fields, read in UTC, with weekdays by name: */10 * * * *, 30 6 * * mon-fri"),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(duration),
    Field(gt=timedelta(0), le=timedelta(days=366)),
    Takes("seconds or an ISO 8601 duration above zero, at most 366 days: 3600, PT36H, P2D"),
]
WholeSeconds = Annotated[int, Field(ge=1, le=86_400), Takes("whole seconds from 1 to 86400")]
Seconds = Annotated[float, Field(gt=0, le=86_400), Takes("seconds above 0, at most 86400")]
Count = Annotated[int, Field(ge=1, le=64), Takes("a whole number from 1 to 64")]
HeaderMap = Annotated[
    dict[str, SecretStr],
    NoDecode,
    BeforeValidator(http_headers),
    Takes('a JSON object of header names and texts: {"Authorization": "Bearer …"}'),
]
