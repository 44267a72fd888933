"""The database's numbered history, applied by `daybreak db upgrade` (Alembic)."""
