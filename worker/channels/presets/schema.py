"""What a preset file may say; read from TOML and checked, so that a mistake in one is found by its test.

`${option}` stands for an option's value and is filled in when a provider is built; where the option has none, the
member, element, form field or header that names it is left out (`filling.py`). `{field}` stands for a part of a
message and is filled in when that is sent (`worker/channels/request_fields.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from scheduler.domain.occasion import Channel
from worker.channels.http_settings import Verdict, WaitForm

OPTION: Final = re.compile(r"\$\{([a-z][a-z0-9_]*)\}")


def _is_pattern(source: str) -> str:
    try:
        re.compile(OPTION.sub("", source))
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return source


Pattern = Annotated[str, AfterValidator(_is_pattern)]


class Part(BaseModel):
    """Any part of a preset file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Option(Part):
    """One option of a provider of this kind. `callbacks`: it is used for delivery callbacks only.

    A `url` is https, or http to this machine, and has no query; a `list` is one of texts. `pattern` must match as a
    whole.
    """

    meaning: str = Field(min_length=1)
    type: Literal["text", "url", "list", "seconds"] = "text"
    required: bool = False
    secret: bool = False
    callbacks: bool = False
    default: str | None = None
    choices: tuple[str, ...] = ()
    pattern: Pattern | None = None


class OneOf(Part):
    """Sets of options, of which one at least must be given whole; `meaning` says what for."""

    options: tuple[tuple[str, ...], ...] = Field(min_length=2)
    meaning: str


class Login(Part):
    """User and password of basic authentication; key id and secret for `sigv4`."""

    user: str
    password: str


class Token(Part):
    """A bearer token for `scope`, by a Google service account's key file."""

    service_account: str
    scope: str


class Batch(Part):
    """Several messages in one request; see `BatchForm`."""

    element: str
    most: int
    most_bytes: int


class Form(Part):
    """Members that the body and each element have besides, for messages whose text and html are together at most
    `most_bytes` long in UTF-8 (None: any length). The first form that fits a message is its own.
    """

    body: str = "{}"
    element: str = "{}"
    most_bytes: int | None = None


class Request(Part):
    """What is sent where.

    Of `url` and `basic` the first is taken whose options all have values. `body` is a JSON document, `form` an array
    of pairs. A message whose address does not match `addresses` as a whole is refused without asking the provider;
    all are asked where the option `addresses_unless` has a value. `distinct_addresses`: no two messages of one
    request go to the same address.
    """

    url: tuple[str, ...] = Field(min_length=1)
    addresses: Pattern | None = None
    addresses_unless: str | None = None
    distinct_addresses: bool = False
    headers: dict[str, str] = {}
    body: str | None = None
    form: str | None = None
    basic: tuple[Login, ...] = ()
    sigv4: str | None = None
    token: Token | None = None
    batch: Batch | None = None
    forms: tuple[Form, ...] = (Form(),)

    @model_validator(mode="after")
    def _has_one_body(self) -> Request:
        if (self.body is None) == (self.form is None):
            raise ValueError("takes either body or form")
        if self.forms[-1].most_bytes is not None:
            raise ValueError("the last of the forms must take messages of any length")
        return self


class Rule(Part):
    """What an answer means, see `AnswerRule`. It is left out where the option `given` has no value.

    Without `statuses` it is about any error, 400 to 599.
    """

    verdict: Verdict
    meaning: str = Field(min_length=1)
    category: str
    given: str | None = None
    statuses: frozenset[int] = frozenset()
    pointer: str | None = None
    header: str | None = None
    values: frozenset[str] = frozenset()
    wait_header: str | None = None
    wait_form: WaitForm = WaitForm.RETRY_AFTER


class Preset(Part):
    """A whole file. `honours_keys`: the provider accepts no second message with the same Idempotency-Key."""

    summary: str = Field(min_length=1)
    channels: tuple[Channel, ...] = Field(min_length=1)
    honours_keys: bool
    options: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Option]
    one_of: tuple[OneOf, ...] = ()
    request: Request
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _names_its_options(self) -> Preset:
        """An option that is named must be declared; one that is declared must be good for something."""
        named = set(_named(self.request)) | {rule.given for rule in self.rules if rule.given}
        if self.request.addresses_unless:
            named.add(self.request.addresses_unless)
        if unknown := named - self.options.keys():
            raise ValueError(f"names options that are not declared: {', '.join(sorted(unknown))}")
        used = named | {name for name, option in self.options.items() if option.callbacks}
        if unused := self.options.keys() - used:
            raise ValueError(f"declares options that are not used: {', '.join(sorted(unused))}")
        if strange := {name for one in self.one_of for group in one.options for name in group} - named:
            raise ValueError(f"asks for options that are not used: {', '.join(sorted(strange))}")
        return self


def _named(value: object) -> Iterator[str]:
    """The options that any string within `value` names."""
    match value:
        case str():
            yield from OPTION.findall(value)
        case BaseModel():
            yield from _named([getattr(value, name) for name in type(value).model_fields])
        case dict():
            yield from _named(list(value.values()))
        case list() | tuple():
            for element in value:
                yield from _named(element)
