"""Rows that are checked column by column come out as those that are checked one by one."""

from itertools import product

import pytest

from scheduler.domain.mailbox import are_plain, check_mailbox
from scheduler.importing import columns
from tests.fixtures.imports import Import

VALUES = {
    "external_id": ("u{n}", " u{n} ", "", "a" * 201, "tab\there", "same", "\\N", "sép{n}"),
    "first_name": ("Ada", " Zoë\u00a0", "", "a" * 101, "\u2028", "\ufeffx", '"Ann, B."', '"A ""B"""'),
    "last_name": ("", "Lovelace", "x" * 100, "x" * 101, "a\x00b", "\u00ad"),
    "email": (
        *("", "a@example.org", "A.b+c@sub.example.co", "a..b@example.org", ".a@example.org", "a@x.test"),
        *(
            "a b@example.org",
            "@example.org",
            "a@b@example.org",
            "ü@exämple.org",
            "a" * 65 + "@example.org",
            "a@b",
        ),
        *("a@" + "b" * 63 + ".org", "a@" + "b" * 64 + ".org", "a@exa--mple.org", "example.org"),
    ),
    "phone": ("", "+442071838750", "+1", "0800"),
    "push_token": ("", "abc", "a b"),
    "webhook_url": (
        "",
        "https://example.org/a",
        "ftp://example.org",
        "https://user@example.org",
        "https://[x",
    ),
    "timezone": ("UTC", "Europe/Berlin", "Mars", "", " UTC"),
    "locale": ("", "pt_BR", "de", "x"),
    "preferred_time": ("", "07:30", "24:00", "7:30"),
    "birth_date": ("", "1990-03-02", "2027-02-28", "2027-03-01", "2027-03-02", "1990-02-30", "today"),
    "date:name_day": ("", "2030-01-01", "0001-01-01", "99-01-01"),
    "attributes": ("", '"{""a"": 1}"', "[]"),
}
RIGHT = {name: values[0] or "" for name, values in VALUES.items()}


def rows() -> list[str]:
    found = [
        RIGHT | {"external_id": f"{name}{place}"} | {name: value}
        for name, values in VALUES.items()
        for place, value in enumerate(values)
    ]
    found += [
        RIGHT | {"external_id": "both", "email": email, "birth_date": day}
        for email, day in product(VALUES["email"][:4], VALUES["birth_date"])
    ]
    return [
        ",".join(row.values()).format(n=number) if "{n}" in str(row) else ",".join(row.values())
        for number, row in enumerate(found)
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "extra", [[], ["", "u,too,short"], ['"open', 'x,"y"z'], ['q,"two\nlines"' + "," * 11]]
)
def test_columns_and_rows_agree(monkeypatch: pytest.MonkeyPatch, end: str, extra: list[str]) -> None:
    lines = [",".join(VALUES), *rows(), *extra, ",".join(RIGHT.values())]
    for some in (lines, [line for line in lines if '"' not in line]):
        content = end.join(some)
        by_column, by_row = Import(), Import()
        summary = by_column.csv(content)
        with monkeypatch.context() as slow:
            slow.setattr(columns.Table, "read", lambda *_: None)
            assert by_row.csv(content) == summary
        assert by_column.rejected == by_row.rejected
        assert by_column.users == by_row.users
        assert len(by_column.users) > 20


@pytest.mark.parametrize("address", [each for each in VALUES["email"] if each])
def test_plain_addresses_are_right_ones_alone_and_among_others(address: str) -> None:
    if are_plain([address]):
        assert check_mailbox(address) == address
    assert are_plain(["b@example.org", address, "c.d@example.org"]) == are_plain([address])


def test_a_header_with_two_columns_for_one_date_is_read_row_by_row() -> None:
    importing = Import()
    importing.csv("external_id,first_name,timezone,birth_date,birthday\nu1,Ada,UTC,1990-01-01,1991-01-01\n")
    assert importing.users[0].dates["birthday"].year == 1991
