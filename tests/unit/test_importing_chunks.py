import io
import os
from collections.abc import Iterator, Sequence

import pytest

from scheduler.domain.user import UserInput
from scheduler.importing import (
    MAX_ROW_BYTES,
    ImportForm,
    ImportProgress,
    RejectedRow,
    chunks,
    import_users,
    read_lines,
)
from scheduler.importing.writing import WRITERS
from scheduler.registry import WrittenUsers
from tests.fixtures.imports import Import

HEADER = b"external_id,first_name,timezone\n"


def people(count: int) -> list[bytes]:
    return [HEADER, *(b"u%d,Ada,UTC\n" % number for number in range(count))]


def ignore(_row: RejectedRow) -> None:
    return None


def test_of_rows_with_one_external_id_the_later_counts_and_the_earlier_is_an_update() -> None:
    importing = Import()
    summary = importing.csv(HEADER + b"u1,Ada,UTC\nu2,Alan,UTC\n u1 ,Grace,UTC\n")
    assert sorted((user.external_id, user.first_name) for user in importing.users) == [
        ("u1", "Grace"),
        ("u2", "Alan"),
    ]
    assert (summary.read, summary.created, summary.updated) == (3, 2, 1)


def test_the_later_counts_in_another_chunk_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "USERS_PER_CHUNK", 1)
    importing = Import()
    summary = importing.csv(HEADER + b"u1,Ada,UTC\nu2,Alan,UTC\nu1,Grace,UTC\n")
    assert [len(batch) for batch in importing.batches] == [1, 1, 1]
    assert [user.first_name for user in importing.users if user.external_id == "u1"] == ["Ada", "Grace"]
    assert (summary.created, summary.updated) == (2, 1)


def test_chunks_are_bounded_in_users_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    importing = Import()
    import_users(importing, 1, people(10_000), ImportForm.csv, ignore)
    assert sorted(len(batch) for batch in importing.batches)[-1:] == [4_000]
    assert len(importing.users) == 10_000

    monkeypatch.setattr(chunks, "BYTES_PER_CHUNK", 1_000)
    importing = Import()
    import_users(importing, 1, people(500), ImportForm.csv, ignore)
    assert max(len(batch) for batch in importing.batches) <= 100
    assert len(importing.users) == 500


def test_progress_grows_to_the_whole_file() -> None:
    lines = people(10_000)
    importing = Import()
    import_users(importing, 1, lines, ImportForm.csv, ignore, importing.progress.append)
    steps = [step.bytes_read for step in importing.progress]
    assert steps == sorted(steps)
    assert len(steps) >= 3
    assert importing.progress[-1] == ImportProgress(sum(map(len, lines)), read=10_000, rejected=0)


def test_lines_are_read_no_further_than_two_chunks_for_each_writer_ahead_of_what_is_written() -> None:
    handed_out = 0

    class Watching(Import):
        def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
            assert handed_out - len(self.users) <= 2 * WRITERS * 4_000 + 1
            return super().upsert(tenant_id, batch)

    def counted(lines: list[bytes]) -> Iterator[bytes]:
        nonlocal handed_out
        for line in lines:
            handed_out += 1
            yield line

    summary = import_users(Watching(), 1, counted(people(20_000)), ImportForm.csv, ignore)
    assert summary.created == 20_000


def test_a_failed_chunk_ends_the_import_with_its_error() -> None:
    class Failing(Import):
        def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        import_users(Failing(), 1, people(10_000), ImportForm.csv, ignore)


@pytest.mark.parametrize("rest", [b"", b"\n", b"u2,Alan,UTC\n", b"u2,Alan,UTC"])
def test_long_lines_are_cut_and_the_next_line_is_whole(rest: bytes) -> None:
    for length in (MAX_ROW_BYTES - 1, MAX_ROW_BYTES, MAX_ROW_BYTES + 1, 5 * MAX_ROW_BYTES):
        first, *others = read_lines(io.BytesIO(b"x" * length + b"\n" + rest))
        assert len(first) == min(length + 1, MAX_ROW_BYTES + 1)
        assert b"".join(others) == rest


def test_lines_are_the_same_however_they_come() -> None:
    text = b"\n" + b"ab\r\n\rc\n" * 300 + b"d" * 5_000 + b"\n\ne"

    class Pieces(io.BytesIO):
        at_once = 0

        def read1(self, _size: int | None = -1, /) -> bytes:
            return super().read1(self.at_once)

    for size in (1, 2, 7, 8, 5_000, 100_000):
        stream = Pieces(text)
        stream.at_once = size
        assert list(read_lines(stream)) == list(io.BytesIO(text))


def test_a_line_is_handed_out_before_the_next_one_comes() -> None:
    receiver, sender = os.pipe()
    with os.fdopen(sender, "wb", buffering=0) as given, os.fdopen(receiver, "rb") as stream:
        lines = read_lines(stream)
        for line in (b"first\n", b"second\n"):
            given.write(line)
            assert next(lines) == line


def test_a_stream_of_one_endless_line_is_read_in_bounded_pieces() -> None:
    asked: list[int] = []

    class Endless(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            asked.append(size or -1)
            return super().read1(size)

    assert len(next(read_lines(Endless(b"x" * 5_000_000)))) == MAX_ROW_BYTES + 1
    assert 0 < min(asked) <= max(asked) <= MAX_ROW_BYTES
