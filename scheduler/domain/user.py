"""What a user may be: the one set of rules for the API, the CSV and the NDJSON import alike.

Values are taken as written or refused, never guessed: no numbers for strings, no timestamps for dates,
no unknown fields. Messages say what to write instead and repeat no personal data.

Limits: an e-mail address is checked for its form only; whether it can receive anything is not known here.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from datetime import date, time
from typing import Annotated, Any, Final

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
from scheduler.domain.zones import check_zone

BIRTHDAY: Final = "birthday"
ANNIVERSARY: Final = "anniversary"

_MAX_EMAIL_OCTETS: Final = 254  # RFC 5321 §4.5.3.1.3, without the angle brackets
_LARGEST_INTEGER: Final = 2**53  # RFC 8259 §6: beyond it, readers of JSON disagree

# Control characters and the two line separators of Unicode: they forge mail headers and log lines.
_TEXT_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_EMAIL_PATTERN: Final = (
    r'^[^\s\x00-\x1f\x7f-\x9f@<>()\[\],;:\\"]{1,64}'
    r'@(?:[^\s\x00-\x1f\x7f-\x9f@<>()\[\],;:\\".]{1,63}\.)+[^\s\x00-\x1f\x7f-\x9f@<>()\[\],;:\\".]{1,63}$'
)
_PHONE_PATTERN: Final = r"^\+[1-9][0-9]{6,14}$"
_DEVICE_PATTERN: Final = r"^[\x21-\x7e]{1,4096}$"
# No user, password or fragment: who may be asked at all is decided when the address is resolved.
_WEBHOOK_URL_PATTERN: Final = r"^https?://[A-Za-z0-9.\-\[\]:]+(?:[/?][\x21\x22\x24-\x7e]*)?$"
_LOCALE_PATTERN: Final = r"^[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8}){0,4}$"
_DATE_NAME_PATTERN: Final = r"^[a-z][a-z0-9_]{0,62}$"
_ATTRIBUTE_NAME_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
_TIME_OF_DAY: Final = re.compile(r"[0-9]{2}:[0-9]{2}(?::00)?")
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


def _check_email_length(value: str) -> str:
    if len(value.encode()) > _MAX_EMAIL_OCTETS:
        raise ValueError(f"must be at most {_MAX_EMAIL_OCTETS} octets long")
    return value


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
        strip_whitespace=True, min_length=min_length, max_length=max_length, pattern=_TEXT_PATTERN
    )


ExternalId = Annotated[str, _text(200, min_length=1)]
FirstName = Annotated[str, _text(100, min_length=1)]
LastName = Annotated[str, _text(100)]
Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=_MAX_EMAIL_OCTETS, pattern=_EMAIL_PATTERN),
    AfterValidator(_check_email_length),
]
PushToken = Annotated[str, StringConstraints(pattern=_DEVICE_PATTERN)]
WebhookUrl = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=2048, pattern=_WEBHOOK_URL_PATTERN)
]
Phone = Annotated[str, StringConstraints(strip_whitespace=True, pattern=_PHONE_PATTERN)]
ZoneName = Annotated[str, AfterValidator(check_zone)]
Locale = Annotated[str, StringConstraints(pattern=_LOCALE_PATTERN), AfterValidator(_hyphenated)]
LocalDate = Annotated[date, BeforeValidator(_parse_date)]
TimeOfDay = Annotated[time, BeforeValidator(_parse_time)]
DateName = Annotated[str, StringConstraints(pattern=_DATE_NAME_PATTERN)]
AttributeName = Annotated[str, StringConstraints(pattern=_ATTRIBUTE_NAME_PATTERN)]
AttributeValue = Annotated[str | int | float | bool | None, BeforeValidator(_check_attribute)]


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
    return UserInput.model_validate(_merged(user.model_dump(), changes))


def _merged(target: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7396 §2 for objects."""
    result = dict(target)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            result[name] = _merged(result.get(name, {}), value)
        else:
            result[name] = value
    return result


