"""SQL stands in the store and in migrations; the state of a thing changes in one file of the store."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import code_strings, product_modules

OWNERS = {
    "message_log": [Path("scheduler/store/messages.py")],
    # Holds and priorities are no states: the second changes none.
    "batches": [Path("scheduler/store/batches.py"), Path("scheduler/store/batch_holds.py")],
}
# Roles and databases of the embedded server are asked for before there is a database to have a store in.
BEFORE_THE_STORE = Path("deploy/embedded/access.py")
# LISTEN and NOTIFY are how this broker works; its rows are the store's.
RINGS_THE_BELL = Path("scheduler/broker/postgres.py")
UPDATE = re.compile(r"\bupdate\s+(?:only\s+)?(?:\w+\.)?(?P<table>message_log|batches)\b", re.IGNORECASE)
STATEMENT = re.compile(
    r"\bselect\b.+\bfrom\b|\binsert\s+into\b|\bdelete\s+from\b|\bupdate\s+\S+\s+(\w+\s+)?set\b|\bmerge\s+into\b",
    re.IGNORECASE | re.DOTALL,
)
SQL_BUILDERS = {"text", "select", "insert", "update", "delete", "func", "Table"}


def state_updates(source: str) -> Iterator[tuple[int, str]]:
    """Line and table of each UPDATE of the message log or the batches: as text, or built with SQLAlchemy."""
    for line, words in code_strings(source):
        for match in UPDATE.finditer(words):
            yield line, match.group("table").lower()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            table = _updated_table(node)
            if table in OWNERS:
                yield node.lineno, table


def _updated_table(call: ast.Call) -> str:
    """The table of `update(batches)`, `sqlalchemy.update(batches)` or `batches.update()`; else nothing."""
    updated: ast.expr | None = None
    if isinstance(call.func, ast.Attribute) and call.func.attr == "update":
        updated = call.args[0] if call.args else call.func.value
    elif isinstance(call.func, ast.Name) and call.func.id == "update" and call.args:
        updated = call.args[0]
    match updated:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.lower()
        case _:
            return ""


def statements(source: str) -> Iterator[tuple[int, str]]:
    """Line and beginning of each SQL statement that `source` spells out."""
    for line, words in code_strings(source):
        if STATEMENT.search(words):
            yield line, " ".join(words.split())[:60]


def builders(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each import of what builds SQL."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
            for alias in node.names:
                if alias.name in SQL_BUILDERS:
                    yield node.lineno, f"from {node.module} import {alias.name}"


def test_states_change_in_their_own_store_only() -> None:
    found = [
        f"{path}:{line}: UPDATE {table}"
        for path, source in product_modules()
        if path.parts[0] != "migrations"
        for line, table in state_updates(source)
        if path not in OWNERS[table]
    ]
    assert not found


def elsewhere() -> Iterator[tuple[Path, str]]:
    """The modules that are to leave SQL to the store."""
    for path, source in product_modules():
        in_store = path.parts[0] == "migrations" or path.parts[:2] == ("scheduler", "store")
        if not in_store and path != BEFORE_THE_STORE:
            yield path, source


def test_sql_stands_in_the_store_and_in_migrations_only() -> None:
    found = [f"{path}:{line}: {words}" for path, source in elsewhere() for line, words in statements(source)]
    assert not found


def test_sql_is_built_in_the_store_and_in_migrations_only() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path, source in elsewhere()
        if path != RINGS_THE_BELL
        for line, name in builders(source)
    ]
    assert not found


@pytest.mark.parametrize(
    "snippet",
    [
        'text("UPDATE message_log SET state = :state")',
        'text(f"WITH a AS (update only public.batches SET {columns})")',
        "connection.execute(update(message_log).values(state=1))",
        "sqlalchemy.update(tables.batches)",
        "batches.update().where(batches.c.id == 1)",
    ],
)
def test_an_update_of_a_state_is_found(snippet: str) -> None:
    assert list(state_updates(snippet))


@pytest.mark.parametrize("snippet", ['seen.update({"a": 1})', 'text("SELECT 1 FROM batches FOR UPDATE")'])
def test_other_updates_are_allowed(snippet: str) -> None:
    assert not list(state_updates(snippet))


@pytest.mark.parametrize(
    "snippet",
    [
        'connection.execute("SELECT id\\nFROM users")',
        'text(f"INSERT INTO {table} VALUES (1)")',
    ],
)
def test_a_statement_is_found(snippet: str) -> None:
    assert list(statements(snippet))


@pytest.mark.parametrize(
    "snippet", ["from sqlalchemy import Connection, text", "from sqlalchemy.sql import func"]
)
def test_a_builder_is_found(snippet: str) -> None:
    assert list(builders(snippet))


def test_a_docstring_and_a_connection_are_allowed() -> None:
    source = '"""Select users from the table."""\nfrom sqlalchemy import Connection'
    assert not [*statements(source), *builders(source)]
