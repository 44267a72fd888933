"""Which provider a message goes to, and when it goes on to the next."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from tests.fixtures.events import Event, logged_events
from tests.fixtures.messages import Signal, outgoing_many
from tests.fixtures.providers import AT, SteppingProvider, failed
from worker.breaker import Circuit, CircuitPolicy
from worker.channels.failover import FailoverProvider
from worker.channels.guarded import CircuitProvider
from worker.channels.port import Accepted, FailureKind, NotAttempted, Outcome, OutgoingMessage, named

NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)
RESET = timedelta(seconds=30)
ACCEPTED = Accepted(AT)
AWAY = failed()
REFUSED = failed(FailureKind.PROVIDER, "http_401")
HANGS = failed(FailureKind.UNKNOWN, "timeout")
REFUSED_BY_MAIN = replace(REFUSED, provider="main", burns_attempt=False)


@dataclass
class Channels:
    """Two providers of one channel; what they answer is the test's to say."""

    clock: SettableClock
    main: SteppingProvider
    backup: SteppingProvider
    both: FailoverProvider

    def answer(self, main: Outcome, backup: Outcome = ACCEPTED) -> None:
        """Have each answer all messages alike from now on."""
        self.main.answer = lambda _: main
        self.backup.answer = lambda _: backup

    def deliver(self, count: int = 10, bound_to: str | None = None) -> list[Outcome]:
        messages = [replace(message, bound_to=bound_to) for message in outgoing_many(count)]
        return self.both.deliver(messages, Signal())

    def sent(self) -> tuple[int, int]:
        """How many messages each was given since the last time."""
        counts = [sum(map(len, provider.calls)) for provider in (self.main, self.backup)]
        self.main.calls.clear()
        self.backup.calls.clear()
        return counts[0], counts[1]

    def open_main(self, outcome: Outcome = REFUSED) -> None:
        """Open the circuit of the preferred provider, and forget what was sent."""
        self.answer(outcome)
        self.deliver(5)
        self.sent()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOW)


@pytest.fixture
def channels(clock: SettableClock) -> Channels:
    main, backup = SteppingProvider(name="main"), SteppingProvider(name="backup")
    guarded = [CircuitProvider(each, Circuit(each.name, clock, CircuitPolicy())) for each in (main, backup)]
    return Channels(clock, main, backup, FailoverProvider(Channel.EMAIL, guarded, clock))


@pytest.fixture
def events() -> Iterator[list[Event]]:
    with logged_events() as events:
        yield events


def test_the_first_takes_all_while_it_can(channels: Channels) -> None:
    assert channels.deliver() == [ACCEPTED] * 10
    assert channels.sent() == (10, 0)
    assert (channels.both.name, channels.both.pauses_until()) == ("main", None)


def test_what_a_circuit_that_opens_leaves_is_due_at_once_for_the_next(
    channels: Channels, events: list[Event]
) -> None:
    channels.answer(AWAY)
    assert channels.deliver() == [named(AWAY, "main")] * 5 + [NotAttempted(NOW)] * 5
    assert channels.sent() == (5, 0)
    assert channels.both.choose() == "backup"
    assert channels.deliver() == [ACCEPTED] * 10
    assert channels.sent() == (0, 10)
    [told] = [event.fields for event in events if event.name == "failed_over"]
    assert (told["provider"], told["instead"], told["messages"]) == ("main", "backup", 10)


def test_a_delivery_stays_with_the_provider_that_was_chosen_for_it(channels: Channels) -> None:
    """Its name stands in the log by then: if this worker is lost, what it held is that provider's."""
    assert channels.both.choose() == "main"
    channels.main.answer = lambda _: REFUSED
    channels.both._providers[0].deliver(outgoing_many(1), Signal())
    channels.sent()
    assert channels.deliver(3) == [NotAttempted(NOW)] * 3
    assert channels.sent() == (0, 0)
    assert channels.deliver(3) == [ACCEPTED] * 3
    assert channels.sent() == (0, 3)