def check_dates(user: UserInput, today: date) -> list[FieldError]:
    """What is wrong with the user's dates on `today`: nobody is born tomorrow. Other dates may lie ahead."""
    birthday = user.dates.get(BIRTHDAY)
    if birthday is None or birthday <= today:
        return []
    return [FieldError(f"/dates/{BIRTHDAY}", "must not be in the future")]


_PATTERN_MESSAGES: Final[Mapping[str, str]] = {
    _TEXT_PATTERN: "must not contain control characters or line separators",
    _EMAIL_PATTERN: "must be an e-mail address such as name@example.com",
    _PHONE_PATTERN: "must be a phone number in E.164 form such as +442071838750",
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


def field_errors(error: ValidationError) -> list[FieldError]:
    """All that a model refused, each with its place and a message for whoever wrote the input.

    Works for any pydantic model. Messages name no values except unknown zones and unknown fields.
    """
    return [
        FieldError(_pointer(detail["loc"]), _message(error.title, detail))
        for detail in error.errors(include_url=False, include_input=False)
    ]


def _pointer(location: tuple[int | str, ...]) -> str:
    # pydantic marks an error of a key, rather than of its value, by a last part of its own.
    parts = location[:-1] if location and location[-1] == "[key]" else location
    return "".join("/" + _printable(str(part)).replace("~", "~0").replace("/", "~1") for part in parts)


def _message(model: str, detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(model, detail["loc"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return _PATTERN_MESSAGES.get(context["pattern"], detail["msg"])
    if kind == "string_too_short":
        return "must not be empty" if context["min_length"] == 1 else detail["msg"]
    return _MESSAGES[kind].format_map(context) if kind in _MESSAGES else detail["msg"]


def _unknown_field(model: str, location: tuple[int | str, ...]) -> str:
    name = _printable(str(location[-1]))
    known = UserInput.model_fields if model in (UserInput.__name__, UserPatch.__name__) else ()
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown field '{name}'" + (f"; did you mean '{close[0]}'?" if close else "")


def _printable(name: str) -> str:
    """A name from the input as it can be put into any answer, file or log."""
    shown = name if len(name) <= 100 else name[:100] + "…"
    return _CONTROLS.sub("\ufffd", shown).encode(errors="replace").decode()


_ROW_FIELDS: Final = frozenset(
    {
        "external_id",
        "first_name",
        "last_name",
        "email",
        "phone",
        "push_token",
        "webhook_url",
        "timezone",
        "locale",
        "preferred_time",
    }
)
_ROW_DATES: Final[Mapping[str, str]] = {
    "birth_date": BIRTHDAY,
    BIRTHDAY: BIRTHDAY,
    "anniversary_date": ANNIVERSARY,
    ANNIVERSARY: ANNIVERSARY,
}
_DATE_COLUMN_PREFIX: Final = "date:"


def is_row_column(name: str) -> bool:
    """Whether `user_from_row` reads a column of this name."""
    return name in _ROW_FIELDS or name in _ROW_DATES or name.startswith(_DATE_COLUMN_PREFIX)


def user_from_row(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a CSV file as input for `UserInput`, unchecked: an empty cell is an absent value.

    `birth_date` and `anniversary_date` are the dates `birthday` and `anniversary`, which may also be called
    so, a column `date:NAME` is the date NAME, other columns are ignored. Of two columns for one date, the later counts.
    """
    user: dict[str, Any] = {}
    dates: dict[str, str] = {}
    for column, cell in row.items():
        value = cell.strip() if cell else None
        if not value:
            continue
        if column in _ROW_FIELDS:
            user[column] = value
        elif column in _ROW_DATES:
            dates[_ROW_DATES[column]] = value
        elif column.startswith(_DATE_COLUMN_PREFIX):
            dates[column.removeprefix(_DATE_COLUMN_PREFIX)] = value
    user["dates"] = dates
    return user
