import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger
from pydantic import SecretStr

from scheduler.logs import LogFormat, configure_logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the test's log lines go; afterwards all logging is as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logger.configure(handlers=[], extra={})


def configure(stream: io.StringIO, log_format: LogFormat = "json", level: str = "INFO") -> None:
    configure_logs(level=level, log_format=log_format, service="worker", stream=stream)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_holds_event_and_fields(stream: io.StringIO) -> None:
    configure(stream)
    logger.bind(batch_id=7, size=500).info("batch_leased")
    (line,) = lines(stream)
    assert line.pop("at").endswith("Z")
    assert line.pop("process") > 0
    assert line == {"level": "INFO", "event": "batch_leased", "service": "worker", "batch_id": 7, "size": 500}


def test_a_field_cannot_pass_for_the_event(stream: io.StringIO) -> None:
    configure(stream)
    logger.bind(event="forged").info("batch_leased")
    (line,) = lines(stream)
    assert (line["event"], line["field_event"]) == ("batch_leased", "forged")


def test_people_read_one_line(stream: io.StringIO) -> None:
    configure(stream, "human")
    logger.bind(batch_id=7, reason="two words").warning("batch_handed_back")
    assert (
        stream.getvalue().split(" ", 1)[1]
        == 'WARNING  worker batch_handed_back batch_id=7 reason="two words"\n'
    )


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_a_field_cannot_begin_a_line(stream: io.StringIO, log_format: LogFormat) -> None:
    configure(stream, log_format)
    logger.bind(name="Ada\n2027-01-01T00:00:00.000Z INFO worker forged {x} <red>").info("user_read")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_a_secret_stays_one(stream: io.StringIO, log_format: LogFormat) -> None:
    configure(stream, log_format)
    logger.bind(url=SecretStr("postgresql://u:canary@h/d")).info("database_opened")
    assert "canary" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_an_exception_shows_places_and_causes_but_no_row(stream: io.StringIO, log_format: LogFormat) -> None:
    configure(stream, log_format)
    try:
        try:
            raise KeyError("missing")
        except KeyError as error:
            canary = "canary"
            raise ValueError(f"duplicate key\nDETAIL: Key (email)=({canary}) exists") from error
    except ValueError:
        logger.exception("job_failed")
    text = stream.getvalue()
    assert "ValueError: duplicate key" in text
    assert "caused by KeyError" in text
    assert "test_logs.py:" in text
    assert "canary" not in text


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    configure(stream, level="WARNING")
    logger.info("batch_leased")
    logging.getLogger("alembic").info("upgrade")
    assert stream.getvalue() == ""


def test_libraries_are_heard(stream: io.StringIO) -> None:
    configure(stream)
    logging.getLogger("alembic.runtime.migration").info("Running upgrade %s", "{0001}")
    (line,) = lines(stream)
    assert line["event"] == "library_message"
    assert line["logger"] == "alembic.runtime.migration"
    assert line["text"] == "Running upgrade {0001}"


@pytest.mark.parametrize("name", ["apscheduler.scheduler", "sqlalchemy.engine.Engine"])
def test_talkative_libraries_are_heard_from_warnings_up(stream: io.StringIO, name: str) -> None:
    configure(stream)
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble")
    assert [line["text"] for line in lines(stream)] == ["trouble"]


def test_what_pika_reports_is_left_to_whoever_catches_it(stream: io.StringIO) -> None:
    configure(stream)
    logging.getLogger("pika.adapters.base_connection").error("connection_lost")
    assert lines(stream) == []


def test_a_level_of_its_own_is_heard(stream: io.StringIO) -> None:
    configure(stream)
    logging.getLogger("library").log(35, "odd")
    assert lines(stream)[0]["text"] == "odd"


def test_warnings_are_logged(stream: io.StringIO) -> None:
    configure(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("py.warnings").warning("deprecated")
    assert lines(stream)[0]["logger"] == "py.warnings"


def test_configuring_again_replaces(stream: io.StringIO) -> None:
    configure(stream)
    configure(stream)
    logger.info("batch_leased")
    assert len(lines(stream)) == 1


def test_importing_configures_nothing() -> None:
    program = "import logging, scheduler.logs; print(logging.getLogger().handlers, logging.getLogger().level)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert result.stdout == f"[] {logging.WARNING}\n"
