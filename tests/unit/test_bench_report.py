"""What the benchmark prints and writes, and how it sees that a process grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import WORKS, _options
from tests.bench.measures import LIMIT, OURS, single, summarize
from tests.bench.memory import growth
from tests.bench.report import Report, number

REPORT = Report(
    machine={"cores": 2},
    results=[
        summarize(
            "drain",
            "messages/s",
            [{OURS: 12_000.0, "celery": 400.0, "pgqueuer": 1500.0, LIMIT: 30_000.0}] * 2,
        ),
        single("lateness", "s", 20.0, peers={"celery": 2000.0, "other": 4000.0}, ratio_to_best_peer=100.0),
        single("lost", "messages", 0),
    ],
    notes=["the machine was busy"],
)


def test_the_table_has_a_row_for_each_work() -> None:
    lines = REPORT.table().splitlines()

    assert len(lines) == 2 + len(REPORT.results)
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split("|")[1].strip() == "drain"


def test_the_table_names_the_best_peer_whichever_way_the_unit_counts() -> None:
    _, _, drain, lateness, lost = REPORT.table().splitlines()

    assert "pgqueuer 1,500" in drain
    assert "8.00 (8.00 to 8.00)" in drain
    assert "celery 2,000" in lateness
    assert lost.count(" - ") == 4


def test_the_file_holds_the_machine_the_results_and_the_notes(tmp_path: Path) -> None:
    written = json.loads(REPORT.write(tmp_path / "results").read_text())

    assert [entry["work"] for entry in written] == ["drain", "lateness", "lost"]
    for entry in written:
        assert (entry["machine"], entry["notes"]) == ({"cores": 2}, ["the machine was busy"])


@pytest.mark.parametrize(
    ("value", "shown"), [(12_345.6, "12,346"), (100.0, "100"), (3.14159, "3.14"), (0, "0")]
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_growth_is_seen_after_the_first_fifth() -> None:
    assert growth([0.0] * 20 + [50.0] * 60 + [53.0] * 20) == 3.0
    assert growth([50.0] * 100) == 0.0


def test_a_short_life_tells_nothing_of_growth() -> None:
    assert growth([50.0] * 10) is None


def test_works_are_done_in_their_order_however_they_are_asked_for() -> None:
    assert _options(["--works", "memory,drain"]).works == ["drain", "memory"]
    assert _options([]).works == list(WORKS)


def test_an_unknown_work_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _options(["--works", "drain,nonsense"])

    assert "nonsense" in capsys.readouterr().err
