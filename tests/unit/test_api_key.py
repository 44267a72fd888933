"""The text of an API key."""

from __future__ import annotations

import re

import pytest

from scheduler.domain.api_key import new_key_text, prefix_of


def test_a_key_has_a_prefix_and_a_secret_of_256_bits() -> None:
    made = new_key_text()
    assert re.fullmatch(r"dbk_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}", made.text)
    assert prefix_of(made.text) == made.prefix
    assert 62**43 > 2**256 > 62**42


def test_no_two_keys_are_alike_and_none_is_shown_by_accident() -> None:
    made = [new_key_text() for _ in range(200)]
    assert len({each.text for each in made}) == len({each.prefix for each in made}) == 200
    assert made[0].text not in repr(made[0])


@pytest.mark.parametrize(
    "text", ["", "dbk_", "dbk_12345678_", "dbk_12345678_" + "a" * 42, "xyz_12345678_" + "a" * 43, "ü" * 60]
)
def test_what_is_no_key_has_no_prefix(text: str) -> None:
    assert prefix_of(text) is None
