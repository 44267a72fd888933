"""Which values a text uses although a user may lack them: found by following its branches, not by trying.

A text of two conditions has more cases than two sample users show. So this follows what each condition says of
what is there: in `{% if attributes.city %}…{% endif %}` the city is, after `not` it is not, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from jinja2 import nodes

from scheduler.texts.filters import DEFAULTS
from scheduler.texts.grammar import GROUPS, Mistake

Reference = tuple[str, str]
"""A value by name: `("attributes", "city")`."""

_Known = frozenset[Reference]
_NOTHING: Final[_Known] = frozenset()
_TAKES_MISSING: Final = frozenset({"defined", "undefined", "none", "string", "number", "boolean"})
_SAYS_IT_IS_THERE: Final = frozenset({"defined", "string", "number", "boolean"})


def unguarded(tree: nodes.Template, always_there: _Known) -> list[Mistake]:
    """The uses of values that may be missing, but for those `always_there`, in the order of the lines."""
    follower = _Follower()
    follower.follow_all(tree.body, always_there)
    return sorted(
        Mistake(
            line, f"{_called(reference)} may be missing; write {{{{ {_called(reference)} | default('…') }}}}"
        )
        for reference, line in follower.uses
    )


def reference_of(node: nodes.Node | None) -> Reference | None:
    """What a node names in `attributes` or `dates`, if that is all it does."""
    match node:
        case nodes.Getattr(node=nodes.Name(name=group), attr=name) if group in GROUPS:
            return group, name
        case nodes.Getitem(node=nodes.Name(name=group), arg=nodes.Const(value=str(name))) if group in GROUPS:
            return group, name
    return None


def _called(reference: Reference) -> str:
    group, name = reference
    return f"{group}.{name}" if name.isidentifier() else f"{group}[{name!r}]"


@dataclass(frozen=True, slots=True)
class _Said:
    """What is there where a condition holds, and where it does not."""

    if_true: _Known = _NOTHING
    if_false: _Known = _NOTHING


@dataclass(slots=True)
class _Follower:
    uses: set[tuple[Reference, int]] = field(default_factory=set)

    def follow_all(self, some: list[nodes.Node], known: _Known) -> None:
        for node in some:
            self._follow(node, known)

    def _follow(self, node: nodes.Node, known: _Known) -> None:
        match node:
            case nodes.Output():
                for child in node.nodes:
                    self._use(child, known)
            case nodes.If():
                self._follow_branches(node, known)
            case nodes.For():
                self._use(node.iter, known)
                said = _Said() if node.test is None else self._condition(node.test, known)
                self.follow_all(node.body, known | said.if_true)
                self.follow_all(node.else_, known)

    def _follow_branches(self, node: nodes.If, known: _Known) -> None:
        for branch in [node, *node.elif_]:
            said = self._condition(branch.test, known)
            self.follow_all(branch.body, known | said.if_true)
            known |= said.if_false
        self.follow_all(node.else_, known)

    def _use(self, node: nodes.Node, known: _Known) -> None:
        """A use that fails for what is missing."""
        self.uses |= self._missing(node, known)

    def _missing(self, node: nodes.Node, known: _Known) -> set[tuple[Reference, int]]:
        """What the value of `node` may be missing for; uses within it that fail are noted."""
        reference = reference_of(node)
        if reference is not None:
            return set() if reference in known else {(reference, node.lineno)}
        match node:
            case nodes.Filter():
                return self._missing_in_filter(node, known)
            case nodes.CondExpr():
                said = self._condition(node.test, known)
                missing = self._missing(node.expr1, known | said.if_true)
                return missing | (self._missing(node.expr2, known | said.if_false) if node.expr2 else set())
            case nodes.Or():
                return self._missing(node.right, known | self._condition(node.left, known).if_false)
            case nodes.And():
                right = known | self._condition(node.left, known).if_true
                return self._missing(node.left, known) | self._missing(node.right, right)
            case nodes.Test() | nodes.Not() | nodes.Compare():
                self._condition(node, known)
            case _:
                for child in node.iter_child_nodes():
                    self._use(child, known)
        return set()

    def _missing_in_filter(self, node: nodes.Filter, known: _Known) -> set[tuple[Reference, int]]:
        if node.node is None:
            return set()
        missing = self._missing(node.node, known)
        arguments = [*node.args, *(named.value for named in node.kwargs)]
        if node.name in DEFAULTS:
            return {use for argument in arguments for use in self._missing(argument, known)}
        for argument in arguments:
            self._use(argument, known)
        return missing

    def _condition(self, node: nodes.Node, known: _Known) -> _Said:
        """What a condition says; in a condition what is missing counts as false."""
        match node:
            case nodes.Not():
                said = self._condition(node.node, known)
                return _Said(said.if_false, said.if_true)
            case nodes.And():
                left = self._condition(node.left, known)
                right = self._condition(node.right, known | left.if_true)
                return _Said(left.if_true | right.if_true, left.if_false & right.if_false)
            case nodes.Or():
                left = self._condition(node.left, known)
                right = self._condition(node.right, known | left.if_false)
                return _Said(left.if_true & right.if_true, left.if_false | right.if_false)
            case nodes.Test():
                return self._condition_of_test(node, known)
            case nodes.Compare():
                return self._condition_of_comparison(node, known)
        self._missing(node, known)
        return _Said(_there_if_true(node))

    def _condition_of_test(self, node: nodes.Test, known: _Known) -> _Said:
        for argument in node.args or []:
            self._use(argument, known)
        missing = self._missing(node.node, known)
        if node.name not in _TAKES_MISSING:
            self.uses |= missing
        there = _there_if_true(node.node)
        if node.name in _SAYS_IT_IS_THERE:
            return _Said(if_true=there)
        return _Said(if_false=there) if node.name == "undefined" else _Said()

    def _condition_of_comparison(self, node: nodes.Compare, known: _Known) -> _Said:
        operands = [node.expr, *(operand.expr for operand in node.ops)]
        missing = [self._missing(operand, known) for operand in operands]
        operators = [operand.op for operand in node.ops]
        if len(operators) > 1 or operators[0] not in ("eq", "ne", "in", "notin"):
            self.uses |= set().union(*missing)
            return _Said()
        right = missing[1]
        if operators[0] in ("in", "notin"):
            self.uses |= right
        # What equals something that is there, or is found in it, is there itself.
        there = _NOTHING if right else _there_if_true(node.expr)
        return _Said(if_true=there) if operators[0] in ("eq", "in") else _Said(if_false=there)


def _there_if_true(node: nodes.Node | None) -> _Known:
    """What is there where `node` has a value: filters but `default` pass on what is missing."""
    while isinstance(node, nodes.Filter) and node.name not in DEFAULTS:
        node = node.node
    reference = reference_of(node)
    return _NOTHING if reference is None else frozenset({reference})
