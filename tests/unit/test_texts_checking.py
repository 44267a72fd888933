"""What is found wrong with an occasion's texts when they are saved."""

from __future__ import annotations

from datetime import date
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.domain.occasion import FixedRule, MessageText, YearlyRule
from scheduler.texts.bounds import TextForm
from scheduler.texts.checking import check_texts
from scheduler.texts.compiled import parse_text
from scheduler.texts.presence import unguarded
from tests.fixtures.occasions import an_occasion
from tests.fixtures.texts import reader, say

BESIDES = "what is known of a user besides is called"
UNRENDERED = "cannot be rendered for a user of whom"


def mistakes(**changes: object) -> list[str]:
    return [str(error) for error in check_texts(an_occasion(**changes))]


def test_good_texts_have_no_mistakes() -> None:
    german = MessageText("Alles Gute, {{ first_name }}", "{{ dates.birthday | age }}", "<p>{{ last_name }}")
    assert mistakes(html="<b>{{ unsubscribe_url }}</b>", translations={"de": german, "zh-Hant": german}) == []


def test_every_text_is_checked_and_named_by_its_place() -> None:
    wrong = MessageText("{{ frist_name }}", "{{ 1", "{{ first_name | uper }}")
    assert mistakes(
        subject="a\nb",
        body="{{ lastname }}",
        html="{{ city }}",
        translations={"pt-BR": wrong, "a/b~c": wrong},
    ) == [
        "/subject: line 1: a subject is one line",
        "/body: line 1: unknown variable 'lastname'; did you mean 'last_name'?",
        f"/html: line 1: unknown variable 'city'; {BESIDES} attributes.city or dates.city",
        "/translations/pt-BR/subject: line 1: unknown variable 'frist_name'; did you mean 'first_name'?",
        "/translations/pt-BR/body: line 1: unexpected end of template, expected 'end of print statement'.",
        "/translations/pt-BR/html: line 1: unknown filter 'uper'; did you mean 'upper'?",
        "/translations/a~1b~0c: must be a language tag such as en or pt-BR",
    ]


def test_tags_that_differ_in_case_only_are_one_language() -> None:
    text = MessageText("", "")
    assert mistakes(translations={"pt-BR": text, "PT-br": text}) == [
        "/translations/PT-br: is there twice: upper and lower case make no difference"
    ]
    assert mistakes(
        translations={f"a{a}a-{b}{b}": text for a in "abcdefghijklmno" for b in "abcdefghijklmno"}
    ) == ["/translations: must have at most 200 entries"]


@pytest.mark.parametrize(
    ("body", "mistake"),
    [
        (
            "a\n{{ attributes.city }}",
            "line 2: attributes.city may be missing; write {{ attributes.city | default('…') }}",
        ),
        (
            "{{ attributes['a b'] }}",
            "line 1: attributes['a b'] may be missing; write {{ attributes['a b'] | default('…') }}",
        ),
        (
            "{{ dates.wedding | age }}",
            "line 1: dates.wedding may be missing; write {{ dates.wedding | default('…') }}",
        ),
        (
            "{{ last_name[0] }}",
            f"{UNRENDERED} only the first name is known: line 1: number 0 of a text or list is missing",
        ),
        (
            "{{ first_name | number }}",
            f"{UNRENDERED} everything is known: line 1: number takes a number",
        ),
        ("Hey {first_name}", "line 1: write {{ first_name }} instead of {first_name}"),
        (
            "{{ first_name | truncate(1, 2, 3, 4) }}",
            "line 1: the filter 'truncate': too many positional arguments",
        ),
        ("{{ first_name is strng }}", "line 1: unknown test 'strng'; did you mean 'string'?"),
        ("{% set a = 1 %}", "line 1: {% set %} is not taken in texts"),
        ("x" * 20_001, "is 20,001 characters long; at most 20,000 are taken"),
        ("a\n\x07", "line 2: contains the character U+0007, which no message may hold"),
    ],
)
def test_what_is_said_of_a_mistake(body: str, mistake: str) -> None:
    assert mistakes(body=body) == [f"/body: {mistake}"]


def test_the_date_of_a_yearly_occasion_is_there_and_no_other() -> None:
    body = "{{ dates.wedding | date }}"
    assert mistakes(body=body, rule=YearlyRule("wedding", 0)) == []
    assert mistakes(body=body, rule=FixedRule(1, 1)) != []


