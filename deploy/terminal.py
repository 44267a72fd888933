"""What several processes have to say, in one stream of whole lines, each with its source in front."""

from __future__ import annotations

import io
import re
from threading import Lock
from typing import Final, TextIO

import click

_COLOURS: Final = ("cyan", "green", "yellow", "magenta", "blue")
_SOURCE_WIDTH: Final = 10
_LEVEL_COLOURS: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}

# What `render_for_people` writes: instant, level, service, event.
_LOG_LINE: Final = re.compile(
    r"\d{4}-\d\d-\d\dT(?P<time>\d\d:\d\d:\d\d)\.\d+Z (?P<level>[A-Z]+) +\S+ (?P<event>\S+)(?P<fields>.*)"
)


class MergedOutput:
    """Writes lines from any thread. With `labelled` off they are written as they come: JSON stays JSON.

    With `coloured` somebody watches: then a log line says no more than its label and the hour leave open.
    """

    def __init__(self, stream: TextIO, *, labelled: bool, coloured: bool) -> None:
        self._stream = stream
        self._labelled = labelled
        self._coloured = coloured
        self._lock = Lock()
        self._colour_of: dict[str, str] = {}

    def write_line(self, source: str, line: str) -> None:
        """Write a line. Where nobody reads any more it is dropped: the processes must not stop for that."""
        shown = _for_the_eye(line) if self._coloured else line
        text = f"{self._label(source)} {shown}\n" if self._labelled else f"{shown}\n"
        with self._lock:
            try:
                self._stream.write(text)
                self._stream.flush()
            except OSError:
                return

    def stream_of(self, source: str) -> TextIO:
        """A text stream whose lines bear the name of `source`."""
        return _SourceStream(self, source)

    def _label(self, source: str) -> str:
        label = f"{source:<{_SOURCE_WIDTH}}|"
        if not self._coloured:
            return label
        colour = self._colour_of.setdefault(source, _COLOURS[len(self._colour_of) % len(_COLOURS)])
        return click.style(label, fg=colour)


def _for_the_eye(line: str) -> str:
    """A log line with its event in bold and its level only where that is not the usual one; others as they are."""
    match = _LOG_LINE.fullmatch(line)
    if match is None:
        return line
    level, colour = match["level"], _LEVEL_COLOURS.get(match["level"])
    words = [click.style(match["time"], dim=True), click.style(match["event"], bold=True, fg=colour)]
    if level != "INFO":
        words.insert(1, click.style(level.lower(), fg=colour))
    return " ".join(words) + match["fields"]


class _SourceStream(io.StringIO):
    """Keeps nothing: each write is whole lines and goes on at once."""

    def __init__(self, output: MergedOutput, source: str) -> None:
        super().__init__()
        self._output = output
        self._source = source

    def write(self, text: str, /) -> int:
        for line in text.splitlines():
            self._output.write_line(self._source, line)
        return len(text)
