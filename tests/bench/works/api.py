"""The API and the import, by `tests.load`: the real server and the real register beside a PostgreSQL of their own.

The peer is a Node system of the same shape (Fastify, Drizzle, RabbitMQ) that was measured on two cores; it is
quoted, not run here. It has no import: creating users is what it has to compare with.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from tests.bench.environment import Environment
from tests.bench.measures import OURS, Result, Round, summarize
from tests.bench.processes import ROOT
from tests.bench.report import number

_CREATED: Final = 277.0
_READ: Final = 1157.0
_QUOTED: Final = "Node, quoted"
_PEERS: Final = {"create": {_QUOTED: _CREATED}, "read": {_QUOTED: _READ}, "change": {}, "delete": {}}
_FIGURE: Final = r"([\d,.]+)"
_REQUESTS: Final = re.compile(
    rf"^(\w+) +[\d,]+ +{_FIGURE} +{_FIGURE} ms +{_FIGURE} ms +{_FIGURE} ms", re.MULTILINE
)
_PEOPLE: Final = re.compile(rf"{_FIGURE} people a second")


def measure_api(environment: Environment) -> Sequence[Result]:
    """Requests a second of each kind at sixteen connections, and the 99th percentile of their latency."""
    sizes = environment.sizes
    arguments = ["--users", str(sizes.api_users), "--reads", str(sizes.api_reads)]
    rates: dict[str, list[Round]] = {name: [] for name in _PEERS}
    slowest: dict[str, list[Round]] = {name: [] for name in _PEERS}
    for _ in range(sizes.rounds):
        found = dict(kinds(_run("tests.load.api", *arguments)))
        for name, quoted in _PEERS.items():
            rate, latency = found[name]
            rates[name].append({OURS: rate, **quoted})
            slowest[name].append({OURS: latency})
        _say(environment, ", ".join(f"{name} {number(found[name][0])}" for name in _PEERS) + " requests/s")
    return [
        *(summarize(f"API: {name}", "requests/s", rates[name]) for name in _PEERS),
        *(summarize(f"API: {name}, latency p99", "ms", slowest[name]) for name in _PEERS),
    ]


def measure_import(environment: Environment) -> Sequence[Result]:
    """People a second that are imported from a file, with two dates each, and planned."""
    sizes = environment.sizes
    printed = _run("tests.load.imports", "--people", str(sizes.imported), "--turns", str(sizes.rounds))
    rates = [_number(each) for each in _PEOPLE.findall(printed)]
    _say(environment, ", ".join(map(number, rates)) + " people/s")
    rounds = [{OURS: rate, _QUOTED: _CREATED} for rate in rates]
    return [summarize(f"import {sizes.imported:,} people", "people/s", rounds)]


def kinds(printed: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """Rate and 99th percentile by the kind of the request, of the table that `tests.load.api` prints."""
    for name, rate, _, _, latency in _REQUESTS.findall(printed):
        yield name, (_number(rate), _number(latency))


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{arguments[0]} failed:\n{ran.stderr[-2000:]}")
    return ran.stdout


def _number(printed: str) -> float:
    return float(printed.replace(",", ""))


def _say(environment: Environment, figures: str) -> None:
    environment.say(f"  {figures}")
