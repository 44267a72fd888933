"""The table of risks in `deploy/security.md` is whole, and each test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ROW: Final = re.compile(r"^\| \*\*(API\d+) [^|]+\*\* \| [^|]{40,} \| ([^|]+) \|$", re.MULTILINE)
NAMED: Final = re.compile(r"`([\w/]+\.py)::(\w+)`")


def functions_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_risk_has_tests_and_each_of_them_exists() -> None:
    rows = ROW.findall((ROOT / "deploy" / "security.md").read_text("utf-8"))
    assert [risk for risk, _ in rows] == [f"API{number}" for number in range(1, 11)]
    for risk, shown_by in rows:
        named = NAMED.findall(shown_by)
        assert len(named) >= 2, risk
        assert NAMED.sub("", shown_by).strip(", ") == "", f"{risk}: something that is no test"
        for file, test in named:
            assert test in functions_in(ROOT / "tests" / file), f"{risk}: {file} has no {test}"
