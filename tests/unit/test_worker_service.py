"""How a worker is put together from its settings."""

from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import create_engine

from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry, ProviderPlan
from scheduler.settings import Settings
from tests.fixtures.messages import Signal, outgoing_many
from worker.breaker import CircuitPolicy
from worker.channels.failover import FailoverProvider
from worker.channels.guarded import CircuitProvider
from worker.channels.port import NotAttempted
from worker.providers import ProviderSet
from worker.service import Worker

ENGINE = create_engine("sqlite://")


def providers(tmp_path: Path, clock: SettableClock, text: str) -> ProviderSet:
    """The providers that a file with this text names."""
    file = tmp_path / "providers.toml"
    file.write_text(text)
    plan = Settings(providers_file=file).provider_plan
    return ProviderSet(plan, ENGINE, clock, tmp_path / "outbox.ndjson", CircuitPolicy())


def test_the_threads_of_a_worker_share_the_circuit_of_a_provider(
    tmp_path: Path, clock: SettableClock
) -> None:
    settings = Settings(outbox_path=tmp_path, breaker_reset_seconds=7.0)  # a folder cannot be appended to
    worker = Worker(settings, ENGINE, clock, Event())
    first, second = (worker._providers.for_thread()[Channel.EMAIL] for _ in range(2))
    first.deliver(outgoing_many(2), Signal())
    reset_at = clock.now() + timedelta(seconds=7)
    assert second.pauses_until() == reset_at
    assert second.deliver(outgoing_many(2), Signal()) == [NotAttempted(reset_at)] * 2
    first.close()
    second.close()


def test_without_a_file_one_provider_serves_all_channels_but_the_inbox(
    tmp_path: Path, clock: SettableClock
) -> None:
    worker = Worker(Settings(outbox_path=tmp_path / "outbox.ndjson"), ENGINE, clock, Event())
    built = worker._providers.for_thread()
    assert {channel: provider.name for channel, provider in built.items()} == {
        **dict.fromkeys(Channel, "outbox"),
        Channel.IN_APP: "inbox",
    }


def test_channels_get_what_the_file_gives_them(tmp_path: Path, clock: SettableClock) -> None:
    built = providers(
        tmp_path,
        clock,
        """
        [providers.main]
        kind = "outbox"
        messages_per_second = 5
        [providers.backup]
        kind = "smtp"
        sandbox = true
        [channels.email]
        providers = ["main", "backup"]
        [channels.sms]
        providers = ["main"]
        unknown_outcome = "hold"
        """,
    )
    assert built.channels == [Channel.EMAIL, Channel.SMS, Channel.IN_APP]
    assert built.channels_without == [Channel.PUSH, Channel.WEBHOOK]
    assert list(built.hold_channels) == [Channel.SMS]
    assert built.described == "email=main>backup sms=main in_app=inbox"
    made = built.for_thread()
    assert isinstance(made[Channel.EMAIL], FailoverProvider)
    assert isinstance(made[Channel.SMS], CircuitProvider)
    assert [circuit.provider for circuit in built.circuits] == ["main", "backup", "inbox"]


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("sendgird", "did you mean 'sendgrid'?"),
        ("stmp", "did you mean 'smtp'?"),
        ("pigeon", "there are fcm, "),
    ],
)
def test_an_unknown_kind_is_answered_with_one_line(
    tmp_path: Path, clock: SettableClock, kind: str, advice: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        providers(
            tmp_path, clock, f'[providers.main]\nkind = "{kind}"\n[channels.email]\nproviders = ["main"]'
        )
    assert str(raised.value).startswith(f"provider main: there is no kind '{kind}'; {advice}")


def test_a_plan_made_by_hand_is_as_good(tmp_path: Path, clock: SettableClock) -> None:
    plan = ProviderPlan({"spare": ProviderEntry("spare", "outbox")}, {})
    assert ProviderSet(plan, ENGINE, clock, tmp_path, CircuitPolicy()).for_thread() == {}
