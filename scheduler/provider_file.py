"""Read the file that names the providers and the channels that use them.

    [providers.main-mail]
    kind = "sendgrid"
    api_key = { env = "SENDGRID_API_KEY" }      # or { file = "secrets/sendgrid" }, from the folder of this file
    from_address = "hello@example.org"
    messages_per_second = 100
    concurrency = 64
    sandbox = false

    [channels.email]
    providers = ["main-mail", "backup-relay"]
    unknown_outcome = "resend"

All mistakes are told at once, in one line. What a kind takes as its options is for its adapter to say, which only
workers have: here a kind is any word.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from scheduler.domain.occasion import Channel
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ChannelRoute, ProviderEntry, ProviderPlan, UnknownOutcome

INBOX: Final = "inbox"
"""The kind, and the name unless the file has another use for it, of the provider of `in_app`."""

MOST_CONCURRENCY: Final = 512
LEAST_RATE: Final = 0.001
MOST_RATE: Final = 1_000_000.0

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_COMMON: Final = frozenset({"kind", "messages_per_second", "concurrency", "sandbox"})
_ROUTE_KEYS: Final = frozenset({"providers", "unknown_outcome"})
_REFERENCES: Final = ("env", "file")


def load_provider_file(path: Path, environment: Mapping[str, str]) -> ProviderPlan:
    """The plan that the file at `path` describes, with secrets from `environment` and from files.

    Raises ConfigurationError: one line that names the file and every mistake in it, and no secret.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {' '.join(str(error).split())}") from None
    reader = _Reader(path.parent, environment)
    plan = reader.plan(content)
    if reader.problems:
        raise ConfigurationError(f"{path}: {'; '.join(reader.problems)}")
    return plan


def plan_for_all(entry: ProviderEntry) -> ProviderPlan:
    """The plan without a file: one provider for every channel, but for `in_app`, whose messages go to the inbox."""
    route = ChannelRoute((entry.name,))
    return with_inbox(
        ProviderPlan({entry.name: entry}, dict.fromkeys(set(Channel) - {Channel.IN_APP}, route))
    )


def with_inbox(plan: ProviderPlan) -> ProviderPlan:
    """The plan, with the inbox for `in_app` where it has no route of its own."""
    if Channel.IN_APP in plan.routes:
        return plan
    inbox = plan.providers.get(INBOX, ProviderEntry(INBOX, INBOX))
    name = INBOX if inbox.kind == INBOX else Channel.IN_APP.value
    entry = inbox if inbox.kind == INBOX else ProviderEntry(name, INBOX)
    return ProviderPlan(
        {**plan.providers, name: entry}, {**plan.routes, Channel.IN_APP: ChannelRoute((name,))}
    )


