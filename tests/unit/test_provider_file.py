"""The file of providers: what it says, and what is said about its mistakes."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from scheduler.domain.occasion import Channel
from scheduler.errors import ConfigurationError
from scheduler.provider_file import load_provider_file
from scheduler.provider_settings import ChannelRoute, ProviderEntry, ProviderPlan, UnknownOutcome
from scheduler.settings import Settings, load_settings

WHOLE = """
[providers.main-mail]
kind = "sendgrid"
api_key = { env = "SENDGRID_API_KEY" }
from_address = "hello@example.org"
messages_per_second = 100
concurrency = 64

[providers.relay]
kind = "smtp"
password = { file = "secrets/relay" }
headers = { Authorization = { env = "SENDGRID_API_KEY" }, X-Kind = "a" }
sandbox = true

[channels.email]
providers = ["main-mail", "relay"]
unknown_outcome = "hold"
[channels.sms]
providers = ["relay"]
"""
ONE = '[providers.a]\nkind = "outbox"\n'
ROUTED = f'{ONE}[channels.email]\nproviders = ["a"]\n'
INBOX = ProviderEntry("inbox", "inbox")


def load(tmp_path: Path, text: str, environment: Mapping[str, str] | None = None) -> ProviderPlan:
    file = tmp_path / "providers.toml"
    file.write_text(text)
    return load_provider_file(file, environment or {})


def complaint(tmp_path: Path, text: str, environment: Mapping[str, str] | None = None) -> str:
    """What is said about a file, without its name."""
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, text, environment)
    line = str(raised.value)
    assert "\n" not in line
    return line.removeprefix(f"{tmp_path / 'providers.toml'}").removeprefix(": ").strip()


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "relay").write_text("canary-2\n")
    plan = load(tmp_path, WHOLE, {"SENDGRID_API_KEY": "canary-1"})
    main, relay = plan.providers["main-mail"], plan.providers["relay"]
    assert main == ProviderEntry(
        "main-mail",
        "sendgrid",
        {"api_key": SecretStr("canary-1"), "from_address": "hello@example.org"},
        messages_per_second=100.0,
        concurrency=64,
    )
    assert relay.options["password"] == SecretStr("canary-2")
    assert relay.options["headers"] == {"Authorization": SecretStr("canary-1"), "X-Kind": "a"}
    assert (relay.sandbox, relay.messages_per_second, relay.concurrency) == (True, None, None)
    assert plan.routes == {
        Channel.EMAIL: ChannelRoute(("main-mail", "relay"), UnknownOutcome.HOLD),
        Channel.SMS: ChannelRoute(("relay",)),
        Channel.IN_APP: ChannelRoute(("inbox",)),
    }
    assert "canary" not in repr(plan)


def test_in_app_goes_to_the_inbox_unless_it_is_routed(tmp_path: Path) -> None:
    assert load(tmp_path, ROUTED).providers["inbox"] == INBOX
    routed = load(tmp_path, f'{ONE}[channels.in_app]\nproviders = ["a"]')
    assert routed.routes == {Channel.IN_APP: ChannelRoute(("a",))}
    taken = load(tmp_path, '[providers.inbox]\nkind = "http"\n[channels.push]\nproviders = ["inbox"]')
    assert taken.routes[Channel.IN_APP] == ChannelRoute(("in_app",))
    assert taken.providers["in_app"].kind == "inbox"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("[providers", "is not TOML: "),
        ("[provider.a]", "provider: there is no part of this file 'provider'; did you mean 'providers'?"),
        ("providers = 1", "providers: takes tables: [providers.name]"),
        ("[providers]\na = 1", "providers.a: takes a table: [providers.a]"),
        ("[providers.a]", 'providers.a.kind: takes the kind of the provider, such as "http" or "smtp"'),
        ('[providers."a b"]\nkind = "outbox"', "providers.a b: a name takes up to 63 letters, digits, "),
        (f"{ONE}sandbox = 1", "providers.a.sandbox: takes true or false"),
        (f"{ONE}concurrency = 0", "providers.a.concurrency: takes a whole number from 1 to 512"),
        (f"{ONE}concurrency = true", "providers.a.concurrency: takes a whole number from 1 to 512"),
        (f"{ONE}messages_per_second = nan", "providers.a.messages_per_second: takes a number from 0.001 to "),
        (f'{ONE}messages_per_second = "5"', "providers.a.messages_per_second: takes a number from 0.001 to "),
        (f'{ONE}key = {{ env = "NONE" }}', "providers.a.key: the environment variable NONE is not set"),
        (f"{ONE}key = {{ env = 1 }}", "providers.a.key: env takes the name of a variable"),
        (
            f'{ONE}keys = [{{ file = "gone" }}]',
            re.compile("^providers.a.keys: .*gone cannot be read: No such "),
        ),
        (
            f"{ONE}[channels.emial]\nproviders = ['a']",
            "channels.emial: there is no channel 'emial'; did you ",
        ),
        (f"{ONE}[channels.email]\nproviders = ['b']", "channels.email.providers: there is no provider 'b'; "),
        (f"{ONE}[channels.email]\nproviders = ['a', 'a']", "channels.email.providers: names 'a' twice"),
        (f"{ONE}[channels.email]\nproviders = []", "channels.email.providers: takes a list of the names of "),
        (
            f"{ONE}[channels.email]\nproviders = 'a'",
            "channels.email.providers: takes a list of the names of ",
        ),
        (f"{ROUTED}unknown_outcome = 'lose'", 'channels.email.unknown_outcome: takes "resend" or "hold"'),
        (f"{ROUTED}provider = 'a'", "channels.email.provider: there is no key 'provider'; did you mean 'pro"),
    ],
)
def test_a_mistake_is_answered_with_one_line(
    tmp_path: Path, text: str, expected: str | re.Pattern[str] | None
) -> None:
    if expected is None:
        assert load(tmp_path, text).routes == {Channel.IN_APP: ChannelRoute(("inbox",))}
        return
    line = complaint(tmp_path, text)
    assert expected.search(line) if isinstance(expected, re.Pattern) else line.startswith(expected), line
    assert "; " not in line.replace("; did you", "").replace("; there are", "")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    line = complaint(
        tmp_path, "[providers.a]\nsandbox = 1\n[channels.emial]\n[channels.sms]\nproviders = ['b']"
    )
    assert [part.split(": ")[0] for part in line.split("; ") if part.startswith(("prov", "chan"))] == [
        "providers.a.kind",
        "providers.a.sandbox",
        "channels.emial",
        "channels.sms.providers",
    ]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.toml cannot be read: No such file"):
        load_provider_file(tmp_path / "gone.toml", {})


def test_an_empty_secret_is_none(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    line = complaint(tmp_path, f'{ONE}key = {{ file = "secret" }}\nother = {{ env = "E" }}', {"E": ""})
    assert line == (
        f"providers.a.key: {tmp_path / 'secret'} is empty; providers.a.other: the environment variable E is not set"
    )


def test_settings_read_the_file_with_the_environment_and_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "providers.toml").write_text(
        f'{ONE}key = {{ env = "FROM_OUTSIDE" }}\nother = {{ env = "FROM_FILE" }}\n'
    )
    (tmp_path / ".env").write_text("FROM_FILE=two\nDAYBREAK_PROVIDERS_FILE=providers.toml\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROM_OUTSIDE", "one")
    plan = load_settings().provider_plan
    assert plan.providers["a"].options == {"key": SecretStr("one"), "other": SecretStr("two")}


def test_settings_with_a_broken_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAYBREAK_PROVIDERS_FILE", "gone.toml")
    with pytest.raises(ConfigurationError, match=r"gone\.toml cannot be read"):
        load_settings()


def test_without_a_file_the_settings_provider_takes_all_channels_but_the_inbox() -> None:
    settings = Settings(
        provider="http", http_url="https://example.org/", http_headers={"Authorization": SecretStr("canary")}
    )
    plan = settings.provider_plan
    assert set(plan.providers) == {"http", "inbox"}
    assert plan.providers["http"].concurrency == settings.http_concurrency
    assert {channel: route.providers for channel, route in plan.routes.items()} == {
        **dict.fromkeys(Channel, ("http",)),
        Channel.IN_APP: ("inbox",),
    }
    assert Settings().provider_plan.providers == {"outbox": ProviderEntry("outbox", "outbox"), "inbox": INBOX}
