"""Slips that a newcomer made: each is told, or needs no telling any more."""

import pytest

from scheduler.domain.user_row import UserRows
from scheduler.errors import ConfigurationError
from scheduler.settings import load_settings


@pytest.mark.parametrize("column", ["birth_date", "birthday"])
def test_a_birthday_may_be_called_as_the_api_calls_it(column: str) -> None:
    rows = UserRows(["external_id", column])
    assert rows.user(["ann", "1990-03-01"])["dates"] == {"birthday": "1990-03-01"}
    assert rows.ignored == []


def test_a_column_nobody_reads_is_known_as_such() -> None:
    assert UserRows(["external_id", "shoe_size", ""]).ignored == ["shoe_size"]


def test_a_body_with_a_field_that_no_message_has_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_HTTP_BODY", '{"to": "{adress}"}')
    with pytest.raises(ConfigurationError, match=r"DAYBREAK_HTTP_BODY: .*\{address\}"):
        load_settings(env_file=None)


def test_braces_that_are_meant_as_such_are_no_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_HTTP_BODY", '{"to": "{address}", "note": "{{kept}}"}')
    assert "{{kept}}" in load_settings(env_file=None).http_body


@pytest.mark.parametrize(("variable", "value"), [("LATENESS_LIMIT", "25"), ("HORIZON", "48")])
def test_hours_given_as_seconds_are_refused(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DAYBREAK_{variable}", value)
    with pytest.raises(ConfigurationError, match=f"DAYBREAK_{variable}: got '{value}'"):
        load_settings(env_file=None)
