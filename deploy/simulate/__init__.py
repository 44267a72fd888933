"""The whole of Daybreak on a simulated clock: the real planner, jobs, broker and worker, and no waiting.

`Simulation` runs them against any migrated database; `command` is `daybreak simulate`, which brings a
throw-away database and reports what was sent.
"""

from deploy.simulate.invocation import command
from deploy.simulate.ledger import Acceptance, LedgerProvider
from deploy.simulate.simulation import Downtime, Simulation

__all__ = ["Acceptance", "Downtime", "LedgerProvider", "Simulation", "command"]
