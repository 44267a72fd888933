"""What a user may be: the one set of rules for the API, the CSV and the NDJSON import alike.

Values are taken as written or refused, never guessed: no numbers for strings, no timestamps for dates,
no unknown fields. Messages say what to write instead and repeat no personal data.

Limits: e-mail addresses and phone numbers are checked for their form only; whether anybody is there is not known here.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from datetime import date, time
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import ErrorDetails

from scheduler.domain.field_error import FieldError
from scheduler.domain.mailbox import MOST_OCTETS, PLAIN_PATTERN, check_mailbox
from scheduler.domain.merge_patch import merged
from scheduler.domain.phone_number import check_phone_number, phone_number_pattern
from scheduler.domain.schema_of import SchemaOf, without_defaults
from scheduler.domain.zones import allowed_zones, check_zone

BIRTHDAY: Final = "birthday"
ANNIVERSARY: Final = "anniversary"

_LARGEST_INTEGER: Final = 2**53  # RFC 8259 §6: beyond it, readers of JSON disagree

# Control characters and the two line separators of Unicode: they forge mail headers and log lines.
_NO_CONTROLS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
TEXT_PATTERN: Final = rf"^[^{_NO_CONTROLS}]*$"
SOME_TEXT_PATTERN: Final = rf"^[^{_NO_CONTROLS}]*[^\s{_NO_CONTROLS}][^{_NO_CONTROLS}]*$"
_DEVICE_PATTERN: Final = r"^[\x21-\x7e]{1,4096}$"
# No user, password or fragment: who may be asked at all is decided when the address is resolved.
_HEX: Final = "[0-9A-Fa-f]{1,4}"
_SHORTENED: Final = "|".join(f"(?:{_HEX}:){{1,{7 - after}}}(?::{_HEX}){{1,{after}}}" for after in range(1, 7))
_IPV6_PATTERN: Final = f"(?:{_HEX}:){{7}}{_HEX}|(?:{_HEX}:){{1,7}}:|:(?::{_HEX}){{1,7}}|::|{_SHORTENED}"
_WEBHOOK_URL_PATTERN: Final = (
    rf"^https?://(?:[A-Za-z0-9.\-]+|\[(?:{_IPV6_PATTERN})\])(?::[0-9]{{1,5}})?(?:[/?][\x21\x22\x24-\x7e]*)?$"
)
_LOCALE_PATTERN: Final = r"^[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8}){0,4}$"
_DATE_NAME_PATTERN: Final = r"^[a-z][a-z0-9_]{0,62}$"
_ATTRIBUTE_NAME_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
_TIME_OF_DAY: Final = re.compile(r"[0-9]{2}:[0-9]{2}(?::00)?")
_TIME_PATTERN: Final = "^([01][0-9]|2[0-3]):[0-5][0-9](:00)?$"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_DATE_MESSAGE: Final = "must be a real date written YYYY-MM-DD"
_TIME_MESSAGE: Final = "must be a time of day in whole minutes written HH:MM"
_ATTRIBUTE_MESSAGE: Final = (
    "must be a string of up to 1000 characters (no controls), a finite number, true, false or null"
)


def _parse_date(value: object) -> object:
    if isinstance(value, str) and len(value) == 10 and value[4] == value[7] == "-":
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise ValueError(_DATE_MESSAGE) from None
    if type(value) is date:
        return value
    raise ValueError(_DATE_MESSAGE)


def _parse_time(value: object) -> object:
    if isinstance(value, str) and _TIME_OF_DAY.fullmatch(value):
        try:
            return time.fromisoformat(value)
        except ValueError:
            raise ValueError(_TIME_MESSAGE) from None
    if isinstance(value, time) and value == time(value.hour, value.minute):
        return value
    raise ValueError(_TIME_MESSAGE)


def _check_attribute(value: object) -> object:
    if isinstance(value, str):
        is_valid = len(value) <= 1000 and not _CONTROLS.search(value) and _is_unicode(value)
    elif isinstance(value, int):
        is_valid = abs(value) <= _LARGEST_INTEGER
    elif isinstance(value, float):
        # The database keeps 1e300 as 301 digits and hands it out as an integer: the same bound for both.
        is_valid = math.isfinite(value) and abs(value) <= _LARGEST_INTEGER
    else:
        is_valid = value is None
    if not is_valid:
        raise ValueError(_ATTRIBUTE_MESSAGE)
    return value


def _is_unicode(text: str) -> bool:
    """False for a lone surrogate, which no database or mail can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hyphenated(locale: str) -> str:
    return locale.replace("_", "-")


