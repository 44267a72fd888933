"""URLs and headers from templates: no value leaves its place."""

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from scheduler.errors import ConfigurationError
from worker.channels.request_fields import Unsendable
from worker.channels.request_head import HeaderTemplates, UrlTemplate, host_of
from worker.templates import MissingFieldError


@pytest.mark.parametrize(
    "value", ["a/b", "a?b#c", "a&b=c", "../x", "%2e%2e", "Zoë 陈", "a b+c", "\r\nX: 1", "a@b:1", ""]
)
def test_a_value_stays_inside_its_part_of_the_url(value: str) -> None:
    url = UrlTemplate("https://a.example/v1/{to}/send?q={to}&x=1").render({"to": value})
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "a.example", "")
    assert [unquote(part) for part in parts.path.split("/")] == ["", "v1", value, "send"]
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", value), ("x", "1")]
    assert url.isascii()
    assert url.isprintable()


@pytest.mark.parametrize("value", [".", ".."])
def test_a_value_cannot_lead_out_of_the_path(value: str) -> None:
    for source in (
        "https://a.example/v1/{to}/send",
        "https://a.example/v1/{to}",
        "https://a.example/{to}?a=b",
    ):
        with pytest.raises(Unsendable):
            UrlTemplate(source).render({"to": value})
    assert UrlTemplate("https://a.example/?to={to}").render({"to": value}).endswith(f"?to={value}")


def test_a_url_without_fields_is_constant() -> None:
    assert UrlTemplate("https://a.example/x").constant == "https://a.example/x"
    assert UrlTemplate("https://a.example/{{x}}").constant == "https://a.example/{x}"
    assert UrlTemplate("https://a.example/{x}").constant is None


@pytest.mark.parametrize(
    "source",
    [
        "",
        "a.example",
        "ftp://a.example/",
        "https://",
        "https:///x",
        "https://{to}/x",
        "https://{to}",
        "https://a.{to}/x",
        "https://a.example:{to}/",
        "https://{to}@a.example/",
        "{to}/x",
        "x{to}",
        "https://a.example/{",
        "http://a b/",
        "https://a.example\n/",
        "https://user@a.example/{to}",
    ],
)
def test_a_url_that_could_lead_anywhere_is_refused(source: str) -> None:
    with pytest.raises(ConfigurationError, match="url"):
        UrlTemplate(source)


@pytest.mark.parametrize(
    "url",
    ["https://a.example/x?y={z}#f", "http://[2606:4700::1]:8080/", "HTTPS://A.example", "http://1.1.1.1"],
)
def test_a_url_that_is_one_field_is_taken_as_it_is(url: str) -> None:
    assert UrlTemplate("{address}").render({"address": url}) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "file:///etc/passwd",
        "gopher://a.example/",
        "//a.example/",
        "https://",
        "https:///x",
        "http://a b/",
        "http://a.example/\r\nX: 1",
        "http://user:secret@a.example/",
        "http://user@a.example/",
        "http://ex\u00e4mple.org/",
        "http://a.example:99999/",
        "http://a.example:x/",
        "http://[::1/",
        "http://a.example:0/",
        "http://a.example/" + "x" * 8_000,
        "http://\ud800/",
        "javascript:alert(1)",
        " http://a.example/",
    ],
)
def test_a_field_that_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Unsendable) as refused:
        UrlTemplate("{address}").render({"address": url})
    assert refused.value.category == "invalid_url"
    assert refused.value.detail == "its URL is no address of http or https"


def test_the_host_of_a_url() -> None:
    assert host_of("HTTP://A.example:8080/x") == "a.example:8080"


def headers(**sources: str) -> HeaderTemplates:
    return HeaderTemplates({name.replace("_", "-"): source for name, source in sources.items()}, "text/x")


def test_headers_with_and_without_fields() -> None:
    made = headers(X_Key="s3cret {{x}}", X_To="<{address}>", X_Empty="{html}")
    assert made.constant == ["X-Key: s3cret {x}", "Content-Type: text/x"]
    assert made.render({"address": "Zoë", "html": ""}) == ["X-To: <Zoë>".encode(), b"X-Empty;"]
    assert made.names == {"address", "html"}


def test_a_header_is_left_out_where_its_fields_have_no_value() -> None:
    made = HeaderTemplates({"List-Unsubscribe?": "<{unsubscribe_url}>"}, "text/x")
    assert made.render({"unsubscribe_url": ""}) == made.render({}) == []
    assert made.render({"unsubscribe_url": "https://a.example"}) == [b"List-Unsubscribe: <https://a.example>"]


def test_the_type_of_the_content_may_be_set() -> None:
    assert HeaderTemplates({"content-type": "a/b"}, "text/x").constant == ["content-type: a/b"]


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nb", "a\x00b", "a\x7f", "a\u0085b", "a\u2028b", "a\tb"])
def test_a_value_cannot_break_out_of_its_header(value: str) -> None:
    with pytest.raises(Unsendable) as refused:
        headers(X_To="x {to}").render({"to": value})
    assert (refused.value.category, "X-To" in refused.value.detail) == ("invalid_header", True)


def test_what_a_header_lacks_or_cannot_write() -> None:
    with pytest.raises(MissingFieldError):
        headers(X_To="{to}").render({})
    with pytest.raises(UnicodeEncodeError):
        headers(X_To="{to}").render({"to": "\ud800"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X A", "b"),
        ("", "b"),
        ("X-A", ""),
        ("X-A", "b\r\nc"),
        ("Host", "b"),
        ("idempotency-key", "b"),
        ("expect?", "{id}"),
        ("X-A", "{"),
        ("X-A", "\u00e9"),
    ],
)
def test_headers_that_cannot_work_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match="header"):
        HeaderTemplates({name: value}, "text/x")
