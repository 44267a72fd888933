import json
from datetime import date, datetime, time
from typing import Any

import pytest
from pydantic import ValidationError

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import (
    UserInput,
    UserPatch,
    check_dates,
    field_errors,
    patched,
)
from scheduler.domain.user_row import UserRows

ADA: dict[str, Any] = {
    "external_id": "ada",
    "first_name": "Ada",
    "last_name": "Lovelace",
    "email": "ada@example.com",
    "phone": "+442071838750",
    "timezone": "Europe/London",
    "locale": "en-GB",
    "preferred_time": "07:30",
    "dates": {"birthday": "1815-12-10", "first_program": "1843-09-01"},
    "attributes": {"team": "Analysts", "level": 3, "score": 0.5, "vip": True, "note": None},
}


def refusals(**changes: Any) -> dict[str, str]:
    """What is wrong with Ada, changed, by pointer."""
    with pytest.raises(ValidationError) as refused:
        UserInput.model_validate(ADA | changes)
    return {error.pointer: error.message for error in field_errors(refused.value)}


def test_a_whole_user_is_read_from_json_and_from_values_alike() -> None:
    user = UserInput.model_validate(ADA)
    assert user == UserInput.model_validate_json(json.dumps(ADA))
    assert user.preferred_time == time(7, 30)
    assert user.dates == {"birthday": date(1815, 12, 10), "first_program": date(1843, 9, 1)}
    assert user.attributes == ADA["attributes"]
    assert user.attributes["vip"] is True


def test_a_user_reads_back_what_it_wrote() -> None:
    user = UserInput.model_validate(ADA)
    assert UserInput.model_validate_json(user.model_dump_json()) == user
    assert UserInput.model_validate(user.model_dump()) == user


def test_little_is_required() -> None:
    user = UserInput.model_validate({"external_id": "1", "first_name": "Ada", "timezone": "UTC"})
    assert (user.last_name, user.email, user.phone, user.locale) == ("", None, None, "en")
    assert (user.preferred_time, user.dates, user.attributes) == (None, {}, {})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        UserInput.model_validate(
            {"first_name": "", "timezone": "Europe/Lodnon", "frist_name": "Ada", "dates": {"birthday": "x"}}
        )
    assert field_errors(refused.value) == [
        FieldError("/external_id", "is required"),
        FieldError("/first_name", "must not be empty"),
        FieldError("/timezone", "unknown time zone 'Europe/Lodnon'; did you mean 'Europe/London'?"),
        FieldError("/dates/birthday", "must be a real date written YYYY-MM-DD"),
        FieldError("/frist_name", "unknown field 'frist_name'; did you mean 'first_name'?"),
    ]


@pytest.mark.parametrize("value", [None, [], "ada", 1])
def test_a_user_is_an_object(value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        UserInput.model_validate(value)
    assert field_errors(refused.value) == [FieldError("", "must be an object")]


@pytest.mark.parametrize("field", ["external_id", "first_name", "last_name"])
@pytest.mark.parametrize(
    "value",
    ["a\x00b", "a\nb", "a\r\nBcc: x@example.com", "a\x1bb", "a\x85b", "a\u2028b", "a\u2029b"],
)
def test_control_characters_are_refused(field: str, value: str) -> None:
    assert refusals(**{field: value}) == {
        f"/{field}": "must not contain control characters or line separators"
    }


@pytest.mark.parametrize("field", ["external_id", "first_name", "last_name", "email", "phone", "locale"])
def test_half_a_surrogate_pair_is_refused(field: str) -> None:
    assert refusals(**{field: "a\ud800b"}) == {
        f"/{field}": "must be valid Unicode: it contains half of a surrogate pair"
    }


@pytest.mark.parametrize(
    "field", ["external_id", "first_name", "last_name", "email", "phone", "timezone", "locale"]
)
@pytest.mark.parametrize("value", [1, True, ["a"], {"a": 1}, b"a"])
def test_only_strings_are_strings(field: str, value: Any) -> None:
    assert refusals(**{field: value}) == {f"/{field}": "must be a string"}


@pytest.mark.parametrize(
    "name",
    [
        "Zoë",
        "Ὅμηρος",
        "王秀英",
        "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
        "O'Brien-Nuñez",
        "Ada 👩\u200d💻",
        "x" * 100,
    ],
)
def test_names_are_those_of_people(name: str) -> None:
    assert UserInput.model_validate(ADA | {"first_name": name}).first_name == name


def test_blanks_around_a_name_are_dropped() -> None:
    assert UserInput.model_validate(ADA | {"first_name": " Ada "}).first_name == "Ada"
    assert refusals(first_name="  ") == {"/first_name": "must not be empty"}


@pytest.mark.parametrize(("field", "limit"), [("external_id", 200), ("first_name", 100), ("last_name", 100)])
def test_texts_are_bounded(field: str, limit: int) -> None:
    UserInput.model_validate(ADA | {field: "é" * limit})
    assert refusals(**{field: "é" * (limit + 1)}) == {f"/{field}": f"must be at most {limit} characters long"}


@pytest.mark.parametrize(
    "email",
    ["a@example.com", "first.last+tag@mail.example.co.uk", "o'brien@example.com", "jörg@müller.example"],
)
def test_an_email_address(email: str) -> None:
    assert UserInput.model_validate(ADA | {"email": email}).email == email


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@localhost",
        "a@b@example.com",
        "ada @example.com",
        "ada@example..com",
        "ada@.example.com",
        "ada@example.com.",
        "ada@exam\nple.com",
        "ada\x00@example.com",
        "Ada <ada@example.com>",
        "a,b@example.com",
        "x" * 65 + "@example.com",
    ],
)
def test_no_email_address(email: str) -> None:
    assert refusals(email=email) == {"/email": "must be an e-mail address such as name@example.com"}


