import codecs
from datetime import date, time

import pytest

from scheduler.errors import InvalidInput
from scheduler.importing import MAX_ROW_BYTES
from tests.fixtures.imports import Import

HEADER = "external_id,first_name,timezone\n"


@pytest.fixture
def importing() -> Import:
    return Import()


def test_every_column_arrives_in_its_field(importing: Import) -> None:
    importing.csv(
        "external_id,first_name,last_name,email,phone,timezone,locale,preferred_time,birth_date,"
        "anniversary_date,date:name_day,city\n"
        "u1,Ada,Lovelace,ada@example.com,+442071838750,Europe/London,en_GB,07:30,1815-12-10,2020-02-29,"
        "2001-07-24,London\n"
    )
    (user,) = importing.users
    assert user.external_id == "u1"
    assert (user.first_name, user.last_name) == ("Ada", "Lovelace")
    assert (user.email, user.phone) == ("ada@example.com", "+442071838750")
    assert (user.timezone, user.locale, user.preferred_time) == ("Europe/London", "en-GB", time(7, 30))
    assert user.dates == {
        "birthday": date(1815, 12, 10),
        "anniversary": date(2020, 2, 29),
        "name_day": date(2001, 7, 24),
    }


def test_empty_cells_are_absent_values(importing: Import) -> None:
    importing.csv("external_id,first_name,timezone,email,birth_date\nu1,Ada,UTC,,\n")
    assert importing.users[0].email is None
    assert importing.users[0].dates == {}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_the_files_that_spreadsheets_write_are_read(
    importing: Import, delimiter: str, line_break: str, mark: bytes
) -> None:
    rows = [["external_id", "first_name", "timezone"], ["u1", '"Zoë, ""Z"""', "Europe/Paris"]]
    content = line_break.join(delimiter.join(row) for row in rows)
    summary = importing.csv(mark + content.encode())
    assert importing.users[0].first_name == 'Zoë, "Z"'
    assert (summary.read, summary.created) == (1, 1)


def test_columns_may_stand_in_any_order_with_spaces_around_their_names(importing: Import) -> None:
    importing.csv(" timezone , first_name,external_id \nUTC, Ada ,u1\n")
    assert importing.users[0].first_name == "Ada"


def test_rejected_rows_are_told_with_line_reason_and_owner_and_the_good_ones_kept(importing: Import) -> None:
    summary = importing.csv(
        "external_id,first_name,timezone,birth_date\n"
        "good1,Ada,UTC,1815-12-10\n"
        "bad1,,Europe/Pariss,1900-02-29\n"
        ",Grace,UTC,\n"
        "good2,Alan,UTC,1912-06-23\n"
        "unborn,Eve,UTC,2027-03-02\n"
    )
    assert importing.external_ids == ["good1", "good2"]
    assert importing.reasons == {
        3: "/first_name: is required; /timezone: unknown time zone 'Europe/Pariss'; did you mean 'Europe/Paris'?; "
        "/dates/birthday: must be a real date written YYYY-MM-DD",
        4: "/external_id: is required",
        6: "/dates/birthday: must not be in the future",
    }
    assert [row.external_id for row in importing.rejected] == ["bad1", None, "unborn"]
    assert (summary.read, summary.created, summary.updated, summary.rejected) == (5, 2, 0, 3)


def test_line_numbers_count_the_lines_of_cells_and_the_blank_ones(importing: Import) -> None:
    importing.csv(
        "external_id,first_name,timezone,note\n"
        'u1,Ada,UTC,"one\ntwo\nthree"\n'
        "\n"
        "u2,,UTC,\n"
        'u3,,UTC,"a\nb"\n'
        "u4,,UTC,\n"
    )
    assert importing.external_ids == ["u1"]
    assert sorted(importing.reasons) == [6, 7, 9]


def test_a_row_with_other_cells_than_the_header_is_rejected(importing: Import) -> None:
    importing.csv(HEADER + "u1,Ada\nu2,Alan,UTC,more\nu3,Grace,UTC\n")
    assert importing.reasons == {
        2: "has 2 cells where the header has 3",
        3: "has 4 cells where the header has 3",
    }
    assert importing.external_ids == ["u3"]


def test_a_row_in_another_encoding_is_rejected_and_reading_goes_on(importing: Import) -> None:
    importing.csv(HEADER.encode() + "u1,Zoë,UTC\n".encode("latin-1") + "u2,Zoë,UTC\n".encode())
    assert importing.reasons == {2: "must be UTF-8 text"}
    assert importing.external_ids == ["u2"]


def test_a_quoted_cell_without_an_end_costs_its_own_row_and_what_it_swallows_is_said(
    importing: Import,
) -> None:
    importing.csv(HEADER + 'u1,"Ada,UTC\nu2,Alan,UTC\n')
    assert importing.external_ids == []
    assert importing.reasons == {
        2: 'lines 2 to 3 are one row, as a quoted cell (") goes on: unexpected end of data'
    }


def test_an_endless_quoted_cell_is_given_up_at_the_size_limit(importing: Import) -> None:
    line = "u2,Alan,UTC\n"
    swallowed = MAX_ROW_BYTES // len(line)
    importing.csv(HEADER + 'u1,"Ada,UTC\n' + line * (swallowed + 2))
    assert list(importing.reasons) == [2]
    assert f"must be at most {MAX_ROW_BYTES} bytes long" in importing.reasons[2]
    assert importing.external_ids == ["u2"]


def test_a_line_above_the_size_limit_is_rejected_and_reading_goes_on(importing: Import) -> None:
    importing.csv(HEADER + "u1," + "A" * MAX_ROW_BYTES + ",UTC\nu2,Alan,UTC\n")
    assert importing.reasons == {2: f"must be at most {MAX_ROW_BYTES} bytes long"}
    assert importing.external_ids == ["u2"]


def test_text_after_a_closing_quote_is_rejected_not_guessed(importing: Import) -> None:
    importing.csv(HEADER + 'u1,"Ada"x,UTC\nu2,Alan,UTC\n')
    assert list(importing.reasons) == [2]
    assert importing.external_ids == ["u2"]


def test_a_header_alone_imports_nobody(importing: Import) -> None:
    assert importing.csv(HEADER).read == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (
            b"external_id,name,zone\nu1,Ada,UTC\n",
            "lacks the columns first_name, timezone; it has external_id, name, zone",
        ),
        (b"external_id|first_name|timezone\nu1|Ada|UTC\n", "separated by commas, semicolons or tabs"),
        (b"u1,Ada,UTC\n", "lacks the columns external_id, first_name, timezone"),
        (b"external_id,first_name,timezone,email,email\n", "names a column twice: email"),
        ("external_id,first_name,timezone\n".encode("utf-16"), "looks like UTF-16"),
        ("external_id,first_name,timezone,città\n".encode("latin-1"), "must be UTF-8 text"),
        (b'external_id,first_name,timezone,"note\nof two lines"\n', "the header cannot be read"),
        (b"external_id,first_name,timezone\ru1,Ada,UTC\r", "the header"),
        (b"external_id," + b"x" * MAX_ROW_BYTES, "the header, line 1, must be at most"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_as_a_whole(
    importing: Import, content: bytes, complaint: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        importing.csv(content)
    assert complaint in str(refusal.value)
    assert importing.batches == []
