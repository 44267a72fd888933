"""Input of occasions: what is taken, what is refused and where, and what a patch makes of one."""

from datetime import date, time, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from scheduler.domain.occasion import (
    Channel,
    FixedRule,
    OnceRule,
    RecurrenceRule,
    Rule,
    YearlyRule,
)
from scheduler.domain.occasion_errors import occasion_errors
from scheduler.domain.occasion_input import (
    OccasionInput,
    OccasionPatch,
    applied,
    input_of,
    occasion_of,
    patched,
)
from scheduler.domain.quiet_hours import QuietHours
from scheduler.domain.retry import RetryPolicy

LEAST: dict[str, Any] = {
    "key": "name-day",
    "name": "Name day",
    "rule": {"kind": "fixed", "month": 5, "day": 3},
    "subject": "Hello",
    "body": "Hello, {{ first_name }}!",
}


def errors(changes: dict[str, Any], model: type[OccasionInput] = OccasionInput) -> dict[str, str]:
    """What is wrong with the least input and these changes, by place."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate(LEAST | changes)
    return {each.pointer: each.message for each in occasion_errors(refused.value)}


def occasion(**changes: Any) -> OccasionInput:
    return OccasionInput.model_validate(LEAST | changes)


def test_the_least_input_has_every_policy() -> None:
    made = occasion_of(occasion(), 7)
    assert (made.tenant_id, made.local_times, made.channels) == (7, (time(9),), (Channel.EMAIL,))
    assert (made.gap, made.overlap, made.leap_day, made.same_day) == ("forward", "first", "feb28", "send")
    assert (made.lateness_limit, made.retry, made.quiet_hours, made.group) == (None, None, None, None)
    assert made.active


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (
            {"kind": "yearly", "date_name": "birthday", "offset_days": -7},
            YearlyRule("birthday", -7),
        ),
        ({"kind": "yearly", "date_name": "birthday"}, YearlyRule("birthday", 0)),
        ({"kind": "fixed", "month": 2, "day": 29}, FixedRule(2, 29)),
        (
            {"kind": "rrule", "rrule": "FREQ=WEEKLY;BYDAY=MO", "starts_on": "2027-01-04"},
            RecurrenceRule("FREQ=WEEKLY;BYDAY=MO", date(2027, 1, 4)),
        ),
        ({"kind": "once", "on": "2028-02-29"}, OnceRule(date(2028, 2, 29))),
    ],
)
def test_each_rule_is_taken_and_given_back(given: dict[str, Any], meant: Rule) -> None:
    made = occasion_of(occasion(rule=given), 1)
    assert made.rule == meant
    assert occasion_of(input_of(made), 1) == made


def test_every_policy_is_taken_and_given_back() -> None:
    given = occasion(
        local_times=["08:30", "20:00"],
        channels=["sms", "push"],
        priority="bulk",
        html="<p>Hello</p>",
        translations={"de": {"subject": "Hallo", "body": "Hallo!"}},
        group="care",
        quiet_hours="22:00-07:00",
        lateness_limit="PT36H",
        retry={"max_attempts": 3, "base_seconds": 2, "cap_seconds": 60},
        active=False,
    )
    made = occasion_of(given, 1)
    assert made.quiet_hours == QuietHours(time(22), time(7))
    assert made.lateness_limit == timedelta(hours=36)
    assert made.retry == RetryPolicy(3, 2.0, 60.0)
    assert input_of(made) == given
    assert applied(given, made) == made
    assert given.model_dump(mode="json")["lateness_limit"] == "PT36H"


def test_all_errors_are_told_at_once_each_with_its_place() -> None:
    found = errors(
        {
            "key": "Name Day",
            "rule": {"kind": "rrule", "rrule": "FREQ=HOURLY", "starts_on": "2027-02-30"},
            "local_times": ["9:00"],
            "channels": ["email", "emial"],
            "priority": "urgent",
            "quiet_hours": "late",
            "lateness_limit": "36h",
            "chanels": ["email"],
            "translations": {"de": {"subject": "Hallo", "boby": "Hallo!"}},
        }
    )
    assert found["/rule/rrule"].startswith("FREQ=HOURLY is too fine")
    assert found["/rule/starts_on"] == "must be a real date written YYYY-MM-DD"
    assert found["/channels/1"] == "must be 'email', 'sms', 'push', 'webhook' or 'in_app'"
    assert found["/chanels"] == "unknown field 'chanels'; did you mean 'channels'?"
    assert found["/translations/de/boby"] == "unknown field 'boby'; did you mean 'body'?"
    assert found["/translations/de/body"] == "is required"
    assert {"/key", "/local_times/0", "/priority", "/quiet_hours", "/lateness_limit"} <= set(found)


@pytest.mark.parametrize(
    ("rule", "place", "message"),
    [
        ({}, "/rule", "needs a kind: yearly, fixed, rrule or once"),
        (5, "/rule", "must be an object"),
        ({"kind": "monthly"}, "/rule", "has an unknown kind: one of 'yearly', 'fixed', 'rrule', 'once'"),
        ({"kind": "fixed", "month": 2, "day": 30}, "/rule", "no year has a day 30 in month 2"),
        (
            {"kind": "fixed", "month": 5, "day": 3, "dy": 1},
            "/rule/dy",
            "unknown field 'dy'; did you mean 'day'?",
        ),
        ({"kind": "yearly"}, "/rule/date_name", "is required"),
        ({"kind": "once", "on": "2027-02-29"}, "/rule/on", "must be a real date written YYYY-MM-DD"),
    ],
)
def test_a_wrong_rule_is_refused_at_its_place(rule: object, place: str, message: str) -> None:
    assert errors({"rule": rule}) == {place: message}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"local_times": []}, "/local_times"),
        ({"local_times": ["09:00", "09:00"]}, "/local_times"),
        ({"channels": []}, "/channels"),
        ({"channels": "email"}, "/channels"),
        ({"subject": ""}, "/subject"),
        ({"subject": "a\0b"}, "/subject"),
        ({"name": "a\nb"}, "/name"),
        ({"active": "yes"}, "/active"),
        ({"lateness_limit": "PT0S"}, "/lateness_limit"),
        ({"lateness_limit": "P2000D"}, "/lateness_limit"),
        ({"lateness_limit": 3600}, "/lateness_limit"),
        ({"retry": {"base_seconds": 9, "cap_seconds": 1}}, "/retry"),
        ({"retry": {"max_attempts": 0}}, "/retry/max_attempts"),
        ({"retry": 5}, "/retry"),
        ({"translations": []}, "/translations"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], place: str) -> None:
    assert set(errors(changes)) == {place}


def test_a_patch_changes_what_it_names_and_null_takes_away() -> None:
    before = occasion(
        html="<p>",
        group="care",
        translations={"de": {"subject": "a", "body": "b"}, "fr": {"subject": "c", "body": "d"}},
    )
    patch = OccasionPatch.model_validate(
        {"html": None, "rule": {"day": 4}, "translations": {"fr": None, "de": {"body": "B"}}}
    )
    after = patched(before, patch)
    assert (after.html, after.group, after.rule) == (
        None,
        "care",
        occasion(rule=LEAST["rule"] | {"day": 4}).rule,
    )
    assert after.model_dump()["translations"] == {"de": {"subject": "a", "body": "B", "html": None}}


def test_a_rule_of_another_kind_takes_the_place_of_the_old_one() -> None:
    patch = OccasionPatch.model_validate({"rule": {"kind": "once", "on": "2027-05-03"}})
    assert patched(occasion(), patch).rule.to_rule() == OnceRule(date(2027, 5, 3))


def test_a_patch_that_makes_no_occasion_is_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        patched(occasion(), OccasionPatch.model_validate({"name": None, "channels": []}))
    assert [each.pointer for each in occasion_errors(refused.value)] == ["/name", "/channels"]


def test_a_patch_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        OccasionPatch.model_validate({"boddy": "x"})
    assert [str(each) for each in occasion_errors(refused.value)] == [
        "/boddy: unknown field 'boddy'; did you mean 'body'?"
    ]
