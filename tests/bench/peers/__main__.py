"""`python -m tests.bench.peers NAME install` or `NAME enqueue FIRST COUNT`: what has no command of its own."""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> None:
    """Do what the arguments say."""
    name, action, *numbers = sys.argv[1:]
    peer = import_module(f"tests.bench.peers.{name}_peer")
    if action == "enqueue" or hasattr(peer, action):
        getattr(peer, action)(*map(int, numbers))


if __name__ == "__main__":
    main()
