"""Files of addresses as people and mail services write them."""

from __future__ import annotations

import pytest

from deploy.suppression_file import read_addresses
from scheduler.domain.occasion import Channel
from scheduler.errors import InvalidInput


def read(content: bytes, channel: Channel = Channel.EMAIL) -> tuple[list[str], list[tuple[int, str]]]:
    """The addresses, and the wrong lines with what is wrong."""
    lines = list(read_addresses(content.splitlines(keepends=True), channel))
    assert not lines or lines[-1].bytes_read <= len(content)
    taken = [line.address for line in lines if not line.errors]
    return taken, [(line.number, line.errors[0].message) for line in lines if line.errors]


@pytest.mark.parametrize(
    "content",
    [
        b"a@example.org\nb@example.org\n",
        b"a@example.org\r\n\r\n  b@example.org  \r\n",
        b"A@EXAMPLE.org\nb@example.org",
        b"\xef\xbb\xbfa@example.org\nb@example.org\n",
        b"email\na@example.org\nb@example.org\n",
        b"\xef\xbb\xbf\n\nEmail Address\na@example.org\nb@example.org\n",
        b'created,email,reason\n1,a@example.org,"550 no, such user"\n2,"b@example.org",\n',
        b"reason;E-Mail\nx;a@example.org\ny;b@example.org\n",
        b"address\tcreated\na@example.org\t1\nb@example.org\t2\n",
    ],
)
def test_these_all_say_the_same(content: bytes) -> None:
    assert read(content) == (["a@example.org", "b@example.org"], [])


def test_a_wrong_line_spoils_no_other() -> None:
    content = (
        b'email,reason\nann,x\n"a@example.org,x\n\xff@example.org,x\n'
        + b"x" * 70_000
        + b"\n\nb@example.org,y\n"
    )
    taken, wrong = read(content)
    assert taken == ["b@example.org"]
    assert wrong == [
        (2, "must be an e-mail address such as name@example.com"),
        (3, "is not a line of a CSV"),
        (4, "must be UTF-8 text"),
        (5, "must be at most 65536 bytes long"),
    ]


def test_a_line_without_the_column_says_so() -> None:
    assert read(b"id,email\n1\n") == ([], [(2, "has 1 cells, and the address is the 2th")])


def test_addresses_of_another_channel_are_wrong_ones() -> None:
    assert read(b"phone\n+442071838750\na@example.org\n", Channel.SMS) == (
        ["+442071838750"],
        [(3, "must be a phone number in E.164 form such as +442071838750")],
    )


@pytest.mark.parametrize("content", ["a@example.org\n".encode("utf-16"), b"a\0b\n"])
def test_another_encoding_is_told_at_once(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="UTF-16"):
        read(content)


def test_an_empty_file_has_no_addresses() -> None:
    assert read(b"") == ([], [])
    assert read(b"email\n") == ([], [])
