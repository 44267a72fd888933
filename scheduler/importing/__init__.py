"""Import people from CSV or NDJSON, as a stream, chunk by chunk.

By default bad rows are told and good ones are kept. With `check_users` first, nothing is written unless every row is
right. Either way a chunk of some thousand users is one transaction with its plan: where the database fails midway,
the chunks before stay written, and to import the same file again makes it whole. Of two rows with one external id the
later counts. While chunks are written the next are read, so `registry` works in threads of its own; some chunks
are in memory, however long the file is.
"""

from scheduler.importing.chunks import RejectedRow
from scheduler.importing.lines import MAX_ROW_BYTES, read_lines
from scheduler.importing.reading import ImportForm
from scheduler.importing.users import (
    Event,
    Events,
    UserRegister,
    check_users,
    follow,
    import_events,
    import_users,
)
from scheduler.importing.writing import ImportProgress, ImportSummary

__all__ = [
    "MAX_ROW_BYTES",
    "Event",
    "Events",
    "ImportForm",
    "ImportProgress",
    "ImportSummary",
    "RejectedRow",
    "UserRegister",
    "check_users",
    "follow",
    "import_events",
    "import_users",
    "read_lines",
]
