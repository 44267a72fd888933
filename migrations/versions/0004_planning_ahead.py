"""Plans that write ahead of an occasion's watermark, and how far they may have written."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add to what is there; a running release of 0003 does without it."""
    op.execute("ALTER TABLE occasions ADD ahead_through timestamptz")
