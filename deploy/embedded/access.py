"""The two ways into an embedded server: as its administrator, and as the application."""

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL

from deploy.embedded.cluster import ADMINISTRATOR, Credentials

APPLICATION = "daybreak"  # the role, and its database
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Access:
    """Where a server listens, and the passwords it asks for."""

    port: int
    credentials: Credentials = field(repr=False)

    def url(self, database: str = APPLICATION) -> str:
        """SQLAlchemy's URL of a database as the application's role, with the password."""
        password = self.credentials.application
        url = URL.create(
            "postgresql+psycopg", APPLICATION, password, host=HOST, port=self.port, database=database
        )
        return url.render_as_string(hide_password=False)

    def administrate(self) -> psycopg.Connection[Any]:
        """A connection as the superuser, each statement a transaction of its own. Errors: psycopg.Error."""
        return self._connect(ADMINISTRATOR, self.credentials.administrator, "postgres")

    def ensure_application(self) -> None:
        """Create the application's role and database where they are missing. Errors: psycopg.Error.

        The role is no superuser and does not bypass row-level security, which is to hold for it.
        """
        role = sql.Identifier(APPLICATION)
        with self.administrate() as connection:
            if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [APPLICATION]).rowcount:
                create_role = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD {}")
                connection.execute(create_role.format(role, sql.Literal(self.credentials.application)))
            if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [APPLICATION]).rowcount:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))

    def setting(self, name: str) -> str | None:
        """A setting of the server as the application sees it, or None if it is not let in."""
        try:
            with self._connect(APPLICATION, self.credentials.application, APPLICATION) as connection:
                row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
        except psycopg.OperationalError:
            return None
        return None if row is None else str(row[0])

    def _connect(self, user: str, password: str, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user=user,
            password=password,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )
