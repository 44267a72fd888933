"""Texts with fields: what compiles, what is refused, and what an empty field leaves behind."""

import pytest

from scheduler.errors import InvalidInput
from worker.templates import LONGEST_SOURCE, MissingFieldError, compile_template

BIRTHDAY = "Hey, {first_name} {last_name}, it's your birthday!"


def render(source: str, **fields: str) -> str:
    return compile_template(source, None).render(fields)


@pytest.mark.parametrize(
    ("first_name", "last_name", "text"),
    [
        ("Ann", "Smith", "Hey, Ann Smith, it's your birthday!"),
        ("Ann", "", "Hey, Ann, it's your birthday!"),
        ("", "Smith", "Hey, Smith, it's your birthday!"),
        ("", "", "Hey, it's your birthday!"),
        ("Zoë", "Nguyễn 陈", "Hey, Zoë Nguyễn 陈, it's your birthday!"),
    ],
)
def test_an_empty_name_leaves_no_hole_in_the_birthday_greeting(
    first_name: str, last_name: str, text: str
) -> None:
    assert render(BIRTHDAY, first_name=first_name, last_name=last_name) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Hi {empty}!", "Hi!"),
        ("Hi {empty}", "Hi"),
        ("{empty} {full}, hi", "Ann, hi"),
        ("{empty}", ""),
        ("a\n{empty} {full}\nb", "a\nAnn\nb"),
        ("a\n{full} {empty}\nb", "a\nAnn\nb"),
        ("a {empty}{full} b", "a Ann b"),
        ("a {full}{empty} b", "a Ann b"),
        ("a {empty}{empty}, b", "a, b"),
        ("{full}-{empty}-{full}", "Ann--Ann"),
        ("Bonjour {empty} !", "Bonjour !"),
        ("{empty}  two blanks  stay  here", "two blanks  stay  here"),
        ("the ({full} {empty}) end", "the (Ann) end"),
    ],
)
def test_what_an_empty_field_takes_along(source: str, text: str) -> None:
    assert render(source, empty="", full="Ann") == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("nothing to fill in", "nothing to fill in"),
        ("{{name}}", "{name}"),
        ("{{{name}}}", "{Ann}"),
        ("100% of {name}, %s and %(name)s", "100% of Ann, %s and %(name)s"),
        ("{name}{name} {name}", "AnnAnn Ann"),
        ("odd  blanks , stay", "odd  blanks , stay"),
    ],
)
def test_everything_but_fields_is_taken_as_written(source: str, text: str) -> None:
    assert render(source, name="Ann") == text


def test_a_value_is_never_read_as_a_template() -> None:
    assert render("Hi {name}!", name="{secret} %s {0.__class__} {{") == "Hi {secret} %s {0.__class__} {{!"


def test_fields_that_are_not_named_are_ignored() -> None:
    assert render("Hi {name}!", name="Ann", other="x") == "Hi Ann!"


def test_names_are_listed_once_in_order_of_appearance() -> None:
    assert compile_template("{b} {a} {b}", None).names == ("b", "a")


@pytest.mark.parametrize(
    "source",
    [
        "{name.attribute}",
        "{name[0]}",
        "{name!r}",
        "{name:>10}",
        "{0}",
        "{}",
        "{ name }",
        "{na-me}",
        "{näme}",
        "{",
        "}",
        "a } b",
        "{name",
        "{a{b}",
    ],
)
def test_nothing_but_a_plain_name_may_stand_between_braces(source: str) -> None:
    with pytest.raises(InvalidInput, match="character"):
        compile_template(source, None)


def test_an_unknown_field_is_refused_with_its_place_and_the_allowed_names() -> None:
    with pytest.raises(InvalidInput) as caught:
        compile_template("Hi {frist_name}", frozenset({"first_name", "last_name"}))
    assert [error.message for error in caught.value.errors] == [
        "character 4: unknown field {frist_name} (did you mean {first_name}?); allowed: first_name, last_name"
    ]


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        compile_template("{a} {b.c} }", frozenset({"name"}))
    assert len(caught.value.errors) == 3


def test_a_source_beyond_the_limit_is_refused() -> None:
    compile_template("x" * LONGEST_SOURCE, None)
    with pytest.raises(InvalidInput, match="characters long"):
        compile_template("x" * (LONGEST_SOURCE + 1), None)


def test_a_missing_value_is_an_error_that_names_the_field() -> None:
    with pytest.raises(MissingFieldError, match="last_name") as caught:
        render(BIRTHDAY, first_name="Ann")
    assert caught.value.name == "last_name"
