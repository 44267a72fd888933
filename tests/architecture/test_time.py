"""Only `scheduler/clock.py` reads the clock, and SQL is given its instants as parameters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import code_strings, dotted_name, product_modules

CLOCK = Path("scheduler/clock.py")
READINGS = re.compile(
    r"time\.(time|monotonic|perf_counter|process_time|localtime|gmtime|strftime|ctime|sleep)(_ns)?"
    r"|datetime\.(datetime\.)?(now|utcnow|today)|(datetime\.)?date\.today"
    r"|pendulum\.((DateTime|Date|datetime)\.)?(now|today|tomorrow|yesterday|utcnow)"
    r"|(\w+\.)*func\.(now|current_timestamp|current_date|current_time|localtime|localtimestamp|clock_timestamp"
    r"|statement_timestamp|transaction_timestamp|timeofday|timezone)"
)
SQL_READINGS = re.compile(
    r"\bnow\s*\(\s*\)|\bcurrent_(timestamp|date|time)\b|\blocaltime(stamp)?\b|\bat\s+time\s+zone\b"
    r"|\b(clock|statement|transaction)_timestamp\s*\(|\btimeofday\s*\(|\btimezone\s*\("
    r"|'(now|today|tomorrow|yesterday)'\s*::",
    re.IGNORECASE,
)


def clock_readings(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each use, called or handed on, of something that reads the clock or sleeps by it."""
    tree = ast.parse(source)
    imported = _imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, _, rest = dotted_name(node).partition(".")
            name = imported.get(first, first) + (f".{rest}" if rest else "")
            if READINGS.fullmatch(name):
                yield node.lineno, name


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """What each name of the module stands for: `from time import time as clock` makes `clock` `time.time`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom):
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def sql_readings(source: str) -> Iterator[tuple[int, str]]:
    """Line and words of each reading of a clock, or of PostgreSQL's zones, in the strings of `source`."""
    for line, text in code_strings(source):
        for match in SQL_READINGS.finditer(text):
            yield line, match.group()


def test_only_the_clock_reads_the_clock() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path, source in product_modules()
        if path != CLOCK
        for line, name in clock_readings(source)
    ]
    assert not found


def test_sql_reads_neither_clock_nor_zone_rules() -> None:
    found = [
        f"{path}:{line}: {words}"
        for path, source in product_modules()
        for line, words in sql_readings(source)
    ]
    assert not found


@pytest.mark.parametrize(
    "snippet",
    [
        "import time\ntime.time()",
        "import time as t\nt.monotonic_ns()",
        "from time import sleep as rest\nrest(1)",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.utcnow()",
        "import datetime as dt\ndt.date.today()",
        "from datetime import date\nfield(default_factory=date.today)",
        "import pendulum\npendulum.now('UTC')",
        "from pendulum import today\ntoday()",
        "from sqlalchemy import func\nselect(func.now())",
        "import sqlalchemy as sa\nsa.func.current_timestamp()",
    ],
)
def test_a_reading_of_the_clock_is_found(snippet: str) -> None:
    assert list(clock_readings(snippet))


@pytest.mark.parametrize(
    "snippet",
    ["clock.now()", "now = clock.monotonic()", "from datetime import datetime\ndatetime.combine(day, hour)"],
)
def test_asking_the_clock_object_is_allowed(snippet: str) -> None:
    assert not list(clock_readings(snippet))


@pytest.mark.parametrize(
    "snippet",
    [
        'text("SELECT now()")',
        'text(f"INSERT INTO {table} VALUES (Now ())")',
        'server_default="CURRENT_TIMESTAMP"',
        "text(\"SELECT send_at AT  TIME\\nZONE 'UTC'\")",
        "text(\"SELECT 'now'::timestamptz\")",
    ],
)
def test_a_reading_in_sql_is_found(snippet: str) -> None:
    assert list(sql_readings(snippet))


def test_prose_about_time_is_allowed() -> None:
    assert not list(sql_readings('"""SQL has no now()."""\ntext("SELECT send_at WHERE send_at <= :now")'))
