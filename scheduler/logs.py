"""Structured logs: a constant event name plus fields, one line each, as JSON or for people.

    logger.bind(batch_id=7, size=500).info("batch_leased")

Fields never hold a message body, an address or a key; a secret is bound as `SecretStr`, which masks itself.
Of an exception only the types, first lines and places are logged: further lines and local variables are
where database drivers put the row. Importing this module changes no logger: composition roots call
`configure_logs`.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

import orjson
from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record

LogFormat = Literal["human", "json"]

# Libraries that say more than their operators want to know: each is heard from this level up.
LIBRARY_LEVELS: Mapping[str, int] = {
    "alembic.runtime.plugins": logging.WARNING,
    "apscheduler": logging.WARNING,
    # What it reports as an error raises as well, and is logged by whoever catches it.
    "pika": logging.CRITICAL,
    "sqlalchemy": logging.WARNING,
}


def configure_logs(*, level: str, log_format: LogFormat, service: str, stream: TextIO | None = None) -> None:
    """Send this process's logs, loguru's and the standard library's, to `stream` (default: standard error).

    `level` is the least severe level written (loguru's names); `service` names the process in every line.
    Calling it again replaces what was configured before. Raises ValueError for an unknown level.
    """
    render = render_json if log_format == "json" else render_for_people
    target = sys.stderr if stream is None else stream

    def write(message: "Message") -> None:
        target.write(render(message.record) + "\n")
        target.flush()

    logger.configure(handlers=[], extra={"service": service})
    logger.add(write, level=level, format="{message}", backtrace=False, diagnose=False)
    _hear_standard_library(logger.level(level).no)


class InterceptHandler(logging.Handler):
    """Hands the standard library's records (Alembic, APScheduler, gunicorn, pika) to loguru.

    They all bear the event name `library_message`; what the library wrote is the field `text`.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log `record` as an event."""
        bound = logger.bind(logger=record.name, text=record.getMessage())
        bound.opt(exception=record.exc_info).log(_level_of(record), "library_message")


def render_json(record: "Record") -> str:
    """One JSON object: `at` (RFC 3339, UTC), `level`, `event`, `process`, the fields, any `exception`."""
    line: dict[str, Any] = {
        "at": _instant(record),
        "level": record["level"].name,
        "event": record["message"],
        "process": record["process"].id,
    }
    line.update((f"field_{name}" if name in line else name, value) for name, value in record["extra"].items())
    if record["exception"] is not None:
        line["exception"] = list(_exception_lines(record["exception"].value))
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def render_for_people(record: "Record") -> str:
    """One line: instant, level, service, event and `name=value` fields; an exception follows, indented."""
    fields = dict(record["extra"])
    words = [
        _instant(record),
        f"{record['level'].name:<8}",
        str(fields.pop("service", "-")),
        record["message"],
    ]
    words += [f"{name}={_field_value(value)}" for name, value in fields.items()]
    lines = [" ".join(words)]
    if record["exception"] is not None:
        lines += [f"    {line}" for line in _exception_lines(record["exception"].value)]
    return "\n".join(lines)


def _hear_standard_library(level_number: int) -> None:
    logging.basicConfig(handlers=[InterceptHandler()], level=level_number, force=True)
    logging.captureWarnings(capture=True)
    for name, least_level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(least_level, level_number))


def _level_of(record: logging.LogRecord) -> str | int:
    try:
        return logger.level(record.levelname).name
    except ValueError:
        return record.levelno


def _instant(record: "Record") -> str:
    instant: datetime = record["time"]
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _field_value(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if text and text.isprintable() and " " not in text and '"' not in text:
        return text
    # Quoted, so that a value with a line break cannot pass itself off as a second event.
    return orjson.dumps(text.encode("utf-8", "replace").decode()).decode()


def _exception_lines(exception: BaseException | None) -> Iterator[str]:
    """The exception, then its causes: first line of the text, then where it passed, newest place first."""
    prefix, seen = "", set[int]()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        first_line = next(iter(str(exception).splitlines()), "")
        yield f"{prefix}{type(exception).__name__}" + (f": {first_line}" if first_line else "")
        for frame in reversed(traceback.extract_tb(exception.__traceback__)):
            yield f"at {frame.filename}:{frame.lineno} in {frame.name}"
        hidden = exception.__suppress_context__
        exception = exception.__cause__ or (None if hidden else exception.__context__)
        prefix = "caused by "
