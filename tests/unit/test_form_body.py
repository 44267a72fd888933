"""Form bodies: names and values arrive as they are, whatever is in them."""

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from scheduler.errors import ConfigurationError
from tests.fixtures.messages import outgoing
from worker.channels.form_body import compile_form_body
from worker.channels.port import OutgoingMessage
from worker.channels.request_fields import FieldReader
from worker.templates import MissingFieldError


def sent(document: str, message: OutgoingMessage) -> list[tuple[str, str]]:
    """The pairs that arrive for one message."""
    form = compile_form_body(document)
    body = form.encode(FieldReader(form.names).read(message)).decode("ascii")
    return parse_qsl(body, keep_blank_values=True, strict_parsing=True)


@pytest.mark.parametrize("value", ["a&b=c", "a+b c", "%41", "Zoë 陈 🎂", "\r\n\x00", "", "{id}"])
def test_a_value_arrives_as_it_is_and_stays_inside_its_pair(value: str) -> None:
    pairs = sent('[["To", "{address}"], ["Body", "{text}"], ["Fixed", "a&b"]]', outgoing(text=value))
    assert pairs == [("To", "ann1@example.org"), ("Body", value), ("Fixed", "a&b")]


def test_names_may_come_again_and_hold_anything() -> None:
    document = '[["tag", "{channel}"], ["tag", "{locale}"], ["v:a&b[]", "x {tag}"]]'
    assert sent(document, outgoing()) == [
        ("tag", "email"),
        ("tag", "en"),
        ("v:a&b[]", "x 7-1-20270228-0-email"),
    ]


def test_pairs_are_left_out_where_their_fields_have_no_value() -> None:
    document = '[["html?", "{html}"], ["nick?", "{nickname}"], ["html", "{html}"]]'
    assert sent(document, outgoing()) == [("html", "")]
    full = replace(outgoing(), html="<p>", fields={"nickname": "Z"})
    assert sent(document, full) == [("html", "<p>"), ("nick", "Z"), ("html", "<p>")]


def test_what_cannot_be_written() -> None:
    with pytest.raises(MissingFieldError, match="nickname"):
        sent('[["a", "{nickname}"]]', outgoing())
    with pytest.raises(UnicodeEncodeError):
        sent('[["a", "{text}"]]', outgoing(text="\ud800"))


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "[]",
        '{"a": "b"}',
        '["a"]',
        '[["a"]]',
        '[["a", 1]]',
        '[["", "x"]]',
        '[["?", "{id}"]]',
        '[["a?", "x"]]',
        '[["a", "{"]]',
        '[["a", "b", "c"]]',
    ],
)
def test_a_form_that_does_not_compile_is_a_configuration_error(document: str) -> None:
    with pytest.raises(ConfigurationError, match="form template"):
        compile_form_body(document)