def test_an_email_address_is_bounded_in_octets() -> None:
    domain = ".".join(["é" * 50] * 3) + ".example"
    assert len(domain) < 254
    assert refusals(email=f"ada@{domain}") == {"/email": "must be at most 254 octets long"}


@pytest.mark.parametrize(
    "phone", ["", "02071838750", "+0442071838750", "+44 20 7183 8750", "+44", "+" + "1" * 16, "+٤٤٢٠٧١٨٣٨٧٥٠"]
)
def test_no_phone_number(phone: str) -> None:
    assert refusals(phone=phone) == {"/phone": "must be a phone number in E.164 form such as +442071838750"}


@pytest.mark.parametrize(
    ("locale", "kept"), [("en", "en"), ("pt-BR", "pt-BR"), ("pt_BR", "pt-BR"), ("zh-Hant-TW", "zh-Hant-TW")]
)
def test_a_locale(locale: str, kept: str) -> None:
    assert UserInput.model_validate(ADA | {"locale": locale}).locale == kept


@pytest.mark.parametrize("locale", ["", "e", "english", "en-", "en/GB", "en-GB\n"])
def test_no_locale(locale: str) -> None:
    assert refusals(locale=locale) == {"/locale": "must be a language tag such as en or pt-BR"}


@pytest.mark.parametrize(
    ("preferred_time", "read"),
    [("00:00", time(0)), ("23:59", time(23, 59)), ("09:00:00", time(9)), (time(9), time(9))],
)
def test_a_preferred_time(preferred_time: Any, read: time) -> None:
    assert UserInput.model_validate(ADA | {"preferred_time": preferred_time}).preferred_time == read


@pytest.mark.parametrize(
    "preferred_time",
    [
        "",
        "9:00",
        "24:00",
        "09:60",
        "09:00:30",
        "09",
        "0900",
        "09:00Z",
        "09:00+02:00",
        900,
        9.5,
        True,
        time(9, 0, 1),
    ],
)
def test_no_preferred_time(preferred_time: Any) -> None:
    message = "must be a time of day in whole minutes written HH:MM"
    assert refusals(preferred_time=preferred_time) == {"/preferred_time": message}


@pytest.mark.parametrize(
    "day",
    [
        "",
        "2023-02-29",
        "1900-02-29",
        "2023-13-01",
        "20230101",
        "2023-W01-1",
        "2023-1-1",
        "01/02/2023",
        "2023-01-01T00:00:00",
        "0000-01-01",
        "1990-01-01 ",
        "\u0662\u0660\u0662\u0663-01-01",
        "0",
        0,
        86400,
        None,
        True,
        datetime(2023, 1, 1, 9).astimezone(),
    ],
)
def test_no_date(day: Any) -> None:
    message = "must be a real date written YYYY-MM-DD"
    assert refusals(dates={"birthday": day}) == {"/dates/birthday": message}


def test_a_leap_day_is_a_date_in_leap_years() -> None:
    assert UserInput.model_validate(ADA | {"dates": {"birthday": "2000-02-29"}}).dates["birthday"] == date(
        2000, 2, 29
    )


@pytest.mark.parametrize("name", ["", "Birthday", "1st", "first date", "a/b", "x" * 64])
def test_no_name_for_a_date(name: str) -> None:
    (message,) = refusals(dates={name: "2000-01-01"}).values()
    assert message.startswith("is not a name for a date")


def test_pointers_are_escaped_and_printable() -> None:
    names = list(refusals(dates={"a/b~c": "2000-01-01"}))
    assert names == ["/dates/a~1b~0c"]
    (pointer,) = refusals(**{"a\x00\ud800b" + "x" * 1000: 1})
    assert pointer.isprintable()
    assert len(pointer) < 120
    pointer.encode()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**53 + 1, 1e300, "a\x00", "a\ud800", "x" * 1001, [], {}, date(2000, 1, 1)],
)
def test_no_attribute(value: Any) -> None:
    (message,) = refusals(attributes={"a": value}).values()
    assert message.startswith("must be a string of up to 1000 characters")