class _Reader:
    """Turns the content of a file into a plan and keeps what is wrong with it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self.problems: list[str] = []

    def plan(self, content: Mapping[str, object]) -> ProviderPlan:
        """The plan; of use only if there are no `problems` afterwards."""
        self._refuse_unknown("", content, {"providers", "channels"})
        tables = self._tables(content, "providers")
        providers = {name: self._entry(name, table) for name, table in tables.items()}
        routes: dict[Channel, ChannelRoute] = {}
        for name, table in self._tables(content, "channels").items():
            if self._is_known(f"channels.{name}", name, [channel.value for channel in Channel], "channel"):
                routes[Channel(name)] = self._route(f"channels.{name}", table, providers)
        return with_inbox(ProviderPlan(providers, routes))

    def _entry(self, name: str, table: Mapping[str, object]) -> ProviderEntry:
        place = f"providers.{name}"
        if not _NAME.fullmatch(name):
            self._wrong(place, "a name takes up to 63 letters, digits, '-' and '_'")
        kind = table.get("kind")
        if not isinstance(kind, str) or not kind:
            self._wrong(f"{place}.kind", 'takes the kind of the provider, such as "http" or "smtp"')
        return ProviderEntry(
            name=name,
            kind=str(kind),
            options={
                key: self._value(f"{place}.{key}", value)
                for key, value in table.items()
                if key not in _COMMON
            },
            messages_per_second=self._rate(place, table.get("messages_per_second")),
            concurrency=self._concurrency(place, table.get("concurrency")),
            sandbox=self._sandbox(place, table.get("sandbox", False)),
        )

    def _route(
        self, place: str, table: Mapping[str, object], providers: Mapping[str, ProviderEntry]
    ) -> ChannelRoute:
        self._refuse_unknown(f"{place}.", table, _ROUTE_KEYS)
        names = table.get("providers")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            self._wrong(f"{place}.providers", "takes a list of the names of providers, at least one")
            names = []
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                self._wrong(f"{place}.providers", f"names {name!r} twice")
            self._is_known(f"{place}.providers", name, list(providers), "provider")
        return ChannelRoute(
            tuple(names), self._unknown_outcome(place, table.get("unknown_outcome", "resend"))
        )

    def _unknown_outcome(self, place: str, value: object) -> UnknownOutcome:
        if value not in list(UnknownOutcome):
            self._wrong(f"{place}.unknown_outcome", 'takes "resend" or "hold"')
            return UnknownOutcome.RESEND
        return UnknownOutcome(str(value))

    def _rate(self, place: str, value: object) -> float | None:
        if value is None:
            return None
        if not _is_number(value) or not LEAST_RATE <= float(str(value)) <= MOST_RATE:
            self._wrong(
                f"{place}.messages_per_second", f"takes a number from {LEAST_RATE} to {MOST_RATE:.0f}"
            )
            return None
        return float(str(value))

    def _concurrency(self, place: str, value: object) -> int | None:
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_CONCURRENCY:
            self._wrong(f"{place}.concurrency", f"takes a whole number from 1 to {MOST_CONCURRENCY}")
            return None
        return value

    def _sandbox(self, place: str, value: object) -> bool:
        if not isinstance(value, bool):
            self._wrong(f"{place}.sandbox", "takes true or false")
        return value is True

    def _value(self, place: str, value: object) -> object:
        """An option: a reference to a secret resolved, tables and lists searched for more of them."""
        if isinstance(value, list):
            return [self._value(place, each) for each in value]
        if not isinstance(value, dict):
            return value
        for source in _REFERENCES:
            if set(value) == {source}:
                return self._secret(place, source, value[source])
        return {key: self._value(f"{place}.{key}", each) for key, each in value.items()}

    def _secret(self, place: str, source: str, reference: object) -> SecretStr:
        secret = ""
        if not isinstance(reference, str) or not reference:
            self._wrong(place, f"{source} takes the name of {'a variable' if source == 'env' else 'a file'}")
        elif source == "env":
            secret = self._environment.get(reference, "")
            if not secret:
                self._wrong(place, f"the environment variable {reference} is not set")
        else:
            secret = self._file(place, self._folder / Path(reference).expanduser())
        return SecretStr(secret)

    def _file(self, place: str, path: Path) -> str:
        """What the file holds, without the line end that editors leave."""
        try:
            secret = path.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            self._wrong(
                place, f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
            )
            return ""
        if not secret:
            self._wrong(place, f"{path} is empty")
        return secret

    def _tables(self, content: Mapping[str, object], name: str) -> dict[str, Mapping[str, object]]:
        """The tables below `name`; what is none is a problem."""
        below = content.get(name, {})
        if not isinstance(below, dict):
            self._wrong(name, f"takes tables: [{name}.name]")
            return {}
        for key, value in below.items():
            if not isinstance(value, dict):
                self._wrong(f"{name}.{key}", f"takes a table: [{name}.{key}]")
        return {key: value for key, value in below.items() if isinstance(value, dict)}

    def _refuse_unknown(self, place: str, table: Mapping[str, object], known: Iterable[str]) -> None:
        for key in table:
            self._is_known(f"{place}{key}", key, sorted(known), "part of this file" if not place else "key")

    def _is_known(self, place: str, name: str, known: list[str], what: str) -> bool:
        if name in known:
            return True
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known) or 'none'}"
        self._wrong(place, f"there is no {what} {name!r}{advice}")
        return False

    def _wrong(self, place: str, problem: str) -> None:
        self.problems.append(f"{place}: {problem}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
