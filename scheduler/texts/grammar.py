"""What a text may say: an allow-list of Jinja2's syntax, checked on the tree before anything is compiled.

Whatever is not listed is refused, so that a new feature of Jinja2 is refused as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from jinja2 import nodes

from scheduler.texts.bounds import DEEPEST, DEEPEST_LOOP, LARGEST_NUMBER, MOST_NODES
from scheduler.texts.filters import FILTERS, OF_GROUPS, SIGNATURES, TESTS

VARIABLES: Final = frozenset(
    {
        "first_name",
        "last_name",
        "full_name",
        "external_id",
        "locale",
        "timezone",
        "occasion",
        "occasion_name",
        "local_date",
        "dates",
        "attributes",
        "unsubscribe_url",
    }
)
"""What a text may name."""

GROUPS: Final = frozenset({"dates", "attributes"})
"""Variables that are values by name; what is in them differs from user to user."""

_ALLOWED: Final = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For),
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Getattr, nodes.Getitem),
    *(nodes.Filter, nodes.Test, nodes.Keyword, nodes.CondExpr, nodes.Compare, nodes.Operand),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod),
)
_CALLED: Final[dict[type[nodes.Node], str]] = {
    nodes.Assign: "{% set %}",
    nodes.AssignBlock: "{% set %}",
    nodes.Call: "a call, name(…),",
    nodes.Dict: "a dictionary, {…},",
    nodes.Pow: "a power, **,",
    nodes.Slice: "a slice, [a:b],",
    nodes.With: "{% with %}",
    nodes.FilterBlock: "{% filter %}",
    nodes.Scope: "{% autoescape %}",
    nodes.ScopedEvalContextModifier: "{% autoescape %}",
    nodes.Macro: "{% macro %}",
    nodes.CallBlock: "{% call %}",
    nodes.Include: "{% include %}",
    nodes.Import: "{% import %}",
    nodes.FromImport: "{% from %}",
    nodes.Extends: "{% extends %}",
    nodes.Block: "{% block %}",
}
_OF_A_LOOP: Final = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"}
)
_LOOP: Final = "loop"
_OLD_FIELD: Final = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")
_UNPRINTABLE: Final = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")
_NO_NAMES: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """Something a text must not say; `line` counts from 1."""

    line: int
    message: str

    def __str__(self) -> str:
        """The place, then what is wrong."""
        return f"line {self.line}: {self.message}"


def unprintable(source: str) -> Mistake | None:
    """The first character that no message may hold: a control but tab and line breaks, or half of a pair."""
    found = _UNPRINTABLE.search(source)
    if found is None:
        return None
    line = source.count("\n", 0, found.start()) + 1
    return Mistake(line, f"contains the character U+{ord(found[0]):04X}, which no message may hold")


def mistakes_in(tree: nodes.Template) -> list[Mistake]:
    """All that is wrong with a text, in the order of its lines; only the size where that is too large."""
    oversize = _oversize(tree)
    if oversize is not None:
        return [oversize]
    checker = _Checker()
    checker.check_all(tree.body, _NO_NAMES, loops=0)
    return sorted(set(checker.mistakes))


def _oversize(tree: nodes.Template) -> Mistake | None:
    """Found without recursion, which a source of thousands of operators would exhaust."""
    number = 0
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        number += 1
        if depth > DEEPEST:
            return Mistake(node.lineno, f"is nested more than {DEEPEST} deep")
        if number > MOST_NODES:
            return Mistake(node.lineno, f"has more than {MOST_NODES:,} parts")
        waiting.extend((child, depth + 1) for child in node.iter_child_nodes())
    return None


def old_fields_in(tree: nodes.Template) -> list[Mistake]:
    """Variables written as they were before texts were Jinja2: `{first_name}`."""
    return [
        Mistake(
            data.lineno + data.data.count("\n", 0, found.start()),
            f"write {{{{ {found[1]} }}}} instead of {found[0]}",
        )
        for data in tree.find_all(nodes.TemplateData)
        for found in _OLD_FIELD.finditer(data.data)
        if found[1] in VARIABLES - GROUPS
    ]


def weight(node: nodes.For) -> int:
    """How many nodes one round of a loop renders, loops within it once."""
    return 1 + sum(1 + sum(1 for _ in _below(child)) for child in [*node.body, node.test] if child)


def _below(node: nodes.Node) -> Iterator[nodes.Node]:
    for child in node.iter_child_nodes():
        yield child
        yield from _below(child)


class _Checker:
    """Walks a tree of bounded depth; `bound` are the names of the loops around a node."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def check_all(self, some: list[nodes.Node], bound: frozenset[str], *, loops: int) -> None:
        for node in some:
            self._check(node, bound, loops)

    def _check(self, node: nodes.Node, bound: frozenset[str], loops: int) -> None:
        if type(node) not in _ALLOWED:
            called = _CALLED.get(type(node), f"{type(node).__name__}")
            self._refuse(node, f"{called} is not taken in texts")
            return
        match node:
            case nodes.For():
                self._check_loop(node, bound, loops)
            case nodes.Getattr() | nodes.Getitem():
                self._check_access(node, bound, loops)
            case nodes.Filter(node=nodes.Name(name=group)) if group in GROUPS and node.name in OF_GROUPS:
                self._check_filter(node)
            case _:
                self._check_itself(node, bound)
                self.check_all(list(node.iter_child_nodes()), bound, loops=loops)

    def _check_itself(self, node: nodes.Node, bound: frozenset[str]) -> None:
        match node:
            case nodes.Const():
                self._check_constant(node)
            case nodes.Name():
                self._check_name(node, bound)
            case nodes.Filter() | nodes.Test():
                self._check_filter(node)
            case nodes.List() | nodes.Tuple():
                self._check_list(node)

    def _refuse(self, node: nodes.Node, message: str) -> None:
        self.mistakes.append(Mistake(node.lineno, message))

    def _check_constant(self, node: nodes.Const) -> None:
        value = node.value
        if isinstance(value, str) and unprintable(value):
            self._refuse(node, "a quoted text contains a character that no message may hold")
        if isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:
            self._refuse(node, "a number is too large")

    def _check_name(self, node: nodes.Name, bound: frozenset[str]) -> None:
        if node.name in GROUPS:
            self._refuse(node, f"{node.name} are many; name one: {node.name}.NAME")
        elif node.name not in VARIABLES and node.name not in bound:
            self._refuse(node, f"unknown variable '{node.name}'{_instead(node.name, bound)}")

    def _check_access(self, node: nodes.Getattr | nodes.Getitem, bound: frozenset[str], loops: int) -> None:
        inner = node.node
        key = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
        if isinstance(inner, nodes.Name) and inner.name in GROUPS - bound:
            if not isinstance(key, str):
                self._refuse(node, f"{inner.name}[…] takes a quoted name")
            return
        if isinstance(inner, nodes.Name) and inner.name == _LOOP and _LOOP in bound:
            if key not in _OF_A_LOOP or isinstance(node, nodes.Getitem):
                self._refuse(node, f"a loop has no '{key}'; it has {', '.join(sorted(_OF_A_LOOP))}")
            return
        if type(key) is not int:
            self._refuse(
                node, "only attributes and dates have parts with names; a text or list has [0], [1] …"
            )
        self._check(inner, bound, loops)

    def _check_filter(self, node: nodes.Filter | nodes.Test) -> None:
        known, kind = (FILTERS, "filter") if isinstance(node, nodes.Filter) else (TESTS, "test")
        if node.name not in known:
            self._refuse(node, f"unknown {kind} '{node.name}'{_close(node.name, known)}")
        elif node.dyn_args or node.dyn_kwargs:
            self._refuse(node, f"the {kind} '{node.name}' takes no * arguments")
        elif isinstance(node, nodes.Filter):
            try:
                SIGNATURES[node.name].bind(
                    *node.args, **{str(named.key): named.value for named in node.kwargs}
                )
            except TypeError as error:
                self._refuse(node, f"the filter '{node.name}': {error}")

    def _check_list(self, node: nodes.List | nodes.Tuple) -> None:
        if any(isinstance(inner, nodes.List | nodes.Tuple) for inner in _below(node)):
            self._refuse(node, "a list within a list is not taken")

    def _check_loop(self, node: nodes.For, bound: frozenset[str], loops: int) -> None:
        if node.recursive:
            self._refuse(node, "a recursive loop is not taken")
        if loops >= DEEPEST_LOOP:
            self._refuse(node, f"loops are taken {DEEPEST_LOOP} deep")
        targets = {
            target.name for target in [node.target, *_below(node.target)] if isinstance(target, nodes.Name)
        }
        if not isinstance(node.target, nodes.Name | nodes.Tuple) or targets & (VARIABLES | {_LOOP}):
            self._refuse(node, "a loop needs names of its own")
        if not _is_group(node.iter):
            self._check(node.iter, bound, loops)
        within = bound | targets
        if node.test is not None:
            self._check(node.test, within, loops)
        self.check_all(node.body, within | {_LOOP}, loops=loops + 1)
        self.check_all(node.else_, bound, loops=loops)


def _is_group(node: nodes.Node | None) -> bool:
    return isinstance(node, nodes.Name) and node.name in GROUPS


def _constant(node: nodes.Node) -> object:
    return node.value if isinstance(node, nodes.Const) else None


def _instead(name: str, bound: frozenset[str]) -> str:
    close = _close(name, VARIABLES | bound)
    return close or f"; what is known of a user besides is called attributes.{name} or dates.{name}"


def _close(name: str, known: object) -> str:
    close = get_close_matches(name, list(known), n=1)  # type: ignore[call-overload]
    return f"; did you mean '{close[0]}'?" if close else ""
