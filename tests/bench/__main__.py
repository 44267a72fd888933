"""Measure everything, print the table and write `results/latest.json`.

    python -m tests.bench [--works drain,batched,…] [--short] [--no-peers] [--rounds 5]

`--short` is for continuous integration: under a minute, no peers. What is measured and how is in README.md.
Nothing is asserted about time.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Final

import click
from loguru import logger

from scheduler.logs import configure_logs
from tests.bench import machine
from tests.bench.environment import PEERS_FOLDER, SHORT, Environment, Sizes, environment
from tests.bench.measures import Result
from tests.bench.processes import ROOT
from tests.bench.report import Report
from tests.bench.works import api, burst, drain_batched, drain_single, memory_held, plan, punctuality, tick

WORKS: Final[dict[str, Callable[[Environment], Sequence[Result]]]] = {
    "drain": drain_single.measure,
    "batched": drain_batched.measure,
    "punctuality": punctuality.measure,
    "plan": plan.measure,
    "tick": tick.measure,
    "burst": burst.measure,
    "api": api.measure_api,
    "import": api.measure_import,
    "memory": memory_held.measure,
}
"""In the order they are done: punctuality before millions of rows are left to be vacuumed beside it, the tick after
planning, whose log it looks at, and memory at what all of them used."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the works that were asked for."""
    options = _options(arguments)
    configure_logs(level="WARNING", log_format="human", service="bench")
    sizes = _sizes(options)
    with environment(sizes, workers=options.workers, with_peers=options.peers and not options.short) as made:
        described = machine.describe(made.folder) | {
            "postgresql": made.server.access.setting("server_version"),
            "form": "short" if options.short else "full",
            "worker_processes": options.workers,
        }
        _warn(made, described, wants_peers=options.peers and not options.short)
        results: list[Result] = []
        failed: list[str] = []
        started = perf_counter()
        for name in options.works:
            begun = perf_counter()
            made.say(f"{name}:")
            try:
                results += WORKS[name](made)
            except Exception as error:
                # Minutes of other works are not thrown away for one that failed; the run ends as failed.
                logger.exception("work_failed")
                made.note(f"{name.upper()} FAILED: {error}")
                failed.append(name)
            made.say(f"  took {perf_counter() - begun:.0f} s")
        made.say(f"all took {perf_counter() - started:.0f} s\n")
        report = Report(described, results, made.notes)
    click.echo(report.table())
    path = report.write()
    click.echo(f"\n{path}")
    _draw(path)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--works", type=_works, default=list(WORKS), help="with commas between them")
    parser.add_argument("--short", action="store_true", help="small, without peers")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="ours and the limits alone")
    parser.add_argument("--rounds", type=int, help="at least one")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of ours")
    parser.add_argument("--punctual-seconds", type=int, help="how long punctuality is measured")
    parser.add_argument("--future-rows", type=int, help="rows in the large log")
    return parser.parse_args(arguments)


def _works(names: str) -> list[str]:
    chosen = names.split(",")
    if unknown := set(chosen) - set(WORKS):
        raise argparse.ArgumentTypeError(f"there is no work {', '.join(sorted(unknown))}: {', '.join(WORKS)}")
    return [name for name in WORKS if name in chosen]


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = SHORT if options.short else Sizes()
    changes = {
        "rounds": options.rounds,
        "log": options.future_rows,
        "punctual_seconds": options.punctual_seconds,
    }
    return replace(sizes, **{name: value for name, value in changes.items() if value is not None})


def _warn(made: Environment, described: dict[str, object], *, wants_peers: bool) -> None:
    if not machine.is_idle(described):
        made.note(f"the machine was busy before the run: load {described['load_before']}")
    if made.peers is None and wants_peers:
        made.note(f"no peers: {PEERS_FOLDER.name} is missing, `make bench` makes it")
    if described["file_system"] in ("tmpfs", "ramfs"):
        made.note("the data lies in memory: fsync costs nothing here, and the figures are worth little")


def _draw(results: Path) -> None:
    """Draw the chart, where the peers' environment is there with what draws it."""
    python = PEERS_FOLDER / "bin" / "python"
    if not python.exists():
        return
    chart = results.with_suffix(".png")
    command = [str(python), str(Path(__file__).parent / "peers" / "chart.py"), str(results), str(chart)]
    drawn = subprocess.run(command, cwd=ROOT, check=False)
    click.echo(str(chart) if drawn.returncode == 0 else "the chart could not be drawn")


if __name__ == "__main__":
    main()
