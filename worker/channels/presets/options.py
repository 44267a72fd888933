"""The options of one provider, held against its preset: all mistakes in one line, none of which shows a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from pydantic import SecretStr

from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from worker.channels.presets.schema import OneOf, Option, Preset

COMMON_OPTIONS: Final[Mapping[str, Option]] = {
    "connect_timeout_seconds": Option(
        type="seconds", default="5", meaning="longest time to connect, DNS and TLS included"
    ),
    "total_timeout_seconds": Option(type="seconds", default="30", meaning="longest time for one request"),
    "batch_timeout_seconds": Option(
        type="seconds", default="60", meaning="after so long no further request of a batch is begun"
    ),
    "certificate_authorities": Option(meaning="file of PEM certificates to trust, instead of the system's"),
}
"""What every preset takes besides its own options."""

# Nothing that could end a line of a header, or that no document can hold.
_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff\ue000]+")
_MULTILINE_SECRET: Final = re.compile(r"[^\x00\ud800-\udfff]+")
_URL: Final = re.compile(
    r"(https://[A-Za-z0-9.-]+|http://(127\.0\.0\.1|localhost|\[::1\]))(:[0-9]{1,5})?(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?"
)


def read_options(preset: Preset, entry: ProviderEntry) -> dict[str, str]:
    """The values of the entry's options by name, defaults included; lists are checked and not in it.

    Raises ConfigurationError. A sandbox needs no options; those it has are checked all the same.
    """
    declared = {**COMMON_OPTIONS, **preset.options}
    given = {name: _revealed(value) for name, value in entry.options.items()}
    problems = [problem for name, value in given.items() if (problem := _mistake(name, value, declared))]
    if not entry.sandbox:
        problems += _missing(preset, given)
    if problems:
        raise ConfigurationError(f"provider {entry.name} ({entry.kind}): {'; '.join(problems)}")
    defaults = {name: one.default for name, one in declared.items() if one.default is not None}
    texts = {name: str(value) for name, value in given.items() if not isinstance(value, list | tuple)}
    return {**defaults, **texts}


def _revealed(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _missing(preset: Preset, given: Mapping[str, object]) -> Iterator[str]:
    needs_login = False
    for name, option in preset.options.items():
        if option.required and name not in given:
            needs_login |= option.secret
            yield f"option {name} is missing: {option.meaning}"
    for one in preset.one_of:
        if not any(given.keys() >= set(group) for group in one.options):
            needs_login |= any(preset.options[name].secret for group in one.options for name in group)
            yield f"{_alternatives(one)} is missing: {one.meaning}"
    if needs_login:
        yield "or set sandbox = true, and nobody is written to"


def _alternatives(one: OneOf) -> str:
    return "option " + ", or ".join(" and ".join(group) for group in one.options)


def _mistake(name: str, value: object, declared: Mapping[str, Option]) -> str | None:
    option = declared.get(name)
    if option is None:
        close = get_close_matches(name, declared, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; takes {', '.join(sorted(declared))}"
        return f"unknown option {name!r}{hint}"
    if option.type == "list":
        is_list = isinstance(value, list | tuple) and all(isinstance(one, str) and one for one in value)
        return None if is_list else f"option {name} takes a list of texts: {option.meaning}"
    if option.type == "seconds":
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0.001 <= value <= 3600
        return None if is_number else f"option {name} takes 0.001 to 3600 seconds: {option.meaning}"
    return None if isinstance(value, str) and _fits(value, option) else f"option {name} {_taken(option)}"


def _fits(value: str, option: Option) -> bool:
    if option.type == "url":
        return _URL.fullmatch(value) is not None
    if option.choices and value not in option.choices:
        return False
    if option.pattern is not None and not re.fullmatch(option.pattern, value):
        return False
    return (_MULTILINE_SECRET if option.secret else _TEXT).fullmatch(value) is not None


def _taken(option: Option) -> str:
    """What an option takes, in words."""
    if option.type == "url":
        form = "an https:// URL, or http:// to this machine, without a query"
    elif option.choices:
        form = f"one of {', '.join(option.choices)}"
    else:
        form = f"a text like {option.pattern}" if option.pattern else "a text of one line, not empty"
    return f"takes {form}: {option.meaning}"
