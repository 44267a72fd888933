"""Provider of kind `webhook`: posts each message to the URL that its user gave.

The request is JSON, `{"id", "type", "timestamp", "data": {…}}`, signed by the Standard Webhooks scheme
(`scheduler/standard_webhooks.py`); `webhook-id` is the message's id, and `timestamp` the instant of the attempt.
Members of `data` without a value are left out.

| answer | outcome |
|---|---|
| 2xx | accepted |
| 410 | failed, permanent, `endpoint_gone`: the endpoint wants no more |
| 401, 403 | failed, permanent: it is the endpoint that refuses, not a provider of ours |
| an address that is not public | failed, permanent, `forbidden_destination` |
| others | as for any provider over HTTP |

One slow endpoint holds up no other: of each host at most `host_connections` requests are in flight.

| option | takes |
|---|---|
| `secrets` | a list of secrets `whsec_…`; each request is signed with all of them, so that they can be replaced |
| `type` | the type of the event |
| `host_connections` | requests in flight to one host, at most |
| `allowed_networks` | networks (CIDR) that are allowed besides the public internet |
| `allowed_ports` | the ports that are connected to |
| `headers`, `connect_timeout_seconds`, `total_timeout_seconds`, `batch_timeout_seconds`, `certificate_authorities` | as of `http` |
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Final

import orjson
from pydantic import Field

from scheduler.clock import Clock
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from worker.channels.context import ProviderContext
from worker.channels.http import HttpProvider
from worker.channels.http_options import ConnectionOptions, Seconds, Text
from worker.channels.http_settings import AnswerRule, HttpSettings, Verdict
from worker.channels.options import parse_options
from worker.channels.port import DeliveryControl, Outcome, OutgoingMessage, Provider

ENDPOINT_GONE: Final = "endpoint_gone"

_ATTEMPTED_AT: Final = "webhook_attempted_at"
_RULES: Final = (
    AnswerRule(Verdict.PERMANENT, frozenset({410}), category=ENDPOINT_GONE),
    AnswerRule(Verdict.PERMANENT, frozenset({401, 403})),
)


class WebhookOptions(ConnectionOptions):
    """The options of kind `webhook`."""

    secrets: Annotated[tuple[Text, ...], Field(min_length=1)]
    type: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,100}$")] = "message"
    total_timeout_seconds: Seconds = 15.0
    host_connections: Annotated[int, Field(ge=1, le=64)] = 4

    def settings(self, entry: ProviderEntry) -> HttpSettings:
        """The settings they make. Raises ConfigurationError."""
        return HttpSettings(
            url="{address}",
            body=_body(self.type),
            rules=_RULES,
            signing_secrets=self.secrets,
            guard=True,
            host_connections=self.host_connections,
            notes_outcomes=False,
            **self.connection(entry),
        )


class WebhookProvider:
    """Posts messages to the endpoints of their users."""

    def __init__(self, http: HttpProvider, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self.close = http.close

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._http.name

    def pauses_until(self) -> datetime | None:
        """It takes messages at any time."""
        return None

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """See the port. The circuit hears of nothing: each message has an endpoint of its own."""
        at = self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        stamped = [replace(message, fields={**message.fields, _ATTEMPTED_AT: at}) for message in messages]
        return self._http.deliver(stamped, control)


def build(entry: ProviderEntry, context: ProviderContext) -> Provider:
    """The provider that an entry of kind `webhook` describes; nothing is connected. Raises ConfigurationError."""
    options = parse_options(WebhookOptions, entry)
    try:
        http = HttpProvider(options.settings(entry), context.clock, context.slots)
    except ConfigurationError as error:
        raise ConfigurationError(f"provider {entry.name} ({entry.kind}): {error}") from None
    return WebhookProvider(http, context.clock)


def _body(event_type: str) -> str:
    always = {name: f"{{{name}}}" for name in ("channel", "text", "locale")}
    optional = ("occasion", "local_date", "external_id", "subject", "html", "unsubscribe_url")
    data = {**always, **{f"{name}?": f"{{{name}}}" for name in optional}}
    document = {"id": "{id}", "type": event_type, "timestamp": f"{{{_ATTEMPTED_AT}}}", "data": data}
    return orjson.dumps(document).decode()
