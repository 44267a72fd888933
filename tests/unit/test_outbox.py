"""The outbox: whole lines, whole batches, whatever happens to the file."""

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scheduler.clock import SettableClock
from tests.fixtures.messages import Signal, outgoing, outgoing_many
from worker.channels import outbox
from worker.channels.outbox import OutboxProvider
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted

NOW = datetime(2027, 2, 28, 9, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "outbox.ndjson"


@pytest.fixture
def provider(path: Path) -> Iterator[OutboxProvider]:
    provider = OutboxProvider(path, SettableClock(NOW))
    yield provider
    provider.close()


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]


def test_a_line_holds_the_message_its_fields_and_the_time(provider: OutboxProvider, path: Path) -> None:
    assert provider.deliver([outgoing(1, text='Hi, "Zoë"\n🎂')], Signal()) == [Accepted(NOW)]
    content = path.read_text("utf-8")
    assert content.count("\n") == 1
    assert json.loads(content) == {
        "id": "7.1.20270228.0.email",
        "channel": "email",
        "address": "ann1@example.org",
        "subject": "Happy birthday",
        "text": 'Hi, "Zoë"\n🎂',
        "accepted_at": "2027-02-28T09:00:00Z",
        "first_name": "Annabel",
        "last_name": "",
    }


def test_a_field_cannot_pass_itself_off_as_the_id(provider: OutboxProvider, path: Path) -> None:
    message = outgoing()
    forged = type(message)(message.id, 1, message.channel, "a", "s", "t", {"id": "other", "channel": "none"})
    provider.deliver([forged], Signal())
    assert ids_in(path) == [message.id]


def test_only_the_owner_may_read_it(provider: OutboxProvider, path: Path) -> None:
    provider.deliver([outgoing()], Signal())
    assert path.stat().st_mode & 0o077 == 0


def test_batches_are_appended_in_order(provider: OutboxProvider, path: Path) -> None:
    first, second = outgoing_many(500), [outgoing(number) for number in range(500, 600)]
    assert provider.deliver(first, Signal()) == [Accepted(NOW)] * 500
    provider.deliver(second, Signal())
    assert ids_in(path) == [message.id for message in first + second]


def test_an_empty_batch_writes_nothing(provider: OutboxProvider, path: Path) -> None:
    assert provider.deliver([], Signal()) == []
    assert not path.exists()


def test_after_a_rotation_the_next_batch_starts_a_new_file(provider: OutboxProvider, path: Path) -> None:
    provider.deliver([outgoing(1)], Signal())
    path.rename(path.with_suffix(".1"))
    provider.deliver([outgoing(2)], Signal())
    assert (ids_in(path.with_suffix(".1")), ids_in(path)) == ([outgoing(1).id], [outgoing(2).id])


def test_a_line_that_another_writer_left_torn_stands_alone(provider: OutboxProvider, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text('{"id":"torn')
    provider.deliver([outgoing()], Signal())
    assert path.read_text("utf-8").splitlines()[0] == '{"id":"torn'
    assert json.loads(path.read_text("utf-8").splitlines()[1])["id"] == outgoing().id


def test_writes_cut_short_are_completed(
    provider: OutboxProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:100]))
    provider.deliver(outgoing_many(20), Signal())
    assert ids_in(path) == [message.id for message in outgoing_many(20)]


def test_with_the_disk_full_nothing_of_the_batch_is_left(
    provider: OutboxProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.deliver([outgoing(1)], Signal())
    write, room = os.write, [150]

    def write_while_there_is_room(file: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[: room.pop()])

    with monkeypatch.context() as full:
        full.setattr(os, "write", write_while_there_is_room)
        outcomes = provider.deliver([outgoing(2), outgoing(3)], Signal())
    failed = Failed(FailureKind.RETRYABLE, "outbox_enospc", "No space left on device", None, NOW)
    assert outcomes == [failed, failed]
    provider.deliver([outgoing(4)], Signal())
    assert ids_in(path) == [outgoing(1).id, outgoing(4).id]


def test_the_device_that_is_always_full() -> None:
    [outcome] = OutboxProvider(Path("/dev/full"), SettableClock(NOW)).deliver([outgoing()], Signal())
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.PROVIDER  # not a regular file


def test_a_path_that_cannot_work_is_the_providers_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "outbox.ndjson"):
        [outcome] = OutboxProvider(path, SettableClock(NOW)).deliver([outgoing()], Signal())
        assert isinstance(outcome, Failed)
        assert outcome.kind is FailureKind.PROVIDER


def test_a_message_that_is_no_unicode_fails_alone(provider: OutboxProvider, path: Path) -> None:
    outcomes = provider.deliver([outgoing(1), outgoing(2, text="\ud800"), outgoing(3)], Signal())
    assert [type(outcome) for outcome in outcomes] == [Accepted, Failed, Accepted]
    assert ids_in(path) == [outgoing(1).id, outgoing(3).id]


def test_each_line_is_told_and_what_could_be_none_is_not(provider: OutboxProvider) -> None:
    control = Signal(starts=3)
    provider.deliver([outgoing(1), outgoing(2, text="\ud800"), outgoing(3), outgoing(4)], control)
    assert control.noted == [Accepted(NOW)] * 2


def test_lines_that_could_not_be_written_are_told_as_failures(tmp_path: Path) -> None:
    control = Signal()
    outcomes = OutboxProvider(tmp_path, SettableClock(NOW)).deliver(outgoing_many(3), control)
    assert control.noted == outcomes


def test_what_was_not_started_before_the_stop_is_handed_back(provider: OutboxProvider, path: Path) -> None:
    outcomes = provider.deliver(outgoing_many(5), Signal(starts=2))
    assert outcomes == [Accepted(NOW)] * 2 + [NotAttempted()] * 3
    assert len(ids_in(path)) == 2


def test_several_writers_never_mix_their_lines(path: Path) -> None:
    def write(writer: int) -> None:
        provider = OutboxProvider(path, SettableClock(NOW), fsync=False)
        for number in range(20):
            provider.deliver([outgoing(writer * 1000 + number, text="x" * 5000)] * 3, Signal())
        provider.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = ids_in(path)
    assert len(ids) == 4 * 20 * 3
    assert all(ids[start] == ids[start + 1] == ids[start + 2] for start in range(0, len(ids), 3))


def test_a_lock_that_is_never_given_back_ends_as_a_retryable_failure(
    provider: OutboxProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LOCK_ATTEMPTS", 3)
    path.parent.mkdir(parents=True)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        [outcome] = provider.deliver([outgoing()], Signal())
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.RETRYABLE


def test_close_may_be_called_twice(provider: OutboxProvider) -> None:
    provider.deliver([outgoing()], Signal())
    provider.close()
    provider.close()
