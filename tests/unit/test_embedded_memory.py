"""What part of the memory the embedded server takes for shared buffers."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.embedded.memory import shared_megabytes


@pytest.mark.parametrize(
    ("name", "limit", "megabytes"),
    [
        ("memory.max", "1073741824\n", 256),
        ("memory/memory.limit_in_bytes", "1073741824\n", 256),
        ("memory.max", "67108864\n", 128),
    ],
)
def test_a_container_counts_by_its_own_limit(tmp_path: Path, name: str, limit: str, megabytes: int) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(limit)

    assert shared_megabytes(control_groups=tmp_path) == megabytes


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n"])
def test_without_a_limit_it_is_the_machine_that_counts(tmp_path: Path, limit: str) -> None:
    (tmp_path / "memory.max").write_text(limit)

    assert shared_megabytes(control_groups=tmp_path) == shared_megabytes(control_groups=tmp_path / "none")
    assert 128 <= shared_megabytes(control_groups=tmp_path) <= 4096
