"""JSON bodies: what a template may say, and that no value breaks out of its string."""

import json

import pytest

from scheduler.errors import ConfigurationError
from tests.fixtures.messages import outgoing
from worker.channels.json_body import compile_json_body
from worker.templates import MissingFieldError


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
    body = compile_json_body('{"to": "{address}", "text": "a {text} b", "deep": [{"n": 1, "t": "{text}"}]}')
    sent = json.loads(body.encode(outgoing(text=value, address=value)))
    middle = f"a {value} b" if value else "a b"
    assert sent == {"to": value, "text": middle, "deep": [{"n": 1, "t": value}]}


def test_strings_without_fields_and_other_values_stay_as_they_are() -> None:
    body = compile_json_body('{"100%": "50 % {{off}}", "n": [1, 2.5, null, true], "{text}": "%s"}')
    assert json.loads(body.encode(outgoing())) == {
        "100%": "50 % {off}",
        "n": [1, 2.5, None, True],
        "{text}": "%s",
    }


def test_fields_of_the_message_can_be_named_but_never_hide_its_own() -> None:
    message = outgoing()
    message = type(message)(
        message.id, 1, message.channel, message.address, "", "", {"id": "forged", "city": "Łódź"}
    )
    body = compile_json_body('{"id": "{id}", "city": "{city}", "via": "{channel}"}')
    assert json.loads(body.encode(message)) == {"id": message.id, "city": "Łódź", "via": "email"}


@pytest.mark.parametrize("document", ['{"a": "{city}"}', '{"a": "in {city}"}'])
def test_a_field_the_message_lacks_is_named(document: str) -> None:
    with pytest.raises(MissingFieldError, match="city"):
        compile_json_body(document).encode(outgoing())


def test_a_lone_surrogate_cannot_be_sent() -> None:
    with pytest.raises(TypeError):
        compile_json_body('"{text}"').encode(outgoing(text="\ud800"))


@pytest.mark.parametrize(
    "document",
    ["", "{", '{"a": NaN}', '{"a": "{text.x}"}', '{"a": "{"}', "[" * 5000, '"\ue000daybreak field\ue000"'],
)
def test_a_body_that_does_not_compile_is_a_configuration_error(document: str) -> None:
    with pytest.raises(ConfigurationError, match="JSON body template"):
        compile_json_body(document)
