"""Texts ready to be rendered many times.

A text that only puts variables between fixed words, as most do, becomes a %-format: the same result (a property
test says so) at a fraction of the cost. All others are Jinja2's compiled code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, Final, cast

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.visitor import NodeTransformer

from scheduler.domain.field_error import FieldError
from scheduler.errors import InvalidInput
from scheduler.texts.bounds import LONGEST_RESULT, LONGEST_SOURCE, TextForm
from scheduler.texts.environment import Reading, ReadingContext, TextEnvironment
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.filters import CONCAT, FILTERS, INNER_FILTERS, LOOP, TESTS
from scheduler.texts.grammar import GROUPS, VARIABLES, Mistake, mistakes_in, unprintable, weight

_MOST_COMPILED: Final = 500
_FILE_NAME: Final = "<text>"
_NOT_ON_ONE_LINE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# As markupsafe does it; a str.translate of its own costs a fifth of making Markup.
_ESCAPED: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;"})
_LINE_BREAK: Final = re.compile(r"[\r\n]")
# Where a reader's own values go in a text that is filled in but for those; no text that is stored holds it.
_OPEN: Final = "\0"


def _environment(*, autoescape: bool) -> TextEnvironment:
    environment = TextEnvironment(autoescape=autoescape)
    environment.filters.update({**FILTERS, **INNER_FILTERS})
    environment.tests.update(TESTS)
    return environment


_ENVIRONMENTS: Final = {form: _environment(autoescape=form is TextForm.HTML) for form in TextForm}


class CompiledText:
    """One text. `variables` are those it names. May be shared between threads."""

    def __init__(self, form: TextForm, tree: nodes.Template) -> None:
        """Take a tree in which `parse_text` has found nothing wrong; it is changed."""
        _join_names(tree)
        self.variables = frozenset(name.name for name in tree.find_all(nodes.Name)) & VARIABLES
        self._is_subject = form is TextForm.SUBJECT
        self._is_html = form is TextForm.HTML
        self._most = LONGEST_RESULT[form]
        self._pattern, self._fields = _as_format(tree)
        self._template = None if self._pattern is not None else _compile(form, tree)

    @property
    def is_plain(self) -> bool:
        """Whether it only puts variables between fixed words."""
        return self._pattern is not None

    def render(self, values: Mapping[str, Any], reading: Reading | None) -> str:
        """The text with `values`, which hold every variable that is there, for a reader (None: it is plain).

        A subject comes out as one line without control characters, whatever the values hold. Raises
        RenderingFailed where a value is missing or of no use, or where a bound is exceeded.
        """
        return self._checked(self._formatted(values) if reading is None else self._rendered(values, reading))

    def many(
        self, shared: Mapping[str, Any], columns: Mapping[str, Sequence[str]], count: int
    ) -> list[str] | None:
        """What `render` says to each of `count` readers, at a fraction of its cost: with the values they share, and a
        column of texts for each variable that is their own. None where it is not plain or names something else, or
        where one of the results is too long: then each is to be rendered by itself.
        """
        if self._pattern is None or not shared.keys() | columns.keys() >= set(self._fields):
            return None
        own = [name for name in self._fields if name not in shared]
        filled = self._formatted({**shared, **dict.fromkeys(own, _OPEN)})
        said = [filled] * count
        if own:
            values = [columns[name] for name in own]
            if self._is_html:
                values = [[value.translate(_ESCAPED) for value in column] for column in values]
            pattern = filled.replace("%", "%%").replace(_OPEN, "%s")
            said = list(map(pattern.__mod__, zip(*values, strict=True)))
        if max(map(len, said), default=0) > self._most:
            return None
        if self._is_subject and not "".join(said).isprintable():
            return [self._checked(each) for each in said]
        return said

    def _checked(self, result: str) -> str:
        if len(result) > self._most:
            raise RenderingFailed(f"the result is longer than {self._most:,} characters")
        if self._is_subject and not result.isprintable():
            return _NOT_ON_ONE_LINE.sub(" ", result)
        return result

    def _rendered(self, values: Mapping[str, Any], reading: Reading) -> str:
        return (
            self._formatted(values)
            if self._template is None
            else self._in_pieces(self._template, values, reading)
        )

    def _formatted(self, values: Mapping[str, Any]) -> str:
        assert self._pattern is not None, "only plain texts do without a reading"
        if not self._fields:
            return self._pattern
        try:
            found = tuple(map(values.__getitem__, self._fields))
        except KeyError as error:
            raise RenderingFailed(f"{error.args[0]} is missing") from None
        if self._is_html:
            return self._pattern % tuple([str(value).translate(_ESCAPED) for value in found])
        return self._pattern % found

    def _in_pieces(self, template: Template, values: Mapping[str, Any], reading: Reading) -> str:
        context = cast("ReadingContext", template.new_context(dict(values), shared=True))
        context.reading = reading
        pieces: list[str] = []
        left = self._most
        try:
            for piece in template.root_render_func(context):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    break
        except RenderingFailed as error:
            raise RenderingFailed(f"line {_line(template, error)}: {error}") from None
        except Exception as error:
            # What an error of Python says may quote a value.
            line = _line(template, error)
            raise RenderingFailed(f"line {line}: a value is not of the kind that is needed there") from None
        return "".join(pieces)


@lru_cache(maxsize=_MOST_COMPILED)
def compile_text(source: str, form: TextForm) -> CompiledText:
    """A text from its source. Raises InvalidInput that lists every mistake with its line."""
    return CompiledText(form, parse_text(source, form))


def parse_text(source: str, form: TextForm) -> nodes.Template:
    """The tree of a source. Raises InvalidInput that lists every mistake with its line."""
    most = LONGEST_SOURCE[form]
    if len(source) > most:
        raise InvalidInput(
            [FieldError("", f"is {len(source):,} characters long; at most {most:,} are taken")]
        )
    mistake = unprintable(source)
    if mistake is None and form is TextForm.SUBJECT and _LINE_BREAK.search(source):
        mistake = Mistake(1, "a subject is one line")
    if mistake is not None:
        raise _invalid([mistake])
    try:
        tree = _ENVIRONMENTS[form].parse(source)
    except TemplateSyntaxError as error:
        raise _invalid([Mistake(error.lineno, str(error.message))]) from None
    except (RecursionError, MemoryError):
        raise _invalid([Mistake(1, "is nested too deep")]) from None
    except ValueError:
        raise _invalid([Mistake(1, "holds a number that is too large")]) from None
    if mistakes := mistakes_in(tree):
        raise _invalid(mistakes)
    return tree


def _invalid(mistakes: list[Mistake]) -> InvalidInput:
    return InvalidInput([FieldError("", str(mistake)) for mistake in mistakes])


def _join_names(tree: nodes.Template) -> None:
    """Make `{{ first_name }} {{ last_name }}` the full name: no blank stays behind where there is no last name."""
    for output in tree.find_all(nodes.Output):
        place = 0
        while place + 2 < len(output.nodes):
            match output.nodes[place : place + 3]:
                case [
                    nodes.Name(name="first_name"),
                    nodes.TemplateData(data=" "),
                    nodes.Name(name="last_name"),
                ]:
                    full = nodes.Name("full_name", "load", lineno=output.nodes[place].lineno)
                    output.nodes[place : place + 3] = [full]
            place += 1


def _as_format(tree: nodes.Template) -> tuple[str | None, tuple[str, ...]]:
    """A text as a %-format and the variables in it; as itself where there are none; None where it is more."""
    pattern: list[str] = []
    fields: list[str] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None, ()
        for child in output.nodes:
            if isinstance(child, nodes.TemplateData):
                pattern.append(child.data.replace("%", "%%"))
            elif isinstance(child, nodes.Name) and child.name in VARIABLES - GROUPS:
                pattern.append("%s")
                fields.append(child.name)
            else:
                return None, ()
    whole = "".join(pattern)
    return (whole if fields else whole % ()), tuple(fields)


class _Bounding(NodeTransformer):
    """Puts what counts into a tree, and '' where an inline `if` has no `else`."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        cost = nodes.Const(weight(node), lineno=node.lineno)
        self.generic_visit(node)
        node.iter = _filter(LOOP, node.iter, [cost])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(CONCAT, nodes.List(node.nodes, lineno=node.lineno), [])

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.CondExpr:  # noqa: N802
        self.generic_visit(node)
        if node.expr2 is None:
            node.expr2 = nodes.Const("", lineno=node.lineno)
        return node


def _filter(name: str, node: nodes.Node, arguments: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(cast("nodes.Expr", node), name, arguments, [], None, None, lineno=node.lineno)


def _compile(form: TextForm, tree: nodes.Template) -> Template:
    environment = _ENVIRONMENTS[form]
    _Bounding().visit(tree)
    tree.set_environment(environment)
    try:
        code: CodeType = environment.compile(tree, filename=_FILE_NAME)
    except TemplateSyntaxError as error:
        raise _invalid([Mistake(error.lineno, str(error.message))]) from None
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError):
        raise _invalid([Mistake(1, "is nested too deep")]) from None
    return Template.from_code(environment, code, {})


def _line(template: Template, error: BaseException) -> int:
    """The line of the source at which rendering came to `error`."""
    line = 1
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE_NAME:
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