GUARDED = [
    "{{ attributes.a | default('x') }}",
    "{{ attributes.a | upper | trim | d(first_name) }}",
    "{{ attributes.a | d(attributes.b) | d('x') }}",
    "{% if attributes.a %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a is defined %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a is undefined %}-{% else %}{{ attributes.a }}{% endif %}",
    "{% if not attributes.a %}-{% elif not attributes.b %}{{ attributes.a }}{% else %}{{ attributes['b'] }}{% endif %}",
    "{% if attributes.a and attributes.b %}{{ attributes.a ~ attributes.b }}{% endif %}",
    "{% if not (attributes.a or attributes.b) %}-{% endif %}",
    "{% if not attributes.a or not attributes.b %}-{% else %}{{ attributes.a ~ attributes.b }}{% endif %}",
    "{% if attributes.a == 'x' %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a != 'x' %}-{% else %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a in ['x', 'y'] %}{{ attributes.a }}{% endif %}",
    "{{ attributes.a if attributes.a }}",
    "{{ 'x' if not attributes.a else attributes.a }}",
    "{{ attributes.a or 'x' }}",
    "{{ attributes.a and 'x' or 'y' }}",
    "{% for x in [1] if attributes.a %}{{ attributes.a }}{% endfor %}",
    "{% for n, v in attributes | items %}{{ n ~ v }}{% endfor %}",
    "{% if attributes.a | length %}{{ attributes.a }}{% endif %}",
]
UNGUARDED = [
    "{% if attributes.a %}{{ attributes.b }}{% endif %}",
    "{% if attributes.a or attributes.b %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a and attributes.b %}-{% else %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a != 'x' %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a == attributes.b %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a is none %}-{% else %}{{ attributes.a }}{% endif %}",
    "{% if attributes.a == 'gold' and not attributes.b %}{{ attributes.c }}{% endif %}",
    "{% if attributes.a > 3 %}-{% endif %}",
    "{% if 'x' in attributes.a %}-{% endif %}",
    "{{ attributes.a | d(attributes.b) }}",
    "{{ attributes.a | d('x') ~ attributes.b }}",
    "{{ attributes.a and 'x' }}",
    "{{ attributes.a if attributes.b else 'x' }}",
    "{{ 'x' | truncate(attributes.a) }}",
    "{{ attributes.a + 1 }}",
    "{{ -attributes.a }}",
    "{{ [attributes.a] | join }}",
    "{% for x in attributes.a %}{% endfor %}",
    "{% for x in [1] if attributes.a > 1 %}{% endfor %}",
    "{% if attributes.a is odd %}-{% endif %}",
]


@pytest.mark.parametrize("body", GUARDED)
def test_a_guarded_value_may_be_missing(body: str) -> None:
    assert mistakes(body=body) == []


@pytest.mark.parametrize("body", UNGUARDED)
def test_an_unguarded_value_may_not(body: str) -> None:
    assert "may be missing" in mistakes(body=body)[0]


def test_a_value_is_tried_as_what_it_is_used_for() -> None:
    numbers = "{{ attributes.n | d(0) | number }} {{ attributes.m | d(1) + 1 }}"
    numbers += "{% if attributes.k and attributes.k > 2 %}-{% endif %}"
    assert (
        mistakes(body=numbers + "{{ attributes.since | date | d('-') }}{{ attributes.x | upper | d('-') }}")
        == []
    )


REFERENCES = ["attributes.a", "attributes.b", "dates.c"]
CONDITION = st.recursive(
    st.sampled_from(
        [
            *REFERENCES,
            *(f"({each} is defined)" for each in REFERENCES),
            *(f"({each} is undefined)" for each in REFERENCES),
            *(f"{each} == 'x'" for each in REFERENCES),
            *(f"{each} != 'x'" for each in REFERENCES),
            *(
                "attributes.a == attributes.b",
                "attributes.a in ['x']",
                "attributes.a | d('')",
                "first_name",
                "''",
            ),
        ]
    ),
    lambda inner: st.one_of(
        inner.map(lambda one: f"(not {one})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} and {two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} or {two[1]})"),
        st.tuples(inner, inner, inner).map(lambda three: f"({three[0]} if {three[1]} else {three[2]})"),
    ),
    max_leaves=4,
)
USE = st.one_of(
    st.sampled_from([f"{{{{ {each} }}}}" for each in REFERENCES] + ["-"]),
    CONDITION.map(lambda condition: f"{{{{ {condition} }}}}"),
)
TEMPLATE = st.recursive(
    USE,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(CONDITION, inner, CONDITION, inner, inner).map(
            lambda each: "{{% if {} %}}{}{{% elif {} %}}{}{{% else %}}{}{{% endif %}}".format(*each)
        ),
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(TEMPLATE)
def test_what_is_found_guarded_never_fails_whatever_is_missing(source: str) -> None:
    if unguarded(parse_text(source, TextForm.BODY), frozenset()):
        return
    for size in range(len(REFERENCES) + 1):
        for there in combinations(REFERENCES, size):
            attributes = {name[-1]: "x" for name in there if name.startswith("attributes")}
            say(
                source,
                reader(attributes=attributes, dates={"c": date(2000, 1, 1)} if "dates.c" in there else {}),
            )
