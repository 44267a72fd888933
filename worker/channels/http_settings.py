"""How one HTTP provider is reached, what it is sent, and what its answers mean: plain values, checked when made.

The templates in them (URL, header values, bodies) hold `{field}`s; which ones there are, and how a member that
has no value is left out, is said in `worker/channels/request_fields.py` and `json_body.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from scheduler.errors import ConfigurationError

DEFAULT_BODY: Final = """{
    "id": "{id}", "channel": "{channel}", "to": "{address}", "subject": "{subject}", "text": "{text}"
}"""
MOST_CONCURRENCY: Final = 512
MOST_MESSAGES: Final = 1_000  # in one request
STANDARD_PORTS: Final = frozenset({80, 443})

_PRINTABLE: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")
_SIGV4: Final = re.compile(r"[a-z0-9-]+(:[a-z0-9-]+){1,3}")


class Verdict(StrEnum):
    """What an answer says about its message."""

    ACCEPTED = "accepted"
    RETRYABLE = "retryable"
    PERMANENT = "permanent"
    PROVIDER = "provider"


class WaitForm(StrEnum):
    """How a header tells when to try again."""

    RETRY_AFTER = "retry_after"
    """Seconds or a date, as RFC 9110 §10.2.3 has it."""

    EPOCH_SECONDS = "epoch_seconds"
    """The instant, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """Answers that mean `verdict`, whatever their status would mean otherwise. The first rule that fits decides.

    A rule fits an answer that meets all of its conditions:

    * `statuses`: the status is one of them; empty: any status.
    * `pointer`: what it points to (a JSON pointer, RFC 6901) in the answer is one of `values`. A token `*` stands
      for each element of an array; one that fits is enough. `""` is the answer itself, which may be plain text.
    * `header`: the value of this header is one of `values`.

    A value of `values` may hold `*` for any characters; numbers, `true` and `false` are compared as JSON writes
    them. Without `values` it is enough that there is something other than null. A rule has a pointer, a header,
    or neither.

    `category` is what a failure is counted by; None: `http_<status>`. `wait_header` names the header that a
    retryable failure takes its wait from, instead of `Retry-After`.
    """

    verdict: Verdict
    statuses: frozenset[int] = frozenset()
    pointer: str | None = None
    header: str | None = None
    values: frozenset[str] = frozenset()
    category: str | None = None
    wait_header: str | None = None
    wait_form: WaitForm = WaitForm.RETRY_AFTER

    def __post_init__(self) -> None:
        """Refuse what could never fit (ConfigurationError)."""
        if self.pointer is not None and self.header is not None:
            raise ConfigurationError("a rule looks at a pointer or at a header, not at both")
        if self.values and self.pointer is None and self.header is None:
            raise ConfigurationError(
                "a rule with values names the pointer or the header they are compared with"
            )
        if self.pointer and not self.pointer.startswith("/"):
            raise ConfigurationError(f"a JSON pointer begins with '/': {self.pointer!r}")
        if self.category is not None and not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", self.category):
            raise ConfigurationError(f"a category is a word of a-z, 0-9 and _: {self.category!r}")