def _text(max_length: int, min_length: int = 0) -> StringConstraints:
    return StringConstraints(
        strip_whitespace=True, min_length=min_length, max_length=max_length, pattern=TEXT_PATTERN
    )


def _text_schema(max_length: int) -> SchemaOf:
    """Of text that must not be empty once the blanks around it are gone."""
    return SchemaOf(
        lambda: {"type": "string", "minLength": 1, "maxLength": max_length, "pattern": SOME_TEXT_PATTERN}
    )


ExternalId = Annotated[str, _text(200, min_length=1), _text_schema(200)]
FirstName = Annotated[str, _text(100, min_length=1), _text_schema(100)]
LastName = Annotated[str, _text(100)]
Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    AfterValidator(check_mailbox),
    SchemaOf(
        lambda: {
            "type": "string",
            "pattern": PLAIN_PATTERN,
            "maxLength": MOST_OCTETS,
            "description": "Internationalized addresses (RFC 6531) are taken as well.",
            "examples": ["ann@example.org"],
        },
        "Email",
    ),
]
PushToken = Annotated[str, StringConstraints(pattern=_DEVICE_PATTERN)]
WebhookUrl = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=2048, pattern=_WEBHOOK_URL_PATTERN)
]
Phone = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    AfterValidator(check_phone_number),
    SchemaOf(
        lambda: {
            "type": "string",
            "pattern": phone_number_pattern(),
            "description": "In E.164 form: + and the calling code, then as many digits as that country has.",
            "examples": ["+442071838750"],
        },
        "Phone",
    ),
]
ZoneName = Annotated[
    str,
    AfterValidator(check_zone),
    SchemaOf(
        lambda: {
            "type": "string",
            "enum": sorted(allowed_zones()),
            "description": "A time zone of the IANA database.",
            "examples": ["Europe/London"],
        },
        "TimeZone",
    ),
]
Locale = Annotated[
    str,
    StringConstraints(pattern=_LOCALE_PATTERN),
    AfterValidator(_hyphenated),
    SchemaOf(lambda: {"type": "string", "pattern": _LOCALE_PATTERN, "examples": ["en-GB"]}),
]
LocalDate = Annotated[
    date,
    BeforeValidator(_parse_date),
    SchemaOf(lambda: {"type": "string", "format": "date", "examples": ["1990-03-02"]}),
]
TimeOfDay = Annotated[
    time,
    BeforeValidator(_parse_time),
    SchemaOf(lambda: {"type": "string", "pattern": _TIME_PATTERN, "examples": ["09:00"]}),
]
DateName = Annotated[str, StringConstraints(pattern=_DATE_NAME_PATTERN)]
AttributeName = Annotated[str, StringConstraints(pattern=_ATTRIBUTE_NAME_PATTERN)]
AttributeValue = Annotated[
    str | int | float | bool | None,
    BeforeValidator(_check_attribute),
    SchemaOf(
        lambda: {
            "anyOf": [
                {"type": "string", "maxLength": 1000, "pattern": TEXT_PATTERN},
                {"type": "number", "minimum": -_LARGEST_INTEGER, "maximum": _LARGEST_INTEGER},
                {"type": "boolean"},
                {"type": "null"},
            ],
        },
        "AttributeValue",
    ),
]


