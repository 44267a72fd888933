from datetime import timedelta

import pytest

from scheduler.domain.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", timedelta(0)),
        ("90", timedelta(seconds=90)),
        (" 90.5 ", timedelta(seconds=90.5)),
        ("PT36H", timedelta(hours=36)),
        ("pt36h", timedelta(hours=36)),
        ("P1DT12H", timedelta(hours=36)),
        ("P2W", timedelta(weeks=2)),
        ("PT1H2M3.25S", timedelta(hours=1, minutes=2, seconds=3.25)),
    ],
)
def test_durations_are_read(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "P", "PT", "P1DT", "P1M", "P1Y", "-PT1H", "-5", "1h", "01:00", "nan", "inf", "1e3", "٣", "PT1H x"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither seconds nor an ISO 8601 duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 30, "P999999999999W"])
def test_endless_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "PT0S"),
        (timedelta(hours=48), "PT48H"),
        (timedelta(minutes=90), "PT1H30M"),
        (timedelta(seconds=3.25), "PT3.25S"),
        (timedelta(hours=1, microseconds=1), "PT1H0.000001S"),
    ],
)
def test_durations_are_written_and_read_back(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text
    assert parse_duration(text) == duration


def test_a_negative_duration_is_not_written() -> None:
    with pytest.raises(ValueError, match="negative"):
        format_duration(timedelta(seconds=-1))
