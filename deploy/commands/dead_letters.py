"""`daybreak dead-letters list | show | replay | discard`: what was given up, and what becomes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, Final, TypeVar

import click
from sqlalchemy import Connection, Engine

from deploy.commands.session import COMMAND, begin_command, say
from deploy.commands.table import table
from deploy.database import engine_on, usable_database
from deploy.simulate.parameters import InstantParameter
from scheduler.clock import SystemClock
from scheduler.dead_letters import (
    DEFAULT_MESSAGES_PER_SECOND,
    LEAST_MESSAGES_PER_SECOND,
    MOST_MESSAGES_PER_SECOND,
    MOST_REASON_CHARACTERS,
    DeadLetters,
    OnProgress,
    Replayed,
)
from scheduler.domain.message import OUTCOME_UNKNOWN
from scheduler.domain.occasion import Channel
from scheduler.errors import NotFound
from scheduler.settings import Settings
from scheduler.store import dead_letters as stored_letters
from scheduler.store import message_queries, occasions
from scheduler.store.dead_letters import DeadLetter, DeadLetterFilter, DeadLetterPage
from scheduler.store.message_attempts import StoredAttempt
from scheduler.store.message_queries import MessageHistory

_DEFAULT_TENANT: Final = 1
_SHOWN_ERROR_CHARACTERS: Final = 60
_IDENTITY: Final = click.IntRange(1, 2**63 - 1)
_HEADINGS: Final = (
    "ID",
    "DIED (UTC)",
    "MESSAGE",
    "OCCASION",
    "CATEGORY",
    "PROVIDER",
    "ATTEMPT",
    "LAST ERROR",
)

Command = TypeVar("Command", bound=Callable[..., object])

_FILTER_OPTIONS: Final = (
    click.option("--category", help="Only those that died of this, such as http_503."),
    click.option("--occasion", help="Only those of the occasion with this key."),
    click.option(
        "--channel", type=click.Choice([channel.value for channel in Channel]), help="Only this one."
    ),
    click.option("--user", "user_id", type=_IDENTITY, help="Only those of the user with this id."),
    click.option("--provider", help="Only those whose last attempt was made with this provider."),
    click.option(
        "--died-from", type=InstantParameter(), help="Only those that died at this instant or later."
    ),
    click.option("--died-until", type=InstantParameter(), help="Only those that died before this instant."),
)
_IDS: Final = click.argument("ids", metavar="[ID]...", nargs=-1, type=_IDENTITY)
_ALL: Final = click.option(
    "--all", "is_all", is_flag=True, help="All of them, where neither ID nor filter is given."
)
_YES: Final = click.option(
    "--yes", "is_sure", is_flag=True, help="Do not ask where it is about more than one."
)
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _filtered(command: Command) -> Command:
    """Give a command the options of the filter."""
    for option in reversed(_FILTER_OPTIONS):
        command = option(command)
    return command


@click.group("dead-letters")
def dead_letters() -> None:
    """List what was given up; replay it or discard it."""


@dead_letters.command("list")
@_filtered
@click.option("--discarded", is_flag=True, help="The discarded ones; otherwise the open ones.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many at most.")
@click.option("--before", type=_IDENTITY, help="Only those behind the one with this id: the next page.")
@_JSON
def list_letters(limit: int, before: int | None, as_json: bool, **criteria: Any) -> None:
    """Show messages that will not be tried again by themselves, the newest first, and count them by category."""
    with _database() as (_, engine), engine.connect() as connection:
        wanted = _filter(connection, criteria)
        found = _page(connection, wanted, before, limit)
        counts = stored_letters.counts(connection, _DEFAULT_TENANT, wanted)
        shown = found.letters
        keys = _occasion_keys(connection, shown)
    following = None if found.next is None else found.next.id
    if as_json:
        listed = [_fields(letter, keys) for letter in shown]
        _print_json({"dead_letters": listed, "counts": counts, "next_before": following})
        return
    if shown:
        click.echo(table(_HEADINGS, [_cells(letter, keys) for letter in shown]))
    by_category = ", ".join(f"{number:,} {category}" for category, number in counts.items())
    click.echo(f"{_how_many(counts)}{': ' if counts else ''}{by_category}")
    if following is not None:
        click.echo(f"the next page: --before {following}")


def _page(connection: Connection, wanted: DeadLetterFilter, before: int | None, most: int) -> DeadLetterPage:
    """So many letters behind the one with this id, however many have to be read for that. Raises NotFound."""
    letter = None if before is None else stored_letters.find(connection, _DEFAULT_TENANT, before)
    if before is not None and letter is None:
        raise NotFound("dead letter", before)
    place = None if letter is None else letter.place
    letters: list[DeadLetter] = []
    while True:
        found = stored_letters.page(
            connection, _DEFAULT_TENANT, wanted, before=place, most=most - len(letters)
        )
        letters += found.letters
        place = found.next
        if place is None or len(letters) == most:
            return DeadLetterPage(letters, place)


@dead_letters.command()
@click.argument("letter_id", metavar="ID", type=_IDENTITY)
@_JSON
def show(letter_id: int, as_json: bool) -> None:
    """Show one dead letter with its message and every attempt at it."""
    with _database() as (_, engine), engine.connect() as connection:
        letter = stored_letters.find(connection, _DEFAULT_TENANT, letter_id)
        if letter is None:
            raise NotFound("dead letter", letter_id)
        history = message_queries.find(connection, _DEFAULT_TENANT, letter.key)
        keys = _occasion_keys(connection, [letter])
    if as_json:
        attempts = [] if history is None else [asdict(attempt) for attempt in history.attempts]
        _print_json(_fields(letter, keys) | {"attempts": attempts})
        return
    for name, value in _fields(letter, keys).items():
        if value is not None:
            click.echo(f"{name.replace('_', ' ') + ':':<16} {value}")
    _show_history(history)


@dead_letters.command()
@_IDS
@_filtered
@click.option("--discarded", is_flag=True, help="Of the discarded ones; otherwise of the open ones.")
@_ALL
@click.option(
    "--rate",
    "messages_per_second",
    type=click.FloatRange(LEAST_MESSAGES_PER_SECOND, MOST_MESSAGES_PER_SECOND),
    default=DEFAULT_MESSAGES_PER_SECOND,
    show_default=True,
    help="Messages a second.",
)
@_YES
@_JSON
@click.pass_context
def replay(
    context: click.Context, /, messages_per_second: float, is_sure: bool, as_json: bool, **meant: Any
) -> None:
    """Try messages again: those of the dead letters ID…, or of a filter, or --all.

    They fall due from now on, so many a second, the longest dead first, under the same keys as before and with
    as many further attempts as their occasions allow. Exit code 0 unless an ID is no such letter: then 1.
    """
    criteria = _criteria(**meant)
    with _database() as (settings, engine):
        wanted, counts = _wanted(engine, criteria)
        _warn_of_unknown(counts)
        _ask(f"Replay {_how_many(counts)} at {messages_per_second:g} a second?", counts, is_sure)
        service = DeadLetters(engine, SystemClock(), settings.retry_max_attempts, actor=COMMAND)
        with _progress("replay", counts) as on_progress:
            done = service.replay(_DEFAULT_TENANT, wanted, messages_per_second, on_progress)
    if as_json:
        _print_json(asdict(done))
    else:
        _show_replayed(done)
    context.exit(_exit_code(wanted, done.replayed + done.settled))


@dead_letters.command()
@_IDS
@_filtered
@_ALL
@click.option("--reason", required=True, help="Why, for those who look for it later.")
@_YES
@_JSON
@click.pass_context
def discard(context: click.Context, /, reason: str, is_sure: bool, as_json: bool, **meant: Any) -> None:
    """Close dead letters without another try: ID…, or those of a filter, or --all.

    Their messages stay dead. The letters are kept with the reason; `list --discarded` shows them. Exit code 0
    unless an ID is no open letter: then 1.
    """
    why = _checked_reason(reason)
    criteria = _criteria(**meant, discarded=False)
    with _database() as (settings, engine):
        wanted, counts = _wanted(engine, criteria)
        _ask(f"Discard {_how_many(counts)}?", counts, is_sure)
        service = DeadLetters(engine, SystemClock(), settings.retry_max_attempts, actor=COMMAND)
        with _progress("discard", counts) as on_progress:
            discarded = service.discard(_DEFAULT_TENANT, wanted, why, on_progress)
    if as_json:
        _print_json({"discarded": discarded})
    else:
        click.echo(f"discarded {discarded:,}")
    context.exit(_exit_code(wanted, discarded))


@contextmanager
def _database() -> Iterator[tuple[Settings, Engine]]:
    with (
        usable_database(begin_command(), say, create=False) as settings,
        engine_on(settings, "command") as engine,
    ):
        yield settings, engine


def _criteria(ids: Sequence[int], is_all: bool, **criteria: Any) -> dict[str, Any]:
    """What is meant, which must have been said in exactly one way: nobody is to replay everything by a slip."""
    narrows = any(value is not None for name, value in criteria.items() if name != "discarded")
    if [bool(ids), narrows, is_all].count(True) != 1:
        raise click.UsageError("say which ones: by ID, or by a filter, or --all")
    return criteria | {"ids": list(ids) or None}


def _filter(connection: Connection, criteria: Mapping[str, Any]) -> DeadLetterFilter:
    """The filter for the store. Raises NotFound where there is no such occasion."""
    stored = dict(criteria)
    key, channel = stored.pop("occasion"), stored.pop("channel")
    if key is not None:
        occasion = occasions.find(connection, _DEFAULT_TENANT, key)
        if occasion is None:
            raise NotFound("occasion", key)
        stored["occasion_id"] = occasion.id
    return DeadLetterFilter(**stored, channel=None if channel is None else Channel(channel))


def _wanted(engine: Engine, criteria: Mapping[str, Any]) -> tuple[DeadLetterFilter, dict[str, int]]:
    """The filter, and how many letters it means as things are, by category."""
    with engine.connect() as connection:
        wanted = _filter(connection, criteria)
        return wanted, stored_letters.counts(connection, _DEFAULT_TENANT, wanted)


def _warn_of_unknown(counts: Mapping[str, int]) -> None:
    if unknown := counts.get(OUTCOME_UNKNOWN):
        say(
            f"{unknown:,} of them died of {OUTCOME_UNKNOWN}: the provider may have accepted them already. It is "
            "given the same keys; one that does not honour keys may send them twice."
        )


def _ask(question: str, counts: Mapping[str, int], is_sure: bool) -> None:
    """End the command unless it is about one letter at most, or somebody is sure."""
    if sum(counts.values()) > 1 and not is_sure:
        click.confirm(question, abort=True, err=True)


def _checked_reason(reason: str) -> str:
    checked = reason.strip()
    if not (checked and checked.isprintable() and len(checked) <= MOST_REASON_CHARACTERS):
        raise click.BadParameter(
            f"takes one line of up to {MOST_REASON_CHARACTERS} characters", param_hint="--reason"
        )
    return checked


@contextmanager
def _progress(label: str, counts: Mapping[str, int]) -> Iterator[OnProgress]:
    """A bar on a terminal; nothing otherwise."""
    with click.progressbar(
        length=sum(counts.values()),
        label=label,
        show_pos=True,
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    ) as bar:
        yield bar.update


def _exit_code(wanted: DeadLetterFilter, moved: int) -> int:
    """1 where something was named that was not there to be moved, and a word about it."""
    missing = 0 if wanted.ids is None else len(set(wanted.ids)) - moved
    if missing:
        kind = "a discarded" if wanted.discarded else "an open"
        say(
            f"daybreak: {missing:,} of the ids given {'is' if missing == 1 else 'are'} not {kind} dead letter's"
        )
    return 1 if missing else 0


def _show_replayed(done: Replayed) -> None:
    due = "" if done.last_due_at is None else f", the last of them due at {_instant(done.last_due_at)}"
    click.echo(f"replayed {done.replayed:,}{due}")
    if done.settled:
        click.echo(f"{done.settled:,} more were settled meanwhile, and their dead letters are gone")


def _show_history(history: MessageHistory | None) -> None:
    if history is None:
        click.echo("the log has let its message go: it cannot be replayed")
        return
    click.echo(f"{'message is:':<16} {history.message.state}, due at {_instant(history.message.send_at)}")
    if history.attempts:
        headings = ("ATTEMPT", "AT (UTC)", "OUTCOME", "PROVIDER", "KIND", "CATEGORY", "DETAIL")
        click.echo(table(headings, [_attempt_cells(attempt) for attempt in history.attempts]))


def _attempt_cells(attempt: StoredAttempt) -> tuple[str, ...]:
    return (
        str(attempt.number),
        "" if attempt.at is None else _instant(attempt.at),
        attempt.outcome,
        attempt.provider or "",
        attempt.kind or "",
        attempt.category or "",
        attempt.detail or "",
    )


def _cells(letter: DeadLetter, occasion_keys: Mapping[int, str]) -> tuple[str, ...]:
    return (
        str(letter.id),
        _instant(letter.died_at),
        letter.key.text,
        occasion_keys.get(letter.key.occasion_id, ""),
        click.style(letter.category, fg="yellow") if letter.outcome_unknown else letter.category,
        letter.provider,
        str(letter.attempt),
        letter.discard_reason or letter.detail[:_SHOWN_ERROR_CHARACTERS],
    )


def _fields(letter: DeadLetter, occasion_keys: Mapping[int, str]) -> dict[str, Any]:
    return {
        "id": letter.id,
        "message_id": letter.key.text,
        "occasion": occasion_keys.get(letter.key.occasion_id),
        "category": letter.category,
        "last_error": letter.detail,
        "provider": letter.provider or None,
        "attempt": letter.attempt,
        "died_at": _instant(letter.died_at),
        "discarded_at": None if letter.discarded_at is None else _instant(letter.discarded_at),
        "discard_reason": letter.discard_reason,
    }


def _occasion_keys(connection: Connection, letters: Sequence[DeadLetter]) -> dict[int, str]:
    found = occasions.by_id(connection, sorted({letter.key.occasion_id for letter in letters}))
    return {occasion.id: occasion.key for occasion in found.values()}


def _how_many(counts: Mapping[str, int]) -> str:
    letters = sum(counts.values())
    return f"{letters:,} dead letter{'' if letters == 1 else 's'}"


def _instant(instant: datetime) -> str:
    return instant.isoformat(timespec="seconds").replace("+00:00", "Z")


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, default=_as_text))


def _as_text(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(type(value).__name__)
