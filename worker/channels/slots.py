"""How many requests of one provider a process has in flight, over all its threads."""

from __future__ import annotations

from threading import Lock


class RequestSlots:
    """`most` slots, to be taken without waiting and given back."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError("at least one request must be possible")
        self._free = most
        self._lock = Lock()

    def take(self) -> bool:
        """Whether there was a free slot, which is now the caller's."""
        with self._lock:
            if self._free == 0:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        """Free a slot that was taken."""
        with self._lock:
            self._free += 1
