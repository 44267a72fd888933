import codecs
import json
from datetime import date

import pytest

from scheduler.errors import InvalidInput
from scheduler.importing import MAX_ROW_BYTES
from tests.fixtures.imports import Import


@pytest.fixture
def importing() -> Import:
    return Import()


def line(external_id: str, **fields: object) -> str:
    return json.dumps({"external_id": external_id, "first_name": "Ada", "timezone": "UTC"} | fields) + "\n"


def test_a_line_is_a_user(importing: Import) -> None:
    summary = importing.ndjson(
        line("u1", dates={"birthday": "2000-02-29"}, attributes={"plan": "gold", "visits": 3})
    )
    (user,) = importing.users
    assert user.dates == {"birthday": date(2000, 2, 29)}
    assert user.attributes == {"plan": "gold", "visits": 3}
    assert (summary.read, summary.created) == (1, 1)


def test_rejected_lines_are_told_and_the_good_ones_kept(importing: Import) -> None:
    importing.ndjson(
        line("u1")
        + "\n"
        + line("u2", timezone="Mars/Olympus", brithday="2000-01-01")
        + '{"external_id": "u3", \n'
        + "[1]\n"
        + line("u4", dates={"birthday": "2027-03-02"})
        + line("u5")
    )
    assert importing.external_ids == ["u1", "u5"]
    assert sorted(importing.reasons) == [3, 4, 5, 6]
    assert "unknown field 'brithday'" in importing.reasons[3]
    assert importing.reasons[4].startswith("Invalid JSON")
    assert importing.reasons[5] == "must be an object"
    assert importing.reasons[6] == "/dates/birthday: must not be in the future"
    assert [row.external_id for row in importing.rejected] == ["u2", None, None, "u4"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"external_id": "u1", "first_name": "Zo\xeb", "timezone": "UTC"}',
        b'{"external_id": "u1", "first_name": "\\ud800", "timezone": "UTC"}',
        b'{"external_id": "u1", "first_name": "\\u0000", "timezone": "UTC"}',
        b'{"external_id": "u1", "first_name": "Ada", "timezone": "UTC", "attributes": {"n": NaN}}',
        b'{"external_id": "u1", "first_name": "Ada", "timezone": "UTC", "attributes": {"n": 1e999}}',
        b'{"external_id": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"external_id": "' + b"x" * MAX_ROW_BYTES + b'"}',
    ],
)
def test_what_a_database_or_a_reader_would_choke_on_is_rejected(importing: Import, content: bytes) -> None:
    importing.ndjson(line("before").encode() + content + b"\n" + line("after").encode())
    assert importing.external_ids == ["before", "after"]
    assert list(importing.reasons) == [2]


def test_a_byte_order_mark_is_passed_over(importing: Import) -> None:
    importing.ndjson(codecs.BOM_UTF8 + line("u1").encode())
    assert importing.external_ids == ["u1"]


@pytest.mark.parametrize("content", ["[\n{}]\n", "external_id,first_name\n", '\n"text"\n'])
def test_a_file_of_another_form_is_refused_as_a_whole(importing: Import, content: str) -> None:
    with pytest.raises(InvalidInput, match="not NDJSON"):
        importing.ndjson(content)


def test_an_empty_file_has_nobody(importing: Import) -> None:
    assert importing.ndjson(b"").read == 0
