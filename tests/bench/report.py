"""The report: a table for people, JSON for programs, a chart for both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.measures import LESS_IS_BETTER, Result, Span

RESULTS: Final = Path(__file__).parent / "results"
_HEADINGS: Final = ("work", "ours", "unit", "best peer", "ratio", "limit", "ratio")


@dataclass(frozen=True, slots=True)
class Report:
    """All results of a run, what it ran on, and what a reader must know of it."""

    machine: Mapping[str, Any]
    results: Sequence[Result]
    notes: Sequence[str]

    def as_json(self) -> list[dict[str, Any]]:
        """The content of the results file: every entry says where it was measured, and stands for itself."""
        run = {"machine": dict(self.machine), "notes": list(self.notes)}
        return [result.as_json() | run for result in self.results]

    def table(self) -> str:
        """The results as a Markdown table, which reads as it is."""
        rows = [_HEADINGS, *map(_row, self.results)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
        lines = [_line(row, widths) for row in rows]
        lines.insert(1, "|".join(["", *("-" * (width + 2) for width in widths), ""]))
        return "\n".join(lines)

    def write(self, folder: Path = RESULTS) -> Path:
        """Write `latest.json`; returns where."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "latest.json"
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")
        return path


def _row(result: Result) -> tuple[str, ...]:
    return (
        result.work,
        number(result.ours) + _ends(result.spread.get("ours")),
        result.unit,
        _best_peer(result),
        _ratio(result.ratio_to_best_peer, result.spread.get("ratio_to_best_peer")),
        "-" if result.limit is None else number(result.limit),
        _ratio(result.ratio_to_limit, result.spread.get("ratio_to_limit")),
    )


def _best_peer(result: Result) -> str:
    if not result.peers:
        return "-"
    choose = min if result.unit in LESS_IS_BETTER else max
    name = choose(result.peers, key=lambda each: result.peers[each])
    return f"{name} {number(result.peers[name])}"


def _ratio(ratio: float | None, span: Span | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" + ("" if span is None else f" ({span[0]:.2f} to {span[1]:.2f})")


def _ends(span: Span | None) -> str:
    return "" if span is None or span[0] == span[1] else f" ({number(span[0])} to {number(span[1])})"


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        f" {cell:<{width}} " if column in (0, 2) else f" {cell:>{width}} "
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "|".join(["", *padded, ""])
