"""The embedded PostgreSQL server, started for real in each of the ways it can run."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import make_url

from deploy.embedded import Durability, EmbeddedServer, RunAs, start_embedded, throwaway_server
from deploy.embedded.account import Account, choose_account
from deploy.embedded.log_segments import AHEAD
from scheduler.errors import ConfigurationError, DatabaseUnavailable
from tests.fixtures.databases import DatabaseCopies

# Only root can be somebody else.
WAYS = [RunAs.namespace, RunAs.user] if os.geteuid() == 0 else [choose_account(Path("/nowhere")).run_as]

every_way = pytest.mark.parametrize("run_as", WAYS)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder, yet to be made, that every account can reach; pytest's own are closed."""
    path = Path(tempfile.gettempdir()) / f"daybreak-test-{secrets.token_hex(8)}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def start(data_dir: Path, run_as: RunAs | None = None) -> EmbeddedServer:
    return start_embedded(data_dir, durability=Durability.throwaway, run_as=run_as)


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    # Not psycopg's row factory: a statement without rows has nothing to fetch.
    with psycopg.connect(plain, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def modes_of_parents(path: Path) -> dict[Path, int]:
    return {parent: parent.stat().st_mode for parent in path.parents}


@every_way
def test_a_restart_keeps_the_data_and_changes_no_folder_above(data_dir: Path, run_as: RunAs) -> None:
    programs = Path(sys.prefix) / "lib"
    before = modes_of_parents(data_dir) | modes_of_parents(programs)
    with start(data_dir, run_as) as server:
        assert server.is_running()
        execute(server.url, "CREATE TABLE kept AS SELECT 7 AS number")
    assert not server.is_running()
    with start(data_dir, run_as) as server:
        assert execute(server.url, "SELECT number FROM kept") == [(7,)]
    assert modes_of_parents(data_dir) | modes_of_parents(programs) == before


@every_way
def test_the_server_has_no_privileges(data_dir: Path, run_as: RunAs) -> None:
    with start(data_dir, run_as) as server:
        status = Path(f"/proc/{server.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "CapPrm:\t0000000000000000" in status


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand files over")
def test_data_follows_when_namespaces_are_refused_later(data_dir: Path) -> None:
    with start(data_dir, RunAs.namespace) as server:
        execute(server.url, "CREATE TABLE kept ()")
    with start(data_dir, RunAs.user) as server:
        assert execute(server.url, "SELECT FROM kept") == []
    assert choose_account(data_dir / "postgresql").run_as is RunAs.user


def test_nobody_else_can_read_the_passwords(data_dir: Path) -> None:
    with start(data_dir) as server:
        password = str(make_url(server.url).password)
        assert password not in repr(server)
        assert password not in " ".join(psutil.Process(server.pid).cmdline())
        assert password not in psutil.Process(server.pid).environ().values()
        assert password not in server.log_path.read_text()
    holders = [path for path in data_dir.iterdir() if path.is_file() and password in path.read_text()]
    assert [path.stat().st_mode & 0o777 for path in holders] == [0o600]


def test_a_wrong_password_is_refused(database_server: EmbeddedServer) -> None:
    guess = make_url(database_server.url).set(password="guess").render_as_string(hide_password=False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        execute(guess, "SELECT 1")


def test_the_urls_role_is_not_above_row_level_security(database_server: EmbeddedServer) -> None:
    roles = execute(
        database_server.url,
        "SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user",
    )
    assert roles == [("daybreak", False, False)]


def test_failed_statements_leave_no_values_in_the_log(database_server: EmbeddedServer) -> None:
    with pytest.raises(psycopg.DataError):
        execute(database_server.url, "SELECT 'canary@example.org'::date")
    assert "canary" not in database_server.log_path.read_text()


def test_a_second_start_attaches_and_leaves_the_stopping_to_the_first(data_dir: Path) -> None:
    with start(data_dir) as first:
        with start(data_dir) as second:
            assert second.attached
            assert (second.url, second.pid) == (first.url, first.pid)
        assert first.is_running()
        assert second.is_running()
    assert not second.is_running()


def test_simultaneous_starts_end_up_on_one_server(data_dir: Path) -> None:
    starters = [start_in_child(data_dir) for _ in range(3)]
    try:
        assert len({read_pid(starter) for starter in starters}) == 1
    finally:
        for starter in starters:
            starter.communicate(b"\n")


def test_durable_use_of_a_running_throwaway_server_is_refused(data_dir: Path) -> None:
    with start(data_dir), pytest.raises(ConfigurationError, match="throwaway"):
        start_embedded(data_dir)


def test_the_default_is_durable(data_dir: Path) -> None:
    with start_embedded(data_dir) as server:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert execute(server.url, f"SHOW {name}") == [("on",)]


@every_way
def test_a_killed_server_recovers_at_the_next_start(data_dir: Path, run_as: RunAs) -> None:
    with start_embedded(data_dir, run_as=run_as) as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 7 AS number")
        # Into a segment of the log that was filled ahead.
        with server.access.administrate() as administrator:
            administrator.execute("SELECT pg_switch_wal()")
        execute(server.url, "UPDATE kept SET number = 8")
        os.kill(server.pid, signal.SIGKILL)
        with start_embedded(data_dir, run_as=run_as) as next_server:
            assert not next_server.attached
            assert execute(next_server.url, "SELECT number FROM kept") == [(8,)]
        assert not server.is_running()


def test_no_commit_of_a_new_server_waits_for_a_segment_of_the_log_to_be_made(data_dir: Path) -> None:
    log = data_dir / "postgresql" / "pg_wal"
    with start_embedded(data_dir) as server, server.access.administrate() as administrator:
        found = {path.name: path.stat().st_ino for path in log.iterdir()}
        for _ in range(AHEAD):
            administrator.execute("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()")
        administrator.execute("SELECT pg_logical_emit_message(true, 'test', 'x')")
        row = administrator.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()
        assert row is not None
        assert (log / row[0]).stat().st_ino == found[row[0]]
        assert {path.name: path.stat().st_ino for path in log.iterdir()} == found


def test_a_stale_entry_that_names_a_living_stranger_does_not_matter(data_dir: Path) -> None:
    with start(data_dir) as server:
        entry = data_dir / "postgresql" / "postmaster.pid"
        lines = entry.read_text().splitlines()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        entry.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        with start(data_dir) as next_server:
            assert next_server.pid not in (server.pid, stranger.pid)
        stranger.kill()


def test_the_server_ends_when_its_parent_is_killed(data_dir: Path) -> None:
    starter = start_in_child(data_dir)
    server = psutil.Process(read_pid(starter))
    starter.kill()
    starter.communicate()
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running()
    assert "database system is shut down" in (data_dir / "postgresql.log").read_text()


def test_a_thread_may_not_start_it(data_dir: Path) -> None:
    refusals: list[RuntimeError] = []

    def start_here() -> None:
        try:
            start(data_dir)
        except RuntimeError as refusal:
            refusals.append(refusal)

    thread = threading.Thread(target=start_here)
    thread.start()
    thread.join()
    assert "main thread" in str(refusals[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody but root needs to be somebody else")
def test_root_becomes_a_user_where_namespaces_are_refused(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    can_run = Account.can_run
    monkeypatch.setattr(
        Account,
        "can_run",
        lambda account, program: account.run_as is not RunAs.namespace and can_run(account, program),
    )
    with start(data_dir) as server:
        assert psutil.Process(server.pid).username() == "nobody"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can serve the data of somebody else")
def test_in_somebody_elses_folder_everything_stays_theirs(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    owner = pwd.getpwnam("daemon")
    os.chown(data_dir, owner.pw_uid, owner.pw_gid)
    with start(data_dir) as server:
        assert psutil.Process(server.pid).username() == "daemon"
    assert {path.stat().st_uid for path in data_dir.rglob("*") if "binaries" not in str(path)} == {
        owner.pw_uid
    }


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file/data cannot be made .*DAYBREAK_DATA_DIR"):
        start(tmp_path / "file" / "data")


def test_data_of_another_version_is_refused(data_dir: Path) -> None:
    (data_dir / "postgresql").mkdir(parents=True)
    (data_dir / "postgresql" / "PG_VERSION").write_text("15\n")
    with pytest.raises(ConfigurationError, match="written by PostgreSQL 15, this is 18"):
        start(data_dir)


def test_a_port_in_use_is_named(data_dir: Path, database_server: EmbeddedServer) -> None:
    with pytest.raises(DatabaseUnavailable, match=rf"on port {database_server.port}: .*TCP/IP sockets"):
        start_embedded(data_dir, port=database_server.port)


def test_an_unknown_setting_is_named(data_dir: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="no_such_setting"):
        start_embedded(data_dir, settings={"no_such_setting": "1"})


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody but root needs to be somebody else")
def test_a_folder_out_of_reach_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigurationError, match=r"DAYBREAK_DATA_DIR.*DAYBREAK_DATABASE_URL"):
        start(tmp_path / "data", RunAs.user)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_programs_out_of_reach_are_copied_beside_the_data(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    can_run = Account.can_run
    monkeypatch.setattr(
        Account,
        "can_run",
        lambda account, program: Path(program[0]).is_relative_to("/bin") and can_run(account, program),
    )
    with start(data_dir, WAYS[-1]) as server:
        assert Path(psutil.Process(server.pid).exe()).is_relative_to(data_dir)


def test_a_dropped_database_takes_its_sessions_with_it(database_server: EmbeddedServer) -> None:
    url = make_url(database_server.create_database("dropped")).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        database_server.drop_database("dropped")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_copies_of_the_migrated_database_are_apart(database_copies: DatabaseCopies) -> None:
    with database_copies.copy() as one, database_copies.copy() as other:
        execute(one, "CREATE TABLE only_here ()")
        assert execute(one, "SELECT version_num FROM alembic_version")
        assert execute(other, "SELECT to_regclass('only_here')") == [(None,)]


def test_a_throwaway_server_leaves_nothing() -> None:
    with throwaway_server() as server:
        folder = server.log_path.parent
        assert folder.exists()
    assert not folder.exists()


def start_in_child(data_dir: Path) -> subprocess.Popen[bytes]:
    """A process that starts the server, prints its number and holds it until it is sent a line."""
    program = (
        "from pathlib import Path; from deploy.embedded import Durability, start_embedded\n"
        f"with start_embedded(Path({str(data_dir)!r}), durability=Durability.throwaway) as server:\n"
        "    print(server.pid, flush=True); input()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )


def read_pid(starter: subprocess.Popen[bytes]) -> int:
    assert starter.stdout is not None
    return int(starter.stdout.readline())
