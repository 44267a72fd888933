"""A preset in words: the tables of `deploy/providers.md`, which a test holds against the files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from worker.channels.presets.options import COMMON_OPTIONS
from worker.channels.presets.schema import Option, Preset, Rule

_OTHERWISE: Final = (
    "2xx: accepted; 408, 425, 429, 5xx: retryable; 401, 403: the provider's; any other: permanent"
)


def describe(preset: Preset) -> str:
    """Markdown: what it is for, its options, and what its answers are taken for."""
    return "\n".join(
        [
            preset.summary,
            "",
            f"Channels: {', '.join(f'`{channel}`' for channel in preset.channels)}. {_keys(preset)}",
            "",
            *_options(preset.options),
            "",
            *_needs(preset),
            *_rules(preset.rules),
        ]
    ).rstrip()


def describe_common() -> str:
    """Markdown: the options that every preset takes."""
    return "\n".join(_options(COMMON_OPTIONS))


def _keys(preset: Preset) -> str:
    if preset.honours_keys:
        return 'Honours `Idempotency-Key`: leave `unknown_outcome` at "resend".'
    return (
        "Knows no idempotency keys: what is sent again after an unknown outcome may arrive twice; "
        '`unknown_outcome = "hold"` leaves that to a person.'
    )


def _options(options: Mapping[str, Option]) -> Iterator[str]:
    yield "| option | | meaning |"
    yield "|---|---|---|"
    for name, option in options.items():
        yield f"| `{name}` | {_traits(option)} | {option.meaning} |"


def _traits(option: Option) -> str:
    traits = [
        "required" if option.required else "",
        "secret" if option.secret else "",
        "callbacks only" if option.callbacks else "",
        "list" if option.type == "list" else "",
        f"default `{option.default}`" if option.default is not None else "",
        f"one of {', '.join(option.choices)}" if option.choices else "",
    ]
    return ", ".join(filter(None, traits))


def _needs(preset: Preset) -> Iterator[str]:
    for one in preset.one_of:
        groups = (" and ".join(f"`{name}`" for name in group) for group in one.options)
        yield f"For {one.meaning}, give {', or '.join(groups)}."
    if preset.one_of:
        yield ""


def _rules(rules: Sequence[Rule]) -> Iterator[str]:
    if not rules:
        yield f"Answers: {_OTHERWISE}."
        return
    yield "| answer, the first that fits | taken for | category | because |"
    yield "|---|---|---|---|"
    for rule in rules:
        yield f"| {_condition(rule)} | {rule.verdict} | `{rule.category}` | {rule.meaning} |"
    yield f"| otherwise by status | | `http_<status>` | {_OTHERWISE} |"


def _condition(rule: Rule) -> str:
    statuses = ", ".join(map(str, sorted(rule.statuses)))
    place = f"`{rule.header}`" if rule.header else f"`{rule.pointer}`" if rule.pointer else "text"
    values = ", ".join(f"`{value}`" for value in sorted(rule.values) if not value.endswith(":*"))
    told = f"{place} {values}" if rule.values else ""
    given = f"with `{rule.given}`" if rule.given else ""
    return ": ".join(filter(None, [given, statuses, told]))
