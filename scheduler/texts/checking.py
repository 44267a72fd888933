"""Texts are checked when they are saved, so that no message fails for its text when it is due.

In three steps: what a text may say at all, what it uses although a user may lack it, and then what it says to a
user of whom everything is known and to one of whom nothing is known but what an occasion cannot do without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, Final

from jinja2 import nodes

from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import MessageText, Occasion, YearlyRule
from scheduler.errors import InvalidInput
from scheduler.texts.bounds import TextForm
from scheduler.texts.compiled import compile_text, parse_text
from scheduler.texts.environment import Named, Reading
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.filters import DEFAULTS, NUMERIC, OF_DATES
from scheduler.texts.grammar import old_fields_in
from scheduler.texts.message_texts import full_name
from scheduler.texts.presence import Reference, reference_of, unguarded

MOST_TRANSLATIONS: Final = 200

# As a user's locale, with hyphens only.
_LOCALE: Final = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,4}")
_OWN_LOCALE: Final = "en"
_LOCAL_DATE: Final = date(2027, 6, 15)
_SAMPLE_DATE: Final = date(1990, 6, 15)
_SAMPLE_NUMBER: Final = 7
_SAMPLE_TEXT: Final = "Sample"
_ARITHMETIC: Final = (
    nodes.Add,
    nodes.Sub,
    nodes.Mul,
    nodes.Div,
    nodes.FloorDiv,
    nodes.Mod,
    nodes.Neg,
    nodes.Pos,
)


def check_texts(occasion: Occasion) -> list[FieldError]:
    """All that is wrong with an occasion's texts, by place: `/subject`, `/translations/de/body`. Empty: nothing."""
    errors = _check_text("", occasion.text, occasion, _OWN_LOCALE)
    if len(occasion.translations) > MOST_TRANSLATIONS:
        return [*errors, FieldError("/translations", f"must have at most {MOST_TRANSLATIONS} entries")]
    seen: set[str] = set()
    for tag, text in occasion.translations.items():
        pointer = f"/translations/{tag.replace('~', '~0').replace('/', '~1')}"
        if not _LOCALE.fullmatch(tag):
            errors.append(FieldError(pointer, "must be a language tag such as en or pt-BR"))
        elif tag.lower() in seen:
            errors.append(FieldError(pointer, "is there twice: upper and lower case make no difference"))
        else:
            errors += _check_text(pointer, text, occasion, tag)
        seen.add(tag.lower())
    return errors


def _check_text(pointer: str, text: MessageText, occasion: Occasion, locale: str) -> list[FieldError]:
    sources = {TextForm.SUBJECT: text.subject, TextForm.BODY: text.body, TextForm.HTML: text.html}
    return [
        FieldError(f"{pointer}/{form}", message)
        for form, source in sources.items()
        if source is not None
        for message in _mistakes(source, form, occasion, locale)
    ]


def _mistakes(source: str, form: TextForm, occasion: Occasion, locale: str) -> list[str]:
    try:
        tree = parse_text(source, form)
        found = [*old_fields_in(tree), *unguarded(tree, _always_there(occasion))]
        if found:
            return [str(mistake) for mistake in sorted(found)]
        compiled = compile_text(source, form)
    except InvalidInput as error:
        return [each.message for each in error.errors]
    for who, values in _samples(tree, occasion, locale):
        reading = Reading(locale, _LOCAL_DATE, occasion.leap_day)
        try:
            compiled.render(values, reading)
        except RenderingFailed as error:
            return [f"cannot be rendered for {who}: {error}"]
    return []


def _always_there(occasion: Occasion) -> frozenset[Reference]:
    rule = occasion.rule
    return frozenset({("dates", rule.date_name)}) if isinstance(rule, YearlyRule) else frozenset()


def _samples(
    tree: nodes.Template, occasion: Occasion, locale: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Two users as different as can be, each with what to call them."""
    dates: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    for group, name in (found for node in tree.find_all(nodes.Expr) if (found := reference_of(node))):
        (dates if group == "dates" else attributes)[name] = _SAMPLE_DATE if group == "dates" else _SAMPLE_TEXT
    attributes |= _attributes_of_other_kinds(tree)
    yield "a user of whom everything is known", _user(occasion, locale, "Sample", dates, attributes)
    least = {name: _SAMPLE_DATE for _, name in _always_there(occasion)}
    yield "a user of whom only the first name is known", _user(occasion, locale, "", least, {})


def _user(
    occasion: Occasion, locale: str, last_name: str, dates: Mapping[str, Any], attributes: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "first_name": _SAMPLE_TEXT,
        "last_name": last_name,
        "full_name": full_name(_SAMPLE_TEXT, last_name),
        "external_id": "sample",
        "locale": locale,
        "timezone": "UTC",
        "occasion": occasion.key,
        "occasion_name": occasion.name,
        "local_date": _LOCAL_DATE,
        "dates": Named("dates", dates.items()),
        "attributes": Named("attributes", attributes.items()),
        "unsubscribe_url": "https://daybreak.invalid/unsubscribe/sample",
    }


def _attributes_of_other_kinds(tree: nodes.Template) -> dict[str, Any]:
    """Attributes that are used as numbers or dates, with a value of that kind: an attribute's kind is not known."""
    found: dict[str, Any] = {}
    for node in tree.find_all(nodes.Filter):
        if node.name in NUMERIC | OF_DATES:
            _note(found, node.node, _SAMPLE_NUMBER if node.name in NUMERIC else _SAMPLE_DATE.isoformat())
    for operation in tree.find_all(_ARITHMETIC):
        for operand in operation.iter_child_nodes():
            _note(found, operand, _SAMPLE_NUMBER)
    for comparison in tree.find_all(nodes.Compare):
        operands = [comparison.expr, *(operand.expr for operand in comparison.ops)]
        numbers = [
            each.value for each in operands if isinstance(each, nodes.Const) and _is_number(each.value)
        ]
        for operand in operands if numbers else ():
            _note(found, operand, _SAMPLE_NUMBER)
    return found


def _note(found: dict[str, Any], node: nodes.Node | None, sample: object) -> None:
    while isinstance(node, nodes.Filter) and (node.name in DEFAULTS | NUMERIC):
        node = node.node
    reference = reference_of(node)
    if reference is not None and reference[0] == "attributes":
        found[reference[1]] = sample


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
