"""How the benchmark reads what `tests.load` prints."""

from __future__ import annotations

from tests.bench.works.api import kinds

PRINTED = """
         requests  per second        p50        p95        p99   processor ms a request: API, PostgreSQL, client
create        160         182    61.3 ms   305.7 ms   320.6 ms    1.750  0.938  0.100
read       12,000       2,101     4.0 ms    20.1 ms 12044.4 ms    0.437  0.188  0.062
"""


def test_rates_and_percentiles_are_read_from_the_table() -> None:
    assert dict(kinds(PRINTED)) == {"create": (182.0, 320.6), "read": (2101.0, 12044.4)}
