"""Texts that mean harm are refused when they are saved, or stopped soon when they are rendered."""

from __future__ import annotations

from contextlib import suppress
from time import process_time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.errors import InvalidInput
from scheduler.texts.bounds import LONGEST_RESULT, LONGEST_SOURCE, TextForm
from scheduler.texts.compiled import compile_text, parse_text
from scheduler.texts.environment import Named
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.grammar import mistakes_in
from tests.fixtures.texts import reader, say

SOON = 1.5  # seconds of this process, on a slow machine that does other things as well


def refusal(source: str, form: TextForm = TextForm.BODY) -> str:
    with pytest.raises(InvalidInput) as caught:
        compile_text(source, form)
    return "; ".join(error.message for error in caught.value.errors)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 2 ** 2 ** 99 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ lipsum(n=100000) }}",
        "{{ cycler('a') }}",
        "{{ namespace(a=1) }}",
        "{{ dict(a=1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ first_name.__class__ }}",
        "{{ first_name['__class__'] }}",
        "{{ first_name.upper() }}",
        "{{ first_name['upper'] }}",
        "{{ '{0.__class__}'.format(first_name) }}",
        "{{ first_name | attr('__class__') }}",
        "{{ [1] | map('upper') | list }}",
        "{{ first_name | center(10) }}",
        "{{ first_name | replace('a', 'b') }}",
        "{{ first_name | safe }}",
        "{{ first_name | indent }}",
        "{{ first_name | wordwrap }}",
        "{{ '%s' | format(first_name) }}",
        "{{ first_name | tojson }}",
        "{{ attributes.items() }}",
        "{{ attributes }}",
        "{{ attributes[first_name] }}",
        "{{ attributes | upper }}",
        "{{ self }}",
        "{{ self.__init__ }}",
        "{{ environment }}",
        "{{ context }}",
        "{{ _concat }}",
        "{{ first_name | _concat }}",
        "{{ [1] | _loop(0) }}",
        "{{ first_name | upper(*[1]) }}",
        "{{ first_name | upper(**{'a': 1}) }}",
        "{{ first_name is sameas first_name }}",
        "{{ first_name is filter }}",
        "{{ first_name[0:2] }}",
        "{{ {'a': 1} }}",
        "{{ [[1]] }}",
        "{{ [1 if true else [2]] }}",
        "{{ loop }}",
        "{% for x in [1] %}{{ loop(x) }}{% endfor %}",
        "{% for x in [1] recursive %}{{ x }}{% endfor %}",
        "{% for x in [1] %}{{ loop.cycle('a') }}{% endfor %}",
        "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
        "{% for x in [1] %}{{ loop['index'] }}{% endfor %}",
        "{% for first_name in [1] %}{% endfor %}",
        "{% for loop in [1] %}{% endfor %}",
        "{% for x in [1] %}{% endfor %}{{ x }}",
        "{% for x in [1] %}" * 4 + "{% endfor %}" * 4,
        "{% set x = 1 %}",
        "{% set x %}1{% endset %}",
        "{% with x = 1 %}{% endwith %}",
        "{% macro m() %}{{ m() }}{% endmacro %}",
        "{% call m() %}{% endcall %}",
        "{% filter upper %}{% endfilter %}",
        "{% autoescape false %}{% endautoescape %}",
        "{% block b %}{% endblock %}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% do 1 %}",
        "{% break %}",
        "{% trans %}x{% endtrans %}",
        "{{ 1e999 }}",
        "{{ 99999999999999999999 }}",
        "{{ " + "9" * 5_000 + " }}",
        "{{ '\\ud800' }}",
        "{{ '\\x00' }}",
        "\x00",
        "\ud800",
        "a\x1bb",
        "{{ first_name",
        "{% if first_name %}",
        "{{ \\ }}",
        "{{ first_name ? }}",
    ],
)
def test_what_no_text_may_say(source: str) -> None:
    assert refusal(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 9_000,
        "{{ " + "[" * 9_000,
        "{{ " + "not " * 4_000 + "1 }}",
        "{{ " + "-" * 9_000 + "1 }}",
        "{{ " + "1+" * 9_000 + "1 }}",
        "{{ " + "1~" * 9_000 + "1 }}",
        "{{ " + "a." * 9_000 + "a }}",
        "{{ " + "1 if " * 3_000 + "1 }}",
        "{{ 1" + "|abs" * 4_000 + " }}",
        "{{ 1" + " or 1" * 3_000 + " }}",
        "{{ [" + "1," * 9_000 + "] }}",
        "{% if 1 %}" * 1_000 + "{% endif %}" * 800,
        "{% for x in [1] %}" * 600 + "{% endfor %}" * 600,
        "{{1}}" * 4_000,
        "{#" * 10_000,
        "{%" * 10_000,
        "{{" * 10_000,
        "{% raw %}" * 2_000,
        "{%" + " " * 19_000,
        "{{ '" + "\\" * 19_000,
        "{{ 1" + "_0" * 9_000 + " }}",
        "\n" * 19_990 + "{{",
        "x" * 20_001,
    ],
    ids=lambda source: source[:12],
)
def test_a_large_source_is_refused_soon(source: str) -> None:
    started = process_time()
    assert refusal(source)
    assert process_time() - started < SOON


LONG = "x" * 1_000
TWICE = "{% for a in [" + "first_name, " * 200 + "] %}{% for b in [" + "a, " * 200 + "] %}"


