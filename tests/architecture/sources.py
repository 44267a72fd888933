"""The repository as the architecture tests see it: its files and their syntax trees."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("scheduler", "worker", "api", "migrations", "deploy")
NOT_OURS = {".git", ".venv", "build", "dist", "node_modules"}


@cache
def files() -> tuple[Path, ...]:
    """Every file of the project, relative to its root: what git tracks or would track, if there is git."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"],
        capture_output=True,
        check=False,
        text=True,
    )
    if listing.returncode == 0:
        names = [Path(name) for name in listing.stdout.split("\0") if name]
    else:
        names = [path.relative_to(ROOT) for path in ROOT.rglob("*") if not _is_made(path)]
    return tuple(sorted(name for name in names if (ROOT / name).is_file()))


def _is_made(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return bool(NOT_OURS.intersection(parts)) or any(
        part == "__pycache__" or part.endswith(("_cache", ".egg-info")) for part in parts
    )


def product_modules() -> Iterator[tuple[Path, str]]:
    """Path and source text of every Python file that is not a test."""
    for path in files():
        if path.suffix == ".py" and path.parts[0] in PACKAGES:
            yield path, (ROOT / path).read_text("utf-8")


def module_name(path: Path) -> str:
    """`scheduler/store/__init__.py` is the module `scheduler.store`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def code_strings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string in `source` that is no docstring; the gaps of an f-string are `{}`."""
    tree = ast.parse(source)
    skipped = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped.update(map(id, node.values))
            yield node.lineno, "".join(_piece(value) for value in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def _docstrings(tree: ast.AST) -> set[int]:
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def _piece(value: ast.expr) -> str:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else "{}"


def dotted_name(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute; empty for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted_name(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""
