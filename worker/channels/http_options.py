"""The options of a provider of kind `http`, as the providers file has them, and the provider they make.

| option | takes |
|---|---|
| `url` | where requests go, with `{field}`s in path and query, or one field alone |
| `headers` | a table of names and values with fields |
| `body` | a JSON document with fields: as text, or as a table |
| `form` | instead of `body`: a list of `[name, value]` pairs, for a form |
| `batch` | a table: many messages in one request, see `BatchForm` |
| `rules` | a list of tables: what answers mean, see `AnswerRule` |
| `accepted_statuses` | a list of statuses such as `202` or `"2xx"` that mean accepted |
| `basic_auth` | a list of user and password |
| `bearer_token` | a lasting token |
| `aws_sigv4` | `provider1:provider2:region:service`, with key id and secret in `basic_auth` |
| `signing_secrets` | a list of Standard Webhooks secrets (`whsec_…`) that requests are signed with |
| `connect_timeout_seconds`, `total_timeout_seconds`, `batch_timeout_seconds` | seconds |
| `certificate_authorities` | a file of PEM certificates, instead of the system's |
| `guard`, `allowed_networks`, `allowed_ports`, `host_connections` | for URLs that users gave, see `HttpSettings` |
| `sends_key` | false: without the header `Idempotency-Key` |
| `callback_secret` | with which this provider signs its callbacks; read where those are received |

Texts that come from `{ env = … }` or `{ file = … }` hold no fields: their braces stand for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BeforeValidator, Field, SecretStr

from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from worker.channels.context import ProviderContext
from worker.channels.http import HttpProvider
from worker.channels.http_settings import (
    DEFAULT_BODY,
    MOST_CONCURRENCY,
    STANDARD_PORTS,
    AnswerRule,
    BatchForm,
    HttpSettings,
    Verdict,
    WaitForm,
)
from worker.channels.options import ProviderOptions, parse_options
from worker.channels.port import Provider

DEFAULT_CONCURRENCY: Final = 64


def reveal(value: object) -> object:
    """A secret as the text it is."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _as_template(value: object) -> object:
    """A secret as a template of nothing but itself."""
    if isinstance(value, SecretStr):
        return value.get_secret_value().replace("{", "{{").replace("}", "}}")
    return value


def _as_document(value: object) -> object:
    """A JSON document as text; a table or list is written as one."""
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else reveal(value)


def _as_statuses(values: object) -> object:
    """Statuses and classes of them, such as `"2xx"`, as statuses."""
    if not isinstance(values, list):
        return values
    return frozenset(status for value in values for status in _statuses(value))


def _statuses(value: object) -> Iterable[int]:
    if isinstance(value, int) and 200 <= value <= 599:
        return (value,)
    if isinstance(value, str) and re.fullmatch(r"[2-5]xx", value):
        return range(int(value[0]) * 100, int(value[0]) * 100 + 100)
    raise ValueError('takes statuses from 200 to 599, and "2xx" to "5xx"')


Text = Annotated[str, BeforeValidator(reveal)]
Templated = Annotated[str, BeforeValidator(_as_template)]
Document = Annotated[str, BeforeValidator(_as_document)]
Statuses = Annotated[frozenset[int], BeforeValidator(_as_statuses)]
Seconds = Annotated[float, Field(ge=0.001, le=3600)]


class RuleOptions(ProviderOptions):
    """See `AnswerRule`."""

    verdict: Verdict
    statuses: Statuses = frozenset()
    pointer: str | None = None
    header: str | None = None
    values: frozenset[str] = frozenset()
    category: str | None = None
    wait_header: str | None = None
    wait_form: WaitForm = WaitForm.RETRY_AFTER

    def rule(self) -> AnswerRule:
        """The rule. Raises ConfigurationError."""
        return AnswerRule(**self.model_dump())


class BatchOptions(ProviderOptions):
    """See `BatchForm`."""

    element: Document
    most: int = 500
    most_bytes: int = 5_000_000
    results: str | None = None
    result_id: str | None = None
    result_status: str | None = None
    result_rules: tuple[RuleOptions, ...] = ()
    narrows: bool = True

    def form(self) -> BatchForm:
        """The form. Raises ConfigurationError."""
        rules = tuple(rule.rule() for rule in self.result_rules)
        return BatchForm(**{**self.model_dump(), "result_rules": rules})


class ConnectionOptions(ProviderOptions):
    """What all providers over HTTP take."""

    headers: dict[str, Templated] = Field(default_factory=dict)
    connect_timeout_seconds: Seconds = 5.0
    total_timeout_seconds: Seconds = 30.0
    batch_timeout_seconds: Seconds = 60.0
    certificate_authorities: str | None = None
    allowed_networks: tuple[str, ...] = ()
    allowed_ports: frozenset[int] = STANDARD_PORTS

    def connection(self, entry: ProviderEntry) -> dict[str, Any]:
        """These options as arguments of `HttpSettings`."""
        given = {name: getattr(self, name) for name in ConnectionOptions.model_fields}
        concurrency = min(entry.concurrency or DEFAULT_CONCURRENCY, MOST_CONCURRENCY)
        return {**given, "name": entry.name, "concurrency": concurrency}


class HttpOptions(ConnectionOptions):
    """The options of kind `http`."""

    url: Templated
    body: Document | None = None
    form: tuple[tuple[str, Templated], ...] | None = None
    batch: BatchOptions | None = None
    rules: tuple[RuleOptions, ...] = ()
    accepted_statuses: Statuses = frozenset(range(200, 300))
    basic_auth: tuple[Text, Text] | None = None
    bearer_token: Annotated[Text | None, Field(pattern=r"^[!-~]+$")] = None
    aws_sigv4: str | None = None
    signing_secrets: tuple[Text, ...] = ()
    guard: bool = False
    host_connections: int | None = None
    sends_key: bool = True
    callback_secret: Any = None

    def settings(self, entry: ProviderEntry) -> HttpSettings:
        """The settings they make. Raises ConfigurationError."""
        if self.form is not None and self.body is not None:
            raise ConfigurationError("a request has a body or a form, not both")
        body = orjson.dumps(self.form).decode() if self.form is not None else self.body or DEFAULT_BODY
        body_form: Literal["json", "form"] = "json" if self.form is None else "form"
        same = ("accepted_statuses", "basic_auth", "aws_sigv4", "signing_secrets", "guard")
        given = {name: getattr(self, name) for name in (*same, "host_connections", "sends_key")}
        token = self.bearer_token
        return HttpSettings(
            url=self.url,
            body=body,
            body_form=body_form,
            batch=self.batch.form() if self.batch else None,
            rules=tuple(rule.rule() for rule in self.rules),
            token=None if token is None else lambda: token,
            **self.connection(entry),
            **given,
        )


def build(entry: ProviderEntry, context: ProviderContext) -> Provider:
    """The provider that an entry of kind `http` describes; nothing is connected.

    Raises ConfigurationError: one line that names the provider and what is wrong, and no secret.
    """
    options = parse_options(HttpOptions, entry)
    try:
        return HttpProvider(options.settings(entry), context.clock, context.slots)
    except ConfigurationError as error:
        raise ConfigurationError(f"provider {entry.name} ({entry.kind}): {error}") from None