@pytest.mark.parametrize(
    "source",
    [
        TWICE + "{{ b }}{% endfor %}{% endfor %}",
        TWICE + "{{ b | upper ~ b }}{% endfor %}{% endfor %}",
        TWICE + "{{ local_date | date }}{% endfor %}{% endfor %}",
        TWICE + "{% if b in attributes.long %}{% endif %}{% endfor %}{% endfor %}",
        TWICE + "{{ attributes | items | length }}{% endfor %}{% endfor %}",
        "{% for a in [" + "~".join(["attributes.long"] * 30) + "] %}{{ a }}{% endfor %}",
        "{% for a in [" + "~".join(["attributes.long"] * 9) + "] %}{% for b in [a~a~a~a] %}{{ b }}"
        "{% endfor %}{% endfor %}",
        "{{ [" + "attributes.long, " * 100 + "] | join }}",
        "{% for a in attributes %}" * 3 + "{{ a | upper }}" + "{% endfor %}" * 3,
        "{% for a in attributes %}{% for b in attributes %}{{ attributes.long }}{% endfor %}{% endfor %}",
        "{% for a in attributes %}" + LONG * 10 + "{% endfor %}",
    ],
)
def test_a_text_that_grows_is_stopped_soon(source: str) -> None:
    attributes = {f"name{number:02}": LONG for number in range(99)} | {"long": LONG}
    compile_text(source, TextForm.BODY)
    started = process_time()
    with pytest.raises(RenderingFailed):
        say(source, reader(attributes=attributes))
    assert process_time() - started < SOON


def test_the_result_is_bounded_in_every_form() -> None:
    for form in TextForm:
        source = "{{ first_name }}" * (LONGEST_SOURCE[form] // 200)
        values = reader("x" * (LONGEST_RESULT[form] // 2))
        with pytest.raises(RenderingFailed, match="the result is longer than"):
            say(source + "{{ first_name }}{{ first_name }}", values, form=form)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_the_source_of_a_subject_is_one_line(ending: str) -> None:
    assert refusal(f"Hi{ending}Bcc: b@example.org", TextForm.SUBJECT) == "line 1: a subject is one line"


PIECES = st.sampled_from(
    [
        *(
            "{{ ",
            " }}",
            "{% ",
            " %}",
            "{%- ",
            " -%}",
            "{# ",
            " #}",
            "if ",
            "elif ",
            "else",
            "endif",
            "for x, y in ",
        ),
        *(
            "for x in ",
            "endfor",
            " recursive",
            "x",
            "loop",
            ".index",
            "first_name",
            "attributes",
            ".city",
            "['n']",
        ),
        *(
            "dates",
            ".birthday",
            "local_date",
            "[0]",
            "[",
            "]",
            "(",
            ")",
            ",",
            "~",
            "+",
            "-",
            "*",
            "/",
            "//",
            "%",
        ),
        *(
            "**",
            "==",
            "<",
            " in ",
            " not ",
            " and ",
            " or ",
            " is ",
            "defined",
            " if ",
            " else ",
            "|",
            "upper",
        ),
        *("date", "('y')", "number", "('#')", "ordinal", "age", "default", "('x')", "join", "items", "round"),
        *(
            "truncate",
            "(3)",
            "length",
            "1",
            "2.5",
            "'s'",
            "true",
            "none",
            "set ",
            "=",
            "macro ",
            "raw",
            "endraw",
        ),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=3), max_size=25).map("".join), st.sampled_from(TextForm))
@example("{{ first_name|default(", TextForm.BODY)
def test_any_source_is_a_text_or_a_mistake_and_nothing_else(source: str, form: TextForm) -> None:
    said = why = ""
    try:
        said = say(source, reader("Canary", attributes={"city": "Köln", "n": 3}), form=form)
    except (InvalidInput, RenderingFailed) as error:
        why = str(error)
    assert isinstance(said, str)
    assert "Canary" not in why


@settings(deadline=None)
@given(st.text(max_size=12), st.integers() | st.floats() | st.text(max_size=9), st.text(max_size=60))
def test_any_argument_of_a_filter_is_taken_or_refused(locale: str, number: object, pattern: str) -> None:
    values = reader(attributes={"number": number, "locale": locale, "pattern": pattern})
    for call in (
        "number(attributes.pattern)",
        "ordinal(attributes.locale)",
        "round(attributes.number)",
        "int",
    ):
        _try(f"{{{{ attributes.number | {call} }}}}", values)
    _try("{{ local_date | date(attributes.pattern, attributes.locale) }}", values)
    _try("{{ local_date | date(attributes.pattern) }}", values)
    _try("{{ attributes.pattern | truncate(attributes.number) }}", values)


def _try(source: str, values: dict[str, object]) -> None:
    with suppress(RenderingFailed):
        say(source, values)


def test_nothing_is_called_in_a_tree_by_another_name() -> None:
    """What the allow-list lets through has no way to the values but through the environment's own look-ups."""
    tree = parse_text("{{ attributes.items }} {{ dates.keys }}", TextForm.BODY)
    assert not mistakes_in(tree)
    values = reader(attributes={"items": "three"}) | {"dates": Named("dates", {}.items())}
    assert say("{{ attributes.items }} {{ dates.keys | d('none') }}", values) == "three none"
