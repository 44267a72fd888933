"""A PostgreSQL of our own, so that Daybreak runs with nothing installed beforehand.

`start_embedded` gives a server whose data stays in a folder between runs, `throwaway_server` one that leaves
nothing behind. Why it is started like this: `deploy/decisions/0001-embedded-postgresql.md`.
"""

from deploy.embedded.account import RunAs
from deploy.embedded.server import EmbeddedServer
from deploy.embedded.start import Durability, start_embedded, throwaway_server

__all__ = ["Durability", "EmbeddedServer", "RunAs", "start_embedded", "throwaway_server"]
