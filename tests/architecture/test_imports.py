"""Modules import only what the contracts allow, and importing one opens nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, module_name, product_modules

# Alembic runs these two kinds of file itself, inside a migration: they are no modules to import.
RUN_BY_ALEMBIC = ("migrations/env.py", "migrations/versions/")


def import_alone(root: Path, *modules: str) -> str:
    """What was wrong with importing `modules` in a new process; empty if nothing."""
    result = subprocess.run(
        # Without -B, whoever imports a module for the first time writes its bytecode.
        [sys.executable, "-B", str(Path(__file__).with_name("import_watched.py")), str(root), *modules],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        cwd=root,
    )
    return result.stderr if result.returncode else ""


def test_importing_any_module_opens_nothing() -> None:
    names = [
        module_name(path)
        for path, _ in product_modules()
        if not path.as_posix().startswith(RUN_BY_ALEMBIC) and path.stem != "__main__"
    ]
    assert import_alone(ROOT, *names) == ""


@pytest.mark.parametrize(
    "statement",
    [
        "import os\nhome = os.environ['HOME']",
        "import os\nlevel = os.getenv('DAYBREAK_LOG_LEVEL', 'INFO')",
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "import subprocess\nsubprocess.run(['true'])",
        "open('created', 'w')",
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
    ],
)
def test_a_module_that_opens_something_is_found(statement: str, tmp_path: Path) -> None:
    (tmp_path / "opens_something.py").write_text(statement)
    assert "importing" in import_alone(tmp_path, "opens_something")


def test_import_contracts_are_kept() -> None:
    result = _lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


def test_a_broken_contract_is_found(tmp_path: Path) -> None:
    for package in ("scheduler", "worker", "api", "migrations", "deploy"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "worker" / "wrong.py").write_text('"""Reaches across."""\n\nimport api\n')
    result = _lint_imports(tmp_path)
    assert result.returncode == 1
    assert "worker.wrong -> api" in result.stdout


def _lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; "
        "lint_imports_command(['--no-cache', '--no-logo'])"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True, timeout=60, cwd=root
    )
