"""The preset files, the form they have, and the options of a provider held against them."""

import json
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from tests.fixtures.fake_providers import fcm, twilio
from tests.fixtures.fake_providers.building import context
from tests.fixtures.messages import Signal, outgoing
from worker.channels import presets
from worker.channels.http_options import HttpOptions
from worker.channels.options import ProviderOptions
from worker.channels.presets import PRESETS, build, load, parse
from worker.channels.presets.description import describe, describe_common
from worker.channels.presets.filling import Filling
from worker.channels.presets.options import read_options
from worker.channels.smtp import SmtpOptions
from worker.channels.webhook import WebhookOptions

SECRET = "canary-secret"
_COMPLETE: dict[str, dict[str, object]] = {
    "sendgrid": {"api_key": SecretStr(SECRET), "from_address": "hello@example.org"},
    "ses": {
        "access_key_id": "AKIA",
        "secret_access_key": SecretStr(SECRET),
        "region": "eu-central-1",
        "from_address": "hello@example.org",
    },
    "slack": {},
    "twilio": {"account_sid": twilio.ACCOUNT_SID, "auth_token": SecretStr(SECRET), "from": "+4930123456"},
    "two-field-email": {"endpoint": "https://mail.example.org"},
}


def complete(kind: str) -> dict[str, object]:
    """Options that a provider of this kind can be built with."""
    if kind == "fcm":
        return {"service_account": SecretStr(fcm.key_file("https://oauth2.googleapis.com/token"))}
    return _COMPLETE[kind]


def refusal(kind: str, options: Mapping[str, object], *, sandbox: bool = False) -> str:
    """The one line that these options are refused with."""
    with pytest.raises(ConfigurationError) as refused:
        build(ProviderEntry("main", kind, options, sandbox=sandbox), context())
    line = str(refused.value)
    assert "\n" not in line
    assert SECRET not in line
    return line


def test_every_file_is_a_preset_and_every_preset_a_file() -> None:
    folder = resources.files(presets)
    assert sorted(one.name for one in folder.iterdir() if one.name.endswith(".toml")) == [
        f"{kind}.toml" for kind in PRESETS
    ]


def test_the_files_are_installed_with_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert "*.toml" in project["tool"]["setuptools"]["package-data"]["*"]


@pytest.mark.parametrize("kind", ["common", *PRESETS])
def test_the_document_says_what_the_files_say(kind: str) -> None:
    document = (Path(__file__).parents[2] / "deploy" / "providers.md").read_text("utf-8")
    told = document.partition(f"<!-- {kind} -->\n")[2].partition(f"\n<!-- /{kind} -->")[0]
    assert told == (describe_common() if kind == "common" else describe(load(kind)))


@pytest.mark.parametrize(
    ("kind", "options"), [("smtp", SmtpOptions), ("http", HttpOptions), ("webhook", WebhookOptions)]
)
def test_the_document_names_the_options_of_the_other_kinds(kind: str, options: type[ProviderOptions]) -> None:
    document = (Path(__file__).parents[2] / "deploy" / "providers.md").read_text("utf-8")
    section = document.partition(f"\n### {kind}\n")[2].partition("\n##")[0]
    told = {
        name
        for row in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", row)
    }
    assert told == set(options.model_fields)


@pytest.mark.parametrize("kind", PRESETS)
def test_a_preset_is_built_from_its_required_options(kind: str) -> None:
    provider = build(ProviderEntry("main", kind, complete(kind)), context())
    assert provider.name == "main"
    provider.close()


@pytest.mark.parametrize("kind", PRESETS)
def test_a_sandbox_needs_nothing_and_writes_to_the_outbox(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "outbox.ndjson"
    provider = build(ProviderEntry("main", kind, sandbox=True), context(outbox_file=file))
    provider.deliver([outgoing()], Signal())
    provider.close()
    assert provider.name == "main"
    assert json.loads(file.read_text("utf-8"))["id"] == outgoing().id


@pytest.mark.parametrize("kind", PRESETS)
def test_each_required_option_is_missed_by_name_and_purpose(kind: str) -> None:
    for name, option in load(kind).options.items():
        if option.required:
            rest = {key: value for key, value in complete(kind).items() if key != name}
            line = refusal(kind, rest)
            assert line.startswith(f"provider main ({kind}): option {name} is missing: {option.meaning}")
            assert ("sandbox = true" in line) == option.secret


def test_what_can_be_given_in_several_ways_is_missed_with_all_of_them() -> None:
    line = refusal("twilio", {"account_sid": twilio.ACCOUNT_SID, "api_key": twilio.API_KEY_SID})
    assert "option api_key and api_key_secret, or auth_token is missing: the login" in line
    assert "option messaging_service_sid, or from is missing: the sender" in line


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("sendgrid", {"api_kye": "x"}, "unknown option 'api_kye'; did you mean api_key?"),
        (
            "slack",
            {"zzz": "x"},
            "unknown option 'zzz'; takes batch_timeout_seconds, certificate_authorities",
        ),
        ("sendgrid", {"from_address": ""}, "option from_address takes a text of one line, not empty"),
        ("sendgrid", {"from_name": "Ann\r\nBcc: b@example.org"}, "option from_name takes a text of one line"),
        ("sendgrid", {"from_name": 5}, "option from_name takes a text of one line"),
        (
            "sendgrid",
            {"endpoint": "http://example.org"},
            "option endpoint takes an https:// URL, or http:// to",
        ),
        ("sendgrid", {"endpoint": "https://user@example.org"}, "option endpoint takes an https:// URL"),
        ("sendgrid", {"endpoint": "https://example.org/{address}"}, "option endpoint takes an https:// URL"),
        ("twilio", {"callback_url": "https://example.org/?a=b"}, "option callback_url takes an https:// URL"),
        ("slack", {"webhook": SecretStr(f"ftp://{SECRET}")}, "option webhook takes an https:// URL"),
        ("ses", {"region": "Frankfurt"}, "option region takes a text like"),
        ("ses", {"topic_arns": "arn:aws:sns:x"}, "option topic_arns takes a list of texts"),
        (
            "sendgrid",
            {"total_timeout_seconds": 0},
            "option total_timeout_seconds takes 0.001 to 3600 seconds",
        ),
        ("sendgrid", {"total_timeout_seconds": True}, "option total_timeout_seconds takes 0.001 to 3600"),
        ("twilio", {"account_sid": "AC1"}, "option account_sid takes a text like AC"),
    ],
)
@pytest.mark.parametrize("sandbox", [False, True])
def test_an_option_that_cannot_be_is_refused(
    kind: str, options: dict[str, object], told: str, sandbox: bool
) -> None:
    assert told in refusal(kind, {**complete(kind), **options}, sandbox=sandbox)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"private_key": SECRET}, "private_key: Value error, is no private key in PEM"),
        ({"client_email": None}, "client_email"),
        ({"token_uri": "http://example.org/token"}, "token_uri"),
        ({"type": "authorized_user"}, "type"),
    ],
)
def test_a_key_file_is_looked_at_when_the_worker_starts(change: dict[str, object], told: str) -> None:
    account = {**json.loads(fcm.key_file("https://oauth2.googleapis.com/token")), **change}
    assert told in refusal("fcm", {"service_account": SecretStr(json.dumps(account))})


