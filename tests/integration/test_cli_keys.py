"""`daybreak keys` and `daybreak tenants`: what they print, and that the keys they make let somebody in."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from click.testing import CliRunner, Result
from loguru import logger
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine

from deploy.cli import main
from deploy.data_folder import own_secret_key, with_secret_key
from deploy.demo import invitation
from deploy.first_key import announce_first_key, development_key
from deploy.supervisor import System
from scheduler.clock import SystemClock
from scheduler.settings import Settings
from tests.fixtures.api import GUARDED, USERS, guarded_client
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.usefixtures("command_alone")


class Run:
    """Calls `daybreak` in this process, on the test's database."""

    def __init__(self, database_url: str, folder: Path) -> None:
        secret = GUARDED.secret_key
        assert secret is not None
        self._settings = {
            "DAYBREAK_DATABASE_URL": database_url,
            "DAYBREAK_DATA_DIR": str(folder),
            "DAYBREAK_SECRET_KEY": secret.get_secret_value(),
        }

    def __call__(self, *arguments: str, **settings: str) -> Result:
        given = {f"DAYBREAK_{name}": value for name, value in settings.items()}
        return CliRunner().invoke(main, arguments, env=self._settings | given)


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    return Run(database_url, tmp_path / "data")


def lets_in(engine: Engine, key: str) -> bool:
    return guarded_client(engine, SystemClock(), key).get(USERS).status_code == 200


COMMANDS = [
    *(f"keys {name}" for name in ("", "create", "list", "rotate", "revoke")),
    "tenants",
    "tenants create",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_a_key_comes_is_rotated_and_goes(run: Run, engine: Engine) -> None:
    created = run("keys", "create", "program", "--role", "viewer", "--expires-in", "P90D")
    assert created.exit_code == 0
    assert re.fullmatch(r"dbk_\w{8}_\w{43}\n", created.stdout), "the key alone is on standard output"
    old = created.stdout.strip()
    assert lets_in(engine, old)
    new = json.loads(run("keys", "rotate", "1", "--overlap", "PT1H", "--json").stdout)["key"]
    assert lets_in(engine, old)
    assert lets_in(engine, new)
    assert run("keys", "revoke", "1").exit_code == 0
    assert not lets_in(engine, old)
    listed = json.loads(run("keys", "list", "--json").stdout)
    assert [(key["id"], key["state"], key["role"], key["created_by"]) for key in listed] == [
        (1, "revoked", "viewer", "cli"),
        (2, "active", "viewer", "cli"),
    ]
    shown = run("keys", "list").stdout
    assert shown.splitlines()[0].split()[:2] == ["ID", "NAME"]
    assert f"dbk_{listed[1]['prefix']}" in shown
    assert new.rpartition("_")[2] not in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["create", "x"], 2, "either --role or --scope"),
        (["create", "x", "--role", "viewer", "--scope", "users:read"], 2, "either --role or --scope"),
        (["create", "x", "--role", "queen"], 2, "'queen' is not one of"),
        (["create", "x", "--role", "viewer", "--expires-in", "soon"], 2, "ISO 8601"),
        (["create", "x", "--role", "viewer", "--tenant", "9"], 1, "daybreak: no tenant '9'\n"),
        (["revoke", "9"], 1, "daybreak: no API key '9'\n"),
        (["rotate", "9"], 1, "daybreak: no API key '9'\n"),
    ],
)
def test_what_cannot_be_done_is_said(run: Run, arguments: list[str], code: int, said: str) -> None:
    result = run("keys", *arguments)
    assert result.exit_code == code
    assert said in result.output


def test_without_a_secret_key_there_are_no_keys(run: Run) -> None:
    result = run("keys", "create", "x", "--role", "viewer", SECRET_KEY="")
    assert result.exit_code == 78
    assert result.output.startswith("daybreak: DAYBREAK_SECRET_KEY: got nothing")
    assert len(result.output.splitlines()) == 1


def test_a_tenant_and_its_first_key(run: Run, engine: Engine) -> None:
    assert run("tenants", "create", "second").stdout == "2\n"
    again = run("tenants", "create", "second")
    assert (again.exit_code, again.output) == (1, "daybreak: a tenant named 'second' exists already\n")
    assert run("tenants", "list").stdout.split() == ["ID", "NAME", "1", "default", "2", "second"]
    key = run("keys", "create", "program", "--role", "admin", "--tenant", "2").stdout.strip()
    assert lets_in(engine, key)
    assert json.loads(run("keys", "list", "--json").stdout) == []


