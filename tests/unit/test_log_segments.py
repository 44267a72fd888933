"""Segments that are made ahead of the server's need."""

from pathlib import Path

from deploy.embedded.log_segments import AHEAD, fill_ahead

SMALLEST = 2**20
"""Bytes; of segments of this size 4,096 make up four gigabytes."""


def test_segments_follow_the_last_one_past_four_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "archive_status").mkdir()
    last = tmp_path / "000000010000000000000FFD"
    last.write_bytes(b"x" * SMALLEST)
    fill_ahead(tmp_path)
    made = sorted(path for path in tmp_path.iterdir() if path.is_file() and path != last)
    assert [path.name for path in made] == [
        "000000010000000000000FFE",
        "000000010000000000000FFF",
        "000000010000000100000000",
        "000000010000000100000001",
    ]
    assert len(made) == AHEAD
    assert {path.read_bytes() for path in made} == {bytes(SMALLEST)}
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