def test_collections_are_bounded() -> None:
    assert refusals(dates={f"d{index}": "2000-01-01" for index in range(51)}) == {
        "/dates": "must have at most 50 entries"
    }
    assert refusals(attributes={f"a{index}": 1 for index in range(101)}) == {
        "/attributes": "must have at most 100 entries"
    }
    assert refusals(dates=[], attributes="x") == {
        "/dates": "must be an object",
        "/attributes": "must be an object",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"first_name": "Canary\x00"},
        {"email": "canary@"},
        {"phone": "canary"},
        {"dates": {"birthday": "canary"}},
        {"preferred_time": "canary"},
        {"attributes": {"a": "canary\x00"}},
    ],
)
def test_messages_repeat_no_personal_data(changes: dict[str, Any]) -> None:
    assert "canary" not in str(refusals(**changes)).casefold()


@pytest.mark.parametrize(
    ("today", "is_refused"), [("1815-12-09", True), ("1815-12-10", False), ("2026-01-01", False)]
)
def test_nobody_is_born_tomorrow(today: str, is_refused: bool) -> None:
    errors = check_dates(UserInput.model_validate(ADA), date.fromisoformat(today))
    assert errors == ([FieldError("/dates/birthday", "must not be in the future")] if is_refused else [])


def test_other_dates_may_lie_ahead() -> None:
    user = UserInput.model_validate(ADA | {"dates": {"anniversary": "2090-01-01"}})
    assert check_dates(user, date(2026, 1, 1)) == []


def after_patch(changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of Ada that a patch changes, as they are then."""
    before = UserInput.model_validate(ADA)
    after = patched(before, UserPatch.model_validate(changes))
    return {name: value for name, value in after if value != getattr(before, name)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"first_name": "Augusta"}, {"first_name": "Augusta"}),
        ({"timezone": "Asia/Tokyo"}, {"timezone": "Asia/Tokyo"}),
        ({"email": None, "phone": None}, {"email": None, "phone": None}),
        ({"last_name": None}, {"last_name": ""}),
        ({"locale": None}, {"locale": "en"}),
        ({"preferred_time": None}, {"preferred_time": None}),
        ({"dates": None}, {"dates": {}}),
        ({"dates": {}}, {}),
        ({"dates": {"first_program": None}}, {"dates": {"birthday": date(1815, 12, 10)}}),
        ({"dates": {"never_given": None}}, {}),
        (
            {"dates": {"birthday": "1815-12-11"}},
            {"dates": {"birthday": date(1815, 12, 11), "first_program": date(1843, 9, 1)}},
        ),
        (
            {"attributes": {"level": 4, "team": None, "note": None, "score": None}},
            {"attributes": {"level": 4, "vip": True}},
        ),
        ({"attributes": None}, {"attributes": {}}),
    ],
)
def test_a_patch_merges(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    assert after_patch(changes) == expected


@pytest.mark.parametrize("field", ["external_id", "first_name", "timezone"])
def test_what_is_required_cannot_be_removed(field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        UserPatch.model_validate({field: None})
    assert field_errors(refused.value) == [FieldError(f"/{field}", "must be a string")]


def test_a_patch_is_checked_like_a_user() -> None:
    with pytest.raises(ValidationError) as refused:
        UserPatch.model_validate({"timezon": "UTC", "timezone": "utc", "dates": {"birthday": "2023-02-29"}})
    assert field_errors(refused.value) == [
        FieldError("/timezone", "unknown time zone 'utc'; did you mean 'UTC'?"),
        FieldError("/dates/birthday", "must be a real date written YYYY-MM-DD"),
        FieldError("/timezon", "unknown field 'timezon'; did you mean 'timezone'?"),
    ]


def test_the_bounds_hold_for_the_result_of_a_patch() -> None:
    user = UserInput.model_validate(ADA | {"dates": {f"a{index}": "2000-01-01" for index in range(50)}})
    with pytest.raises(ValidationError) as refused:
        patched(user, UserPatch.model_validate({"dates": {"one_more": "2000-01-01"}}))
    assert field_errors(refused.value) == [FieldError("/dates", "must have at most 50 entries")]


def test_a_row_is_read_by_its_columns() -> None:
    row = {
        "external_id": "aardsda01",
        "first_name": " David ",
        "last_name": "",
        "email": "aardsda01@example.com",
        "phone": " ",
        "birth_date": "1981-12-27",
        "anniversary_date": "2004-04-06",
        "date:name_day": "2004-12-30",
        "timezone": "America/Denver",
        "country": "US",
    }
    rows = UserRows(list(row))
    values = rows.user(list(row.values()))
    assert rows.ignored == ["country"]
    assert values == {
        "external_id": "aardsda01",
        "first_name": "David",
        "email": "aardsda01@example.com",
        "timezone": "America/Denver",
        "dates": {"birthday": "1981-12-27", "anniversary": "2004-04-06", "name_day": "2004-12-30"},
    }
    assert UserInput.model_validate(values).last_name == ""


def test_a_row_with_nothing_in_it_lacks_what_is_required() -> None:
    with pytest.raises(ValidationError) as refused:
        UserInput.model_validate(UserRows(["external_id", "first_name", "timezone"]).user(["", "", " "]))
    assert [error.pointer for error in field_errors(refused.value)] == [
        "/external_id",
        "/first_name",
        "/timezone",
    ]
