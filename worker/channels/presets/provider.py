"""A preset's provider: which messages its HTTP providers are given together, and which they are not given at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from scheduler.clock import Clock
from worker.channels.port import (
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
    Provider,
)


class PresetProvider:
    """Divides what it is given among `forms`: for each, the longest text it takes (bytes, None: any) and its provider.

    A message whose address does not match `addresses` fails before anybody is asked: in a request with others it
    could cost them theirs. With `distinct_addresses` no call of a provider holds an address twice. `when_refused` is
    called where the provider has refused us, so that credentials which are kept can be asked for anew.
    """

    def __init__(
        self,
        name: str,
        forms: Sequence[tuple[int | None, Provider]],
        clock: Clock,
        *,
        batch_timeout_seconds: float,
        addresses: re.Pattern[str] | None = None,
        distinct_addresses: bool = False,
        when_refused: Callable[[], None] | None = None,
    ) -> None:
        self._name = name
        self._forms = forms
        self._clock = clock
        self._batch_timeout_seconds = batch_timeout_seconds
        self._addresses = addresses
        self._distinct_addresses = distinct_addresses
        self._when_refused = when_refused

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    def pauses_until(self) -> datetime | None:
        """It takes messages at any time."""
        return None

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """One call of a provider for each group of messages that go together; outcomes in the order given.

        No call begins once they have taken `batch_timeout_seconds`; the last one takes as long as it may.
        """
        outcomes: list[Outcome] = [NotAttempted()] * len(messages)
        start_until = self._clock.monotonic() + self._batch_timeout_seconds
        for form, positions in self._groups(messages, outcomes):
            if self._clock.monotonic() >= start_until:
                break
            told = self._forms[form][1].deliver([messages[position] for position in positions], control)
            for position, outcome in zip(positions, told, strict=True):
                outcomes[position] = outcome
        if self._when_refused and any(_is_refusal(outcome) for outcome in outcomes):
            self._when_refused()
        return outcomes

    def close(self) -> None:
        """Close the providers."""
        for _, provider in self._forms:
            provider.close()

    def _groups(
        self, messages: Sequence[OutgoingMessage], outcomes: list[Outcome]
    ) -> list[tuple[int, list[int]]]:
        """Forms, and places of the messages that go together in each; the outcome of the others is entered."""
        groups: dict[tuple[int, int], list[int]] = {}
        seen: Counter[str] = Counter()
        for position, message in enumerate(messages):
            if self._addresses and not self._addresses.fullmatch(message.address):
                outcomes[position] = self._invalid_address()
                continue
            turn = 0
            if self._distinct_addresses:
                address = message.address.lower()
                turn = seen[address]
                seen[address] += 1
            groups.setdefault((turn, self._form_of(message)), []).append(position)
        return [(form, positions) for (_, form), positions in sorted(groups.items())]

    def _form_of(self, message: OutgoingMessage) -> int:
        if len(self._forms) == 1:
            return 0
        # A lone surrogate is found by the provider that cannot encode it.
        size = len(f"{message.text}{message.html or ''}".encode(errors="replace"))
        return next(place for place, (most, _) in enumerate(self._forms) if most is None or size <= most)

    def _invalid_address(self) -> Failed:
        return Failed(
            FailureKind.PERMANENT,
            "invalid_address",
            "the provider takes no such address",
            None,
            self._clock.now(),
        )


def _is_refusal(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and outcome.kind is FailureKind.PROVIDER
