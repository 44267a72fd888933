"""The most that each process held at any time of the run, and by how much a long-lived one grew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.bench.environment import Environment
from tests.bench.measures import Result, single
from tests.bench.peer_runs import PEERS

_OURS: Final = ("worker", "scheduler")


def measure(environment: Environment) -> Sequence[Result]:
    """What was seen in the works before; the peers' largest process is beside our worker."""
    peaks = environment.memory.peaks
    results = []
    for role in _OURS:
        if role not in peaks:
            continue
        peers = (
            {peer.name: peaks[peer.name] for peer in PEERS if peer.name in peaks} if role == "worker" else {}
        )
        ratio = min(peers.values()) / peaks[role] if peers else None
        results.append(
            single(f"memory: {role} at most", "MB", peaks[role], peers=peers, ratio_to_best_peer=ratio)
        )
        growth = environment.memory.growth(role)
        if growth is not None:
            results.append(single(f"memory: {role} grew in its longest life by", "MB", growth))
    return results