@dataclass(frozen=True, slots=True)
class BatchForm:
    """How several messages go in one request.

    The string `"{messages}"` in the body, which must be there once, is replaced by an array with one `element`
    (a JSON document with fields) for each message. Other fields of the body, of the URL and of the headers are
    allowed: messages that differ in them go in different requests. A request holds at most `most` messages and
    about `most_bytes` of elements.

    Without `results` the answer as a whole holds for all its messages. With it, an answer whose status means
    accepted has an array there (JSON pointer) with one result for each message, found by the message's id, which
    is what `result_id` points to in a result, or by its position where `result_id` is None. The first of
    `result_rules` that fits a result decides, their pointers being relative to the result; their statuses are
    compared with the number that `result_status` points to. Where no rule fits, that number means what a
    status means. A message without a result, or with one that says nothing, has an unknown outcome.

    A request with several messages that is refused as a whole, permanently, is sent again in halves, for nothing
    of it was accepted: see `narrows`.
    """

    element: str
    most: int = 500
    most_bytes: int = 5_000_000
    results: str | None = None
    result_id: str | None = None
    result_status: str | None = None
    result_rules: tuple[AnswerRule, ...] = ()
    narrows: bool = True
    """False for a provider that may accept a part of a request that it answers with a permanent refusal."""

    def __post_init__(self) -> None:
        """Refuse what could never work (ConfigurationError)."""
        if not 1 <= self.most <= MOST_MESSAGES:
            raise ConfigurationError(f"batch.most got {self.most}, takes 1 to {MOST_MESSAGES}")
        if not 1_000 <= self.most_bytes <= 50_000_000:
            raise ConfigurationError(f"batch.most_bytes got {self.most_bytes}, takes 1,000 to 50,000,000")
        for name in ("results", "result_id", "result_status"):
            pointer = getattr(self, name)
            if pointer and not pointer.startswith("/"):
                raise ConfigurationError(f"batch.{name} is no JSON pointer: it begins with '/'")
        needing = self.result_rules or self.result_id is not None or self.result_status is not None
        if self.results is None and needing:
            raise ConfigurationError("batch.results is missing: it points to the results in the answer")


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where and how one HTTP provider is reached; checked when it is made (ConfigurationError).

    `url` is a template whose values are percent-encoded in its path and query, or nothing but one field
    (`{address}`), whose value is then the whole URL. `headers` are templates of values. A header whose name ends
    in `?` is left out where none of its fields has a value.

    `body` is a JSON document with fields, or, with `body_form` "form", a JSON array of `[name, value]` pairs of
    strings; names may come more than once, and end in `?` as those of headers.

    `rules` are asked first. `accepted_statuses` are those that mean "taken over" where no rule fits: add 409 for
    a provider that answers it to a key it has accepted before.

    Authentication: `basic_auth` is user and password; with `aws_sigv4` (libcurl's `provider1:provider2:region:
    service`, such as `aws:amz:eu-west-1:ses`) it is key id and secret. `token` gives the bearer token; it is asked
    once for each `deliver` and may raise `TokenUnavailable` (`worker/channels/tokens.py`).

    `guard` protects from URLs that users gave: only addresses on the public internet, the `allowed_networks`
    (CIDR) and the `allowed_ports` are connected to. `host_connections` bounds the requests in flight to one host,
    so that a slow one does not hold up the others; None: no bound.

    `signing_secrets` sign each request by the Standard Webhooks scheme. `notes_outcomes` False: outcomes say
    nothing about a provider, as each message has an endpoint of its own, and its circuit does not hear of them.

    `concurrency` is how many requests one thread has in flight. `certificate_authorities` is a file of PEM
    certificates, instead of the system's.
    """

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: str = field(default=DEFAULT_BODY, repr=False)
    concurrency: int = 64
    connect_timeout_seconds: float = 5.0
    total_timeout_seconds: float = 30.0
    batch_timeout_seconds: float = 60.0
    accepted_statuses: frozenset[int] = frozenset(range(200, 300))
    certificate_authorities: str | None = None
    body_form: Literal["json", "form"] = "json"
    batch: BatchForm | None = None
    rules: tuple[AnswerRule, ...] = ()
    basic_auth: tuple[str, str] | None = field(default=None, repr=False)
    aws_sigv4: str | None = None
    token: Callable[[], str] | None = field(default=None, repr=False)
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    guard: bool = False
    allowed_networks: tuple[str, ...] = ()
    allowed_ports: frozenset[int] = STANDARD_PORTS
    host_connections: int | None = None
    notes_outcomes: bool = True
    sends_key: bool = True
    """Whether requests carry `Idempotency-Key`; False for a provider that refuses headers it does not know."""

    def __post_init__(self) -> None:
        """Refuse numbers and combinations that could never work; templates are checked by the provider."""
        _check_range("concurrency", self.concurrency, 1, MOST_CONCURRENCY)
        for name in ("connect_timeout_seconds", "total_timeout_seconds", "batch_timeout_seconds"):
            _check_range(name, getattr(self, name), 0.001, 3600)
        if self.host_connections is not None:
            _check_range("host_connections", self.host_connections, 1, MOST_CONCURRENCY)
        if self.batch is not None and self.body_form != "json":
            raise ConfigurationError("several messages in one request take a JSON body")
        if self.aws_sigv4 is not None and not _SIGV4.fullmatch(self.aws_sigv4):
            raise ConfigurationError("aws_sigv4 takes provider1:provider2:region:service")
        if self.aws_sigv4 is not None and self.basic_auth is None:
            raise ConfigurationError("aws_sigv4 takes the key id and the secret in basic_auth")
        if self.basic_auth is not None and not _is_login(*self.basic_auth):
            raise ConfigurationError(
                "basic_auth takes a user without ':' and a password, of printable characters"
            )
        if self.token is not None and self.basic_auth is not None:
            raise ConfigurationError("a token and basic_auth would both be the Authorization header")


def _is_login(user: str, password: str) -> bool:
    """Whether they can be sent by RFC 7617 §2."""
    return all(map(_PRINTABLE.fullmatch, (user, password))) and ":" not in user


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigurationError(f"{name} got {value}, takes {least} to {most}")
