"""JSON bodies: what a template may say, and that no value breaks out of its string."""

import json
from dataclasses import replace

import orjson
import pytest

from scheduler.errors import ConfigurationError
from tests.fixtures.messages import outgoing
from worker.channels.json_body import MOST_OPTIONAL_FIELDS, compile_json_body
from worker.channels.port import OutgoingMessage
from worker.channels.request_fields import FieldReader
from worker.templates import MissingFieldError


def encoded(document: str, message: OutgoingMessage) -> bytes:
    """The body for one message."""
    body = compile_json_body(document)
    return body.encode(FieldReader(body.names).read(message))


@pytest.mark.parametrize(
    "value",
    [
        '"',
        "\\",
        '","admin":true,"x":"',
        "{address}",
        "%b %s %",
        "\u2028\x00\x1f\n",
        "Zoë 陈 🎂",
        "",
        "\ue000",
    ],
)
def test_a_value_arrives_as_it_is_and_stays_inside_its_string(value: str) -> None:
    body = '{"to": "{address}", "text": "a {text} b", "deep": [{"n": 1, "t": "{text}"}]}'
    sent = json.loads(encoded(body, outgoing(text=value, address=value)))
    middle = f"a {value} b" if value else "a b"
    assert sent == {"to": value, "text": middle, "deep": [{"n": 1, "t": value}]}


def test_strings_without_fields_and_other_values_stay_as_they_are() -> None:
    body = '{"100%": "50 % {{off}}", "n": [1, 2.5, null, true], "{text}": "%s"}'
    assert json.loads(encoded(body, outgoing())) == {
        "100%": "50 % {off}",
        "n": [1, 2.5, None, True],
        "{text}": "%s",
    }


def test_fields_of_the_message_can_be_named_but_never_hide_its_own() -> None:
    message = replace(outgoing(), subject="", text="", fields={"id": "forged", "city": "Łódź"})
    body = '{"id": "{id}", "city": "{city}", "via": "{channel}"}'
    assert json.loads(encoded(body, message)) == {"id": message.id, "city": "Łódź", "via": "email"}


def test_all_the_fields_of_a_message_can_be_sent_as_an_object() -> None:
    fields = {"first_name": 'Zo"ë', "last_name": ""}
    body = compile_json_body('{"data": "{fields}", "to": "{address}"}')
    sent = body.encode({"address": "a"}, {"fields": orjson.Fragment(orjson.dumps(fields))})
    assert json.loads(sent) == {"data": fields, "to": "a"}
    assert body.places == ("fields",)
    assert body.names == {"address"}


def test_what_every_message_has() -> None:
    message = replace(outgoing(), html="<p>", locale="de-AT", unsubscribe_url="https://a.example/u")
    body = '["{id}", "{tag}", "{html}", "{locale}", "{unsubscribe_url}", "{subject}", "{channel}"]'
    assert json.loads(encoded(body, message)) == [
        "7.1.20270228.0.email",
        "7-1-20270228-0-email",
        "<p>",
        "de-AT",
        "https://a.example/u",
        message.subject,
        "email",
    ]
    assert json.loads(encoded('["{html}", "{unsubscribe_url}"]', outgoing())) == ["", ""]


OPTIONAL = """{
    "html?": "{html}", "text": "{text}", "empty": "{html}",
    "link?": "<{unsubscribe_url}>",
    "name?": {"first": "{first_name}", "last": "{last_name}"},
    "nick?": "{nickname}",
    "parts": [{"type": "text", "value": "{text}"}, {"?": "{html}", "type": "html", "value": "{html}"}],
    "member": {"?": "{html}", "x": 1}
}"""


def test_members_are_left_out_where_their_fields_have_no_value() -> None:
    full = replace(
        outgoing(text="t"), html="<p>", unsubscribe_url="u", fields={"first_name": "", "last_name": "b"}
    )
    assert json.loads(encoded(OPTIONAL, full)) == {
        "html": "<p>",
        "text": "t",
        "empty": "<p>",
        "link": "<u>",
        "name": {"first": "", "last": "b"},
        "parts": [{"type": "text", "value": "t"}, {"type": "html", "value": "<p>"}],
        "member": {"x": 1},
    }
    bare = replace(outgoing(text="t"), html=None, fields={})
    assert json.loads(encoded(OPTIONAL, bare)) == {
        "text": "t",
        "empty": "",
        "parts": [{"type": "text", "value": "t"}],
    }


def test_of_several_fields_in_a_member_one_with_a_value_is_enough_but_all_must_be_there() -> None:
    body = '{"name?": "{first_name} {nickname}"}'
    assert json.loads(encoded(body, replace(outgoing(), fields={"first_name": ""}))) == {}
    assert json.loads(encoded(body, replace(outgoing(), fields={"first_name": "Ann", "nickname": ""}))) == {
        "name": "Ann"
    }
    with pytest.raises(MissingFieldError, match="nickname"):
        encoded(body, replace(outgoing(), fields={"first_name": "Ann"}))


@pytest.mark.parametrize("document", ['{"a": "{city}"}', '{"a": "in {city}"}'])
def test_a_field_the_message_lacks_is_named(document: str) -> None:
    with pytest.raises(MissingFieldError, match="city"):
        encoded(document, outgoing())


def test_a_lone_surrogate_cannot_be_sent() -> None:
    with pytest.raises(TypeError):
        encoded('"{text}"', outgoing(text="\ud800"))


@pytest.mark.parametrize(
    "document",
    [
        '{"a?": "b"}',
        '{"a": {"?": "b", "c": 1}}',
        '{"?": "{html}", "a": 1}',
        "",
        "{",
        '{"a": NaN}',
        '{"a": "{text.x}"}',
        '{"a": "{"}',
        "[" * 5000,
        '"\ue000daybreak field\ue000"',
    ],
)
def test_a_body_that_does_not_compile_is_a_configuration_error(document: str) -> None:
    with pytest.raises(ConfigurationError, match="JSON body template"):
        compile_json_body(document)


def test_what_depends_on_too_many_fields_is_refused() -> None:
    members = {f"m{number}?": f"{{f{number}}}" for number in range(MOST_OPTIONAL_FIELDS + 1)}
    with pytest.raises(ConfigurationError, match="more than"):
        compile_json_body(json.dumps(members))