def test_the_data_folders_secret_is_used_where_the_database_is_its_own_or_it_has_one(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data", SecretStr("postgresql://u@h/d")
    assert with_secret_key(Settings(data_dir=folder, api_authentication="none")).secret_key is None
    assert with_secret_key(Settings(data_dir=folder, database_url=elsewhere)).secret_key is None
    own = with_secret_key(Settings(data_dir=folder, database_url=elsewhere), is_whole_system=True).secret_key
    assert with_secret_key(Settings(data_dir=folder)).secret_key == own
    assert own == own_secret_key(folder)
    assert with_secret_key(Settings(data_dir=folder, database_url=elsewhere)).secret_key == own
    assert with_secret_key(Settings(data_dir=folder, secret_key=SecretStr("s" * 32))).secret_key != own


def test_a_database_that_is_away_is_waited_for_by_whoever_shows_the_first_key(
    database_url: str, engine: Engine
) -> None:
    said: list[str] = []
    warned: list[str] = []
    settings = GUARDED.model_copy(update={"database_url": SecretStr(database_url), "log_format": "human"})
    system = System(settings, "http://localhost", said.append, Event())
    operator = create_engine(engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    sink = logger.add(lambda line: warned.append(str(line)), format="{message}", level="WARNING")

    def allow_connections(answer: str) -> None:
        with operator.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} ALLOW_CONNECTIONS {answer}")

    allow_connections("false")
    with ThreadPoolExecutor(1) as pool:
        announced = pool.submit(announce_first_key, system)
        wait_until(lambda: warned, "it has found the database away")
        assert not announced.done()
        allow_connections("true")
        announced.result(30)
        assert "dbk_" in said[0]
        allow_connections("false")
        warned.clear()
        announced = pool.submit(announce_first_key, system)
        wait_until(lambda: warned, "it has found the database away again")
        system.stopping.set()
        announced.result(30)
    logger.remove(sink)
    operator.dispose()
    assert set(warned) == {"database_waited_for\n"}
    assert len(said) == 2


def test_the_first_key_is_shown_once_and_never_in_a_log(database_url: str, engine: Engine) -> None:
    said: list[str] = []

    def start(**changes: object) -> list[str]:
        said.clear()
        settings = GUARDED.model_copy(update={"database_url": SecretStr(database_url), **changes})
        announce_first_key(System(settings, "http://localhost", said.append, Event()))
        return said

    assert start(api_authentication="none") == []
    assert start(log_format="json") == ["no API key yet: `daybreak keys create NAME --role admin` makes one"]
    [key] = re.findall(r"dbk_\w+", "\n".join(start()))
    assert lets_in(engine, key)
    assert start() == []


def test_a_demonstration_goes_on_with_its_key_until_that_is_revoked(
    run: Run, engine: Engine, tmp_path: Path
) -> None:
    settings = GUARDED.model_copy(update={"data_dir": tmp_path / "data"})
    key = development_key(settings, engine, SystemClock())
    assert key is not None
    assert lets_in(engine, key)
    assert development_key(settings, engine, SystemClock()) == key
    assert (tmp_path / "data" / "development.key").stat().st_mode & 0o077 == 0
    run("keys", "revoke", "1")
    other = development_key(settings, engine, SystemClock())
    assert other not in (None, key)
    assert development_key(Settings(api_authentication="none"), engine, SystemClock()) is None


def test_a_demonstration_shows_its_key_to_people_and_never_in_a_log(tmp_path: Path) -> None:
    def told(key: str | None, **changes: object) -> str:
        settings = GUARDED.model_copy(update={"data_dir": tmp_path, **changes})
        return "\n".join(invitation(System(settings, "http://here", print, Event()), key))

    assert "http://here/#key=dbk_x" in told("dbk_x", log_format="human")
    assert "development: dbk_x" in told("dbk_x", log_format="human")
    in_log = told("dbk_x", log_format="json")
    assert "dbk_x" not in in_log
    assert str(tmp_path / "development.key") in in_log
    assert "none is needed" in told(None)
