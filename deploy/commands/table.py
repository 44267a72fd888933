"""A small table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between them; cells may hold colours."""
    lines = [headings, *rows]
    widths = [max(len(click.unstyle(cell)) for cell in column) for column in zip(*lines, strict=True)]
    first, *rest = [_line(line, widths) for line in lines]
    return "\n".join([click.style(first, bold=True), *rest])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()