def test_what_is_no_key_file_at_all_is_not_shown() -> None:
    line = refusal("fcm", {"service_account": SecretStr(SECRET)})
    assert "option service_account is no service account's key file" in line


def test_all_mistakes_are_told_at_once() -> None:
    line = refusal("sendgrid", {"colour": "red"})
    assert "unknown option 'colour'" in line
    assert "option api_key is missing" in line
    assert "option from_address is missing" in line


def test_options_for_callbacks_are_taken() -> None:
    taken: dict[str, dict[str, object]] = {
        "sendgrid": {"callback_public_key": "MFkw"},
        "ses": {"topic_arns": ["arn:aws:sns:eu-central-1:1:bounces"]},
        "two-field-email": {"callback_secret": SecretStr("whsec_x")},
    }
    for kind, options in taken.items():
        read_options(load(kind), ProviderEntry("main", kind, {**complete(kind), **options}))


PRESET = """
summary = "a test"
channels = ["email"]
honours_keys = false
[options.key]
meaning = "a key"
[request]
url = ["https://example.org/${key}"]
body = '{}'
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("${key}", "${kye}", "names options that are not declared: kye"),
        ("${key}", "x", "declares options that are not used: key"),
        ("body =", "bodies =", "bodies"),
        ("body = '{}'", "body = '{}'\nform = '[]'", "either body or form"),
        ("body = '{}'", "", "either body or form"),
        ('["email"]', '["pigeon"]', "channels"),
        ('meaning = "a key"', "", "meaning"),
        (
            "body = '{}'",
            "body = '{}'\n[[rules]]\nverdict = 'maybe'\nmeaning = 'm'\ncategory = 'c'",
            "verdict",
        ),
        ("body = '{}'", "body = '{}'\naddresses = '('", "no regular expression"),
        ("body = '{}'", "body = '{}'\n[[request.forms]]\nmost_bytes = 5", "messages of any length"),
        ("[request]", "[[one_of]]\noptions=[['a'],['key']]\nmeaning='x'\n[request]", "asks for options"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(old: str, new: str, told: str) -> None:
    parse(PRESET)
    with pytest.raises(ValidationError, match=told):
        parse(PRESET.replace(old, new))


def test_a_value_stays_in_its_place() -> None:
    evil = '"}, {text} ${other} \\ / ?#&%'
    filling = Filling({"evil": evil, "endpoint": "https://example.org/base/"})
    document = filling.document('{"a": "<${evil}>", "b": ["${evil}"]}')
    braces = evil.replace("{", "{{").replace("}", "}}")
    assert document == {"a": f"<{braces}>", "b": [braces]}
    assert filling.url(["${endpoint}/send/${evil}"]) == (
        "https://example.org/base/send/%22%7D%2C%20%7Btext%7D%20%24%7Bother%7D%20%5C%20%2F%20%3F%23%26%25"
    )
    assert filling.plain("${evil}") == evil
    assert filling.pattern("${endpoint}x") == r"https://example\.org/base/x"


def test_what_names_an_option_without_a_value_is_left_out() -> None:
    filling = Filling({"here": "h"})
    source = '{"a": "${gone}", "b": {"c": "${gone}"}, "d": ["${gone}"], "e": "${here}", "f": [], "g": {"?": "{x}"}}'
    assert filling.document(source) == {"e": "h", "f": [], "g": {"?": "{x}"}}
    assert filling.pairs('[["a", "${gone}"], ["b", "${here}{text}"]]') == [["b", "h{text}"]]
    assert filling.templates({"X": "${gone}", "Y": "${here}"}) == {"Y": "h"}
    assert filling.url(["https://${gone}/", "https://x/${here}"]) == "https://x/h"
