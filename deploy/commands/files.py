"""Reading a file of rows at the terminal: what to call it, how far it is, and a list of the rows not taken."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Self, TextIO

import click

_SHOWN: Final = 5
_STANDARD_INPUT: Final = "standard input"

ShowProgress = Callable[[int, int], None]
"""Is told how many bytes and how many rows are done."""


class Rejections:
    """The list of rejected rows: a CSV file that appears with the first of them.

    Of a row's cells the first is its line in the file that was read, the last says what is wrong.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self._columns = columns
        self._first: list[Sequence[str]] = []
        self._file: TextIO | None = None

    def add(self, cells: Sequence[str]) -> None:
        """List a row. Raises click.FileError where the file cannot be written."""
        if len(self._first) < _SHOWN:
            self._first.append(cells)
        try:
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8", newline="")
                csv.writer(self._file).writerow(self._columns)
            csv.writer(self._file).writerow(cells)
        except OSError as error:
            raise click.FileError(str(self.path), error.strerror) from None

    def show(self) -> None:
        """Print the first of them, and where all are."""
        for cells in self._first:
            click.echo(f"  line {cells[0]}: {cells[-1]}")
        click.echo(f"all rejected rows, with the reasons: {self.path}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def file_name(file: BinaryIO) -> str:
    """What to call a file."""
    name = str(getattr(file, "name", "<stdin>"))
    return _STANDARD_INPUT if name == "<stdin>" else name


def rejected_path(file: BinaryIO) -> Path:
    """Where rejected rows of a file are listed unless told otherwise."""
    name = file_name(file)
    return Path(f"{'stdin' if name == _STANDARD_INPUT else name}.rejected.csv")


@contextmanager
def progress_bar(file: BinaryIO) -> Iterator[ShowProgress]:
    """A bar on a terminal, if it is known how long the file is; nothing otherwise."""
    size = _size(file)
    with click.progressbar(
        length=size or 1,
        label=Path(file_name(file)).name,
        item_show_func=lambda rows: "" if rows is None else f"{rows:,} rows",
        file=sys.stderr,
        hidden=size == 0 or not sys.stderr.isatty(),
    ) as bar:
        yield lambda bytes_read, rows: bar.update(bytes_read - bar.pos, rows)
        bar.update(bar.length - bar.pos if bar.length else 0)


def _size(file: BinaryIO) -> int:
    """How many bytes a file has; 0 where that is not known before it is read."""
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0