class _StrictModel(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class UserInput(_StrictModel):
    """A whole user, to create or replace one."""

    external_id: ExternalId
    first_name: FirstName
    last_name: LastName = ""
    email: Email | None = None
    phone: Phone | None = None
    push_token: PushToken | None = None
    webhook_url: WebhookUrl | None = None
    timezone: ZoneName
    locale: Locale = "en"
    preferred_time: TimeOfDay | None = None
    dates: Annotated[dict[DateName, LocalDate], Field(max_length=50)] = Field(default_factory=dict)
    attributes: Annotated[dict[AttributeName, AttributeValue], Field(max_length=100)] = Field(
        default_factory=dict
    )


class UserPatch(_StrictModel):
    """A change to a user as an RFC 7396 merge patch: what is not named stays, null removes.

    Only the fields in `model_fields_set` mean anything. Apply it with `patched`.
    """

    model_config = ConfigDict(json_schema_extra=without_defaults)

    external_id: ExternalId = Field(default_factory=str)
    first_name: FirstName = Field(default_factory=str)
    last_name: LastName | None = None
    email: Email | None = None
    phone: Phone | None = None
    push_token: PushToken | None = None
    webhook_url: WebhookUrl | None = None
    timezone: ZoneName = Field(default_factory=str)
    locale: Locale | None = None
    preferred_time: TimeOfDay | None = None
    dates: Annotated[dict[DateName, LocalDate | None], Field(max_length=50)] | None = None
    attributes: Annotated[dict[AttributeName, AttributeValue], Field(max_length=100)] | None = None


def patched(user: UserInput, patch: UserPatch) -> UserInput:
    """`user` with `patch` merged in (RFC 7396); raises ValidationError if the result is no user."""
    changes = patch.model_dump(exclude_unset=True)
    return UserInput.model_validate(merged(user.model_dump(), changes))


def check_dates(user: UserInput, today: date) -> list[FieldError]:
    """What is wrong with the user's dates on `today`: nobody is born tomorrow. Other dates may lie ahead."""
    birthday = user.dates.get(BIRTHDAY)
    if birthday is None or birthday <= today:
        return []
    return [FieldError(f"/dates/{BIRTHDAY}", "must not be in the future")]


_PATTERN_MESSAGES: Final[Mapping[str, str]] = {
    TEXT_PATTERN: "must not contain control characters or line separators",
    _DEVICE_PATTERN: "must be a device token: up to 4096 visible ASCII characters",
    _WEBHOOK_URL_PATTERN: "must be an http:// or https:// address without user, password and fragment",
    _LOCALE_PATTERN: "must be a language tag such as en or pt-BR",
    _DATE_NAME_PATTERN: "is not a name for a date: up to 63 lower-case letters, digits and _, a letter first",
    _ATTRIBUTE_NAME_PATTERN: "is not a name for an attribute: up to 63 letters, digits and _, no digit first",
}

_MESSAGES: Final[Mapping[str, str]] = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode: it contains half of a surrogate pair",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "too_long": "must have at most {max_length} entries",
    "string_too_long": "must be at most {max_length} characters long",
}


def field_errors(
    error: ValidationError, known: Collection[str] = (), field: str = "field"
) -> list[FieldError]:
    """All that a model refused, each with its place and a message for whoever wrote the input.

    Works for any pydantic model; `known` are the names of its fields, and `field` is what one is called. Messages name
    no values except unknown zones and unknown fields.
    """
    names = UserInput.model_fields if error.title in (UserInput.__name__, UserPatch.__name__) else known
    return [
        FieldError(_pointer(detail["loc"]), _message(detail, names, field))
        for detail in error.errors(include_url=False, include_input=False)
    ]


def _pointer(location: tuple[int | str, ...]) -> str:
    # pydantic marks an error of a key, rather than of its value, by a last part of its own.
    parts = location[:-1] if location and location[-1] == "[key]" else location
    return "".join("/" + _printable(str(part)).replace("~", "~0").replace("/", "~1") for part in parts)


def _message(detail: ErrorDetails, known: Collection[str], field: str) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(detail["loc"], known, field)
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return _PATTERN_MESSAGES.get(context["pattern"], detail["msg"])
    if kind == "string_too_short":
        return "must not be empty" if context["min_length"] == 1 else detail["msg"]
    return _MESSAGES[kind].format_map(context) if kind in _MESSAGES else detail["msg"]


def _unknown_field(location: tuple[int | str, ...], known: Collection[str], field: str) -> str:
    name = _printable(str(location[-1]))
    close = difflib.get_close_matches(name, known, n=1) if len(location) == 1 else []
    if close:
        return f"unknown {field} '{name}'; did you mean '{close[0]}'?"
    takes = f"; there is {', '.join(known)}" if field == "parameter" and known else ""
    return f"unknown {field} '{name}'" + takes


def _printable(name: str) -> str:
    """A name from the input as it can be put into any answer, file or log."""
    shown = name if len(name) <= 100 else name[:100] + "…"
    return _CONTROLS.sub("\ufffd", shown).encode(errors="replace").decode()