def test_a_refusal_costs_nothing_where_another_takes_over(channels: Channels) -> None:
    channels.answer(REFUSED)
    assert channels.deliver(3) == [REFUSED_BY_MAIN] + [NotAttempted(NOW)] * 2
    # The circuit has only just been closed again: alone, the provider's refusal would count.
    channels.clock.advance(RESET)
    channels.answer(ACCEPTED)
    channels.deliver(1)
    channels.answer(REFUSED)
    channels.clock.advance(timedelta(seconds=1))
    assert channels.deliver(1) == [REFUSED_BY_MAIN]


@pytest.mark.parametrize("failure", [AWAY, HANGS, failed(FailureKind.PERMANENT, "http_400")])
def test_no_other_failure_goes_to_the_next(channels: Channels, failure: Outcome) -> None:
    channels.answer(failure)
    assert channels.deliver(4) == [named(failure, "main")] * 4
    assert channels.sent() == (4, 0)


def test_refused_by_all_costs_nothing_and_waits_for_the_first_probe(channels: Channels) -> None:
    channels.answer(REFUSED, REFUSED)
    channels.deliver(1)
    last = replace(REFUSED, provider="backup", burns_attempt=False)
    assert channels.deliver(3) == [last] + [NotAttempted(NOW + RESET)] * 2
    assert channels.both.pauses_until() == NOW + RESET
    channels.sent()
    assert channels.deliver(3) == [NotAttempted(NOW + RESET)] * 3
    assert channels.sent() == (0, 0)


def test_the_channel_pauses_until_the_earliest_probe(channels: Channels) -> None:
    channels.open_main()
    channels.clock.advance(timedelta(seconds=10))
    assert channels.both.pauses_until() is None
    channels.answer(REFUSED, REFUSED)
    assert channels.deliver(1) == [replace(REFUSED, provider="backup", burns_attempt=False)]
    assert channels.both.pauses_until() == NOW + RESET


def test_the_first_is_probed_by_one_message_and_the_rest_is_due_at_once_if_it_fails(
    channels: Channels,
) -> None:
    channels.open_main()
    channels.clock.advance(RESET)
    channels.answer(AWAY)
    outcomes = channels.deliver(4)
    assert outcomes == [replace(AWAY, provider="main", burns_attempt=False)] + [NotAttempted(NOW + RESET)] * 3
    assert channels.sent() == (1, 0)
    assert channels.both.choose() == "backup"


def test_the_first_has_all_again_once_its_probe_is_answered(channels: Channels) -> None:
    channels.open_main()
    channels.clock.advance(RESET)
    channels.answer(ACCEPTED)
    assert channels.deliver(4) == [ACCEPTED] * 4
    assert channels.sent() == (4, 0)


def test_what_may_have_been_accepted_goes_to_no_other(channels: Channels) -> None:
    channels.open_main()
    assert channels.deliver(3, bound_to="main") == [NotAttempted(NOW + RESET)] * 3
    assert channels.sent() == (0, 0)
    channels.clock.advance(RESET)
    channels.answer(ACCEPTED)
    assert channels.deliver(3, bound_to="main") == [ACCEPTED] * 3
    assert channels.sent() == (3, 0)


def test_a_bound_message_that_is_refused_stays(channels: Channels) -> None:
    channels.answer(REFUSED)
    assert channels.deliver(2, bound_to="main") == [REFUSED_BY_MAIN, NotAttempted(NOW + RESET)]
    assert channels.sent() == (1, 0)


def test_bound_and_free_messages_keep_their_places(channels: Channels) -> None:
    messages = outgoing_many(4)
    messages[1] = replace(messages[1], bound_to="backup")
    messages[2] = replace(messages[2], bound_to="main")
    channels.both.deliver(messages, Signal())
    assert channels.main.calls == [[messages[0].id, messages[2].id, messages[3].id]]
    assert channels.backup.calls == [[messages[1].id]]


def test_a_provider_out_of_time_leaves_nothing_to_the_next(channels: Channels) -> None:
    """Its circuit is closed: it takes them in a moment, as the same provider."""
    given: list[OutgoingMessage] = []

    def answer(message: OutgoingMessage) -> Outcome:
        given.append(message)
        return ACCEPTED if len(given) < 3 else NotAttempted()

    channels.main.answer = answer
    assert channels.deliver(4) == [ACCEPTED] * 2 + [NotAttempted()] * 2
    assert channels.sent() == (4, 0)
