"""What texts say, and to whom."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from scheduler.domain.occasion import LeapDayPolicy, MessageText
from scheduler.texts.bounds import TextForm
from scheduler.texts.compiled import compile_text
from scheduler.texts.environment import Reading
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.message_texts import OccasionTexts, needs_details, text_for
from tests.fixtures.occasions import an_occasion
from tests.fixtures.texts import LOCAL_DATE, reader, say

GREETING = "Hey, {{ full_name }}, it's your birthday!"


def failure(source: str, **values: object) -> str:
    with pytest.raises(RenderingFailed) as caught:
        say(source, reader(**values))  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(("last_name", "name"), [("Lee", "Zoë Lee"), ("", "Zoë")])
def test_the_greeting(last_name: str, name: str) -> None:
    assert say(GREETING, reader("Zoë", last_name)) == f"Hey, {name}, it's your birthday!"


def test_both_names_leave_no_blank_behind_where_there_is_one() -> None:
    source = "{{ first_name }} {{ last_name }}, {% if 1 %}{{ first_name }} {{ last_name }}{% endif %}!"
    assert say(source, reader("Zoë", "")) == "Zoë, Zoë!"
    assert say(source, reader("Zoë", "Lee")) == "Zoë Lee, Zoë Lee!"
    assert say("<p>{{ first_name }} {{ last_name }}.", reader("Zoë", "")) == "<p>Zoë."


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ dates.birthday | age }}", "37"),
        ("{{ dates.birthday | years | ordinal }}", "37th"),
        ("{{ dates['birthday'] | date }}", "1 March 1990"),
        ("{{ dates.birthday | date('d. MMM') }}", "1. Mar"),
        ("{{ local_date }} {{ local_date | date('short') }}", "2027-03-01 01/03/2027"),
        ("{{ '2020-02-29' | date('full', 'de') }}", "Samstag, 29. Februar 2020"),
        ("{{ 1234567.5 | number }}", "1,234,567.5"),
        ("{{ attributes.points | number('#,##0.00', 'de') }}", "1.234,50"),
        ("{{ attributes.points | round(1) }} {{ 2.7 | int }} {{ -3 | abs }}", "1234.5 2 3"),
        ("{{ attributes.points + 1 - 2 * 3 }}", "1229.5"),
        ("{{ attributes.nothing | upper | default('you') }}", "you"),
        ("{{ attributes.null | d('you') }} {{ attributes.empty | d('you') }}", "you you"),
        ("{{ 'VIP' if attributes.vip else 'guest' }}", "VIP"),
        ("{{ 'never' if attributes.nothing }}.", "."),
        ("{% if attributes.plan == 'gold' %}gold{% elif last_name %}none{% endif %}", "none"),
        (
            "{{ first_name | upper }} {{ 'a b' | title }} {{ 'aB' | capitalize }}{{ ' x ' | trim }}",
            "ZOË A B Abx",
        ),
        ("{{ 'one two three' | truncate(9) }}|{{ 'one two' | truncate(5, true, '') }}", "one two…|one t"),
        ("{{ ['a', first_name, 3] | join(', ') }} {{ 'abc' | first }}{{ 'abc'[1] }}", "a, Zoë, 3 ab"),
        ("{{ first_name ~ '-' ~ 3 }} {{ 'abc' | length }} {{ attributes | length }}", "Zoë-3 3 5"),
        (
            "{% for n, v in dates | items %}{{ loop.index }}.{{ n }}={{ v }}{% endfor %}",
            "1.birthday=1990-03-01",
        ),
        ("{% for name in attributes if name != 'city' %}{{ name[0] }}{% else %}-{% endfor %}", "eppv"),
        ("{% raw %}{{ raw }}{% endraw %}{# nothing #}\n", "{{ raw }}\n"),
        ("{{ '{' }}100 %}", "{100 %}"),
    ],
)
def test_expressions(source: str, said: str) -> None:
    attributes = {"points": 1234.5, "vip": True, "plan": "free", "null": None, "empty": "", "city": "Köln"}
    assert say(source, reader(attributes=attributes)) == said


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("\n{{ attributes.city }}", "line 2: attributes.city is missing"),
        ("{{ attributes.city ~ 'x' }}", "line 1: attributes.city is missing"),
        ("{{ attributes.city < 3 }}", "line 1: attributes.city is missing"),
        ("{% for x in attributes.city %}{% endfor %}", "line 1: attributes.city is missing"),
        ("{{ first_name * 3 }}", "line 1: * takes numbers; ~ puts texts together"),
        ("{{ 1 // 0 }}", "line 1: a number is divided by zero"),
        ("{{ 9007199254740992 * 2 }}", "line 1: a number is too large"),
        ("{{ first_name < 3 }}", "line 1: a value is not of the kind that is needed there"),
        ("{{ first_name | number }}", "line 1: number takes a number"),
        ("{{ first_name | age }}", "line 1: age takes a date, or a text written YYYY-MM-DD"),
        ("{{ 2 | ordinal('xx') }}", "line 1: a filter is given a locale that is not known"),
        ("{{ -2 | ordinal }}", "line 1: ordinal takes whole numbers from 0 on"),
        (
            "{{ local_date | date('HH:mm') }}",
            "line 1: date takes full, long, medium, short or a date pattern of CLDR",
        ),
        ("{{ [1, 2] }}", "line 1: a list or nothing stands where a text, a number or a date is needed"),
    ],
)
def test_a_failure_says_where_and_nothing_of_the_values(source: str, why: str) -> None:
    assert failure(source) == why


def test_a_plain_text_without_its_value_fails() -> None:
    values = reader()
    del values["unsubscribe_url"]
    with pytest.raises(RenderingFailed, match="unsubscribe_url is missing"):
        say("{{ unsubscribe_url }}", values)


def test_what_columns_cannot_say_is_left_to_render() -> None:
    for source in ("{{ unsubscribe_url }}", "{{ first_name | upper }}", "{{ dates.birthday }}"):
        assert compile_text(source, TextForm.BODY).many({}, {"first_name": ["Ann"]}, 1) is None
    named = compile_text("{{ first_name }} of {{ occasion_name }}", TextForm.BODY)
    assert named.many({"occasion_name": "x"}, {"first_name": ["Ann", "x" * 10**7]}, 2) is None


def test_columns_keep_the_one_line_of_a_subject() -> None:
    subject = compile_text("Hey, {{ first_name }}", TextForm.SUBJECT)
    assert subject.many({}, {"first_name": ["Ann", "Zoë\r\nBcc: x"]}, 2) == ["Hey, Ann", "Hey, Zoë Bcc: x"]
    assert subject.many({"first_name": "100 %"}, {}, 2) == ["Hey, 100 %"] * 2
    assert subject.many({}, {"first_name": []}, 0) == []


def test_html_is_escaped_and_the_other_forms_are_not() -> None:
    values = reader("<b>&'\"", attributes={"city": "<i>"})
    source = "<p>{{ first_name }} {{ attributes.city }} {{ attributes.city ~ '<' }} {{ attributes.city | e }}"
    assert say(source, values, form=TextForm.HTML) == (
        "<p>&lt;b&gt;&amp;&#39;&#34; &lt;i&gt; &lt;i&gt;&lt; &lt;i&gt;"
    )
    assert say("<p>{{ first_name }}", values, form=TextForm.HTML) == "<p>&lt;b&gt;&amp;&#39;&#34;"
    assert say("<p>{{ first_name }}", values) == "<p><b>&'\""


@pytest.mark.parametrize("source", ["Hi {{ first_name }}!", "Hi {{ first_name | trim }}!"])
def test_a_subject_is_one_line_whatever_a_name_holds(source: str) -> None:
    values = reader("A\r\nBcc: b@example.org\x00\u2028\x85C")
    assert say(source, values, form=TextForm.SUBJECT) == "Hi A Bcc: b@example.org C!"


NAMES = ["first_name", "last_name", "full_name", "local_date", "occasion_name", "unsubscribe_url"]
WORDS = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="{}#\u2028\u2029")
    | st.sampled_from("%\n <&'\"")
)
PLAIN = st.lists(WORDS | st.sampled_from([f"{{{{ {name} }}}}" for name in NAMES])).map("".join)


@settings(deadline=None)
@given(PLAIN, st.text(min_size=1), st.sampled_from([TextForm.BODY, TextForm.HTML]))
def test_plain_texts_say_what_jinja_says(source: str, name: str, form: TextForm) -> None:
    text = compile_text(source, form)
    values = reader(name)
    jinja = Environment(autoescape=form is TextForm.HTML, keep_trailing_newline=True)
    assert text.is_plain
    said = jinja.from_string(source).render(values)
    assert text.render(values, None) == said
    own = ["first_name", "last_name", "full_name", "unsubscribe_url"]
    shared = {name: values[name] for name in ("local_date", "occasion_name")}
    assert text.many(shared, {column: [values[column]] * 2 for column in own}, 2) == [said] * 2


@pytest.mark.parametrize(
    ("born", "on", "leap_day", "age"),
    [
        (date(1990, 3, 1), date(2027, 2, 28), LeapDayPolicy.FEB28, 36),
        (date(1990, 3, 1), date(2027, 3, 1), LeapDayPolicy.FEB28, 37),
        (date(2004, 2, 29), date(2027, 2, 28), LeapDayPolicy.FEB28, 23),
        (date(2004, 2, 29), date(2027, 2, 28), LeapDayPolicy.MAR1, 22),
        (date(2004, 2, 29), date(2027, 3, 1), LeapDayPolicy.MAR1, 23),
        (date(2004, 2, 29), date(2027, 3, 1), LeapDayPolicy.SKIP, 23),
        (date(2004, 2, 29), date(2028, 2, 28), LeapDayPolicy.FEB28, 23),
        (date(2004, 2, 29), date(2028, 2, 29), LeapDayPolicy.MAR1, 24),
        (date(2030, 1, 1), date(2027, 3, 1), LeapDayPolicy.FEB28, 0),
    ],
)
def test_age_on_the_date_of_the_message(born: date, on: date, leap_day: LeapDayPolicy, age: int) -> None:
    values = reader(dates={"birthday": born})
    assert say("{{ dates.birthday | age }}", values, local_date=on, leap_day=leap_day) == str(age)


@pytest.mark.parametrize(
    ("locale", "said"),
    [
        ("en-GB", "1st 2nd 3rd 11th 21st, 1 March 1990, 1,234.5"),
        ("en-US", "1st 2nd 3rd 11th 21st, March 1, 1990, 1,234.5"),
        ("de-CH", "1. 2. 3. 11. 21., 1. März 1990, 1\u2019234.5"),
        ("pt-BR", "1º 2º 3º 11º 21º, 1 de março de 1990, 1.234,5"),
        ("fr", "1er 2e 3e 11e 21e, 1 mars 1990, 1\u202f234,5"),
        ("sv", "1:a 2:a 3:e 11:e 21:a, 1 mars 1990, 1\xa0234,5"),
        ("ca", "1r 2n 3r 11è 21è, 1 de març del 1990, 1.234,5"),
        ("ja", "1番目 2番目 3番目 11番目 21番目, 1990年3月1日, 1,234.5"),
        ("zh-Hant-TW", "第1 第2 第3 第11 第21, 1990年3月1日, 1,234.5"),
        ("sw", "1 2 3 11 21, 1 Machi 1990, 1,234.5"),
        ("xx-Latn", "1st 2nd 3rd 11th 21st, March 1, 1990, 1,234.5"),
    ],
)
def test_filters_follow_the_locale(locale: str, said: str) -> None:
    numbers = "{% for n in [1, 2, 3, 11, 21] %}{{ n | ordinal }}{{ ' ' if not loop.last }}{% endfor %}"
    source = numbers + ", {{ dates.birthday | date }}, {{ 1234.5 | number }}"
    assert say(source, locale=locale) == said


@pytest.mark.parametrize(
    ("locale", "chosen"),
    [
        ("en-GB", "en"),
        ("en", "en"),
        ("pt-BR", "pt-BR"),
        ("pt", "own"),
        ("pt-br", "pt-BR"),
        ("zh-Hant-TW", "zh-Hant"),
        ("zh-TW", "zh"),
        ("de-x-one", "de"),
        ("fr-CA", "own"),
    ],
)
def test_a_reader_gets_the_text_of_the_language_nearest_to_theirs(locale: str, chosen: str) -> None:
    tags = ["en", "pt-BR", "zh-Hant", "zh", "de"]
    by_tag = {tag.lower(): MessageText(tag, tag) for tag in tags}
    assert text_for(locale, by_tag, MessageText("own", "own")).body == chosen


def test_a_translation_without_html_has_none_rather_than_another_language() -> None:
    occasion = an_occasion(html="<p>own", translations={"de": MessageText("S", "B")})
    texts = OccasionTexts(occasion, with_html=True)
    assert [texts.of(locale).render(reader(), None).html for locale in ("de-AT", "fr")] == [None, "<p>own"]


def test_an_invalid_text_fails_those_who_would_get_it() -> None:
    texts = OccasionTexts(an_occasion(translations={"de": MessageText("S", "{{ nmae }}")}), with_html=False)
    for _ in range(2):
        with pytest.raises(RenderingFailed, match="invalid: line 1: unknown variable 'nmae'"):
            texts.of("de")
    assert texts.of("en").render(reader(), None).body == "Hey, Zoë Lee, it's your birthday!"


@pytest.mark.parametrize(
    ("body", "html", "needed"),
    [
        (GREETING, None, False),
        ("{{ dates.birthday | age }}", None, True),
        (GREETING, "{{ attributes.city | d }}", True),
        ("{{ broken", None, False),
    ],
)
def test_whether_a_text_needs_dates_and_attributes(body: str, html: str | None, needed: bool) -> None:
    assert needs_details(an_occasion(body=body, html=html)) is needed
    assert needs_details(an_occasion(translations={"de": MessageText("", body, html)})) is needed


def test_bounds_hold_for_each_rendering_anew() -> None:
    text = compile_text("{% for a in [1, 2, 3] %}{{ a | ordinal }}{% endfor %}", TextForm.BODY)
    for _ in range(2_000):
        assert text.render(reader(), Reading("en", LOCAL_DATE, LeapDayPolicy.FEB28)) == "1st2nd3rd"
