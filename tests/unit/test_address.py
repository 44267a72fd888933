import pytest

from scheduler.domain.address import address_errors, normal_address
from scheduler.domain.occasion import Channel


@pytest.mark.parametrize(
    ("channel", "address", "normal"),
    [
        (Channel.EMAIL, " Ann@Example.ORG ", "ann@example.org"),
        (Channel.EMAIL, "ÄNN@example.org", "änn@example.org"),
        (Channel.SMS, " +442071838750\n", "+442071838750"),
        (Channel.PUSH, "AbC", "AbC"),
        (Channel.WEBHOOK, "https://example.org/Path", "https://example.org/Path"),
    ],
)
def test_addresses_are_compared_in_one_form(channel: Channel, address: str, normal: str) -> None:
    assert normal_address(channel, address) == normal
    assert not address_errors(channel, normal)


@pytest.mark.parametrize(
    ("channel", "address"),
    [
        (Channel.EMAIL, "ann"),
        (Channel.EMAIL, "ann@example.org\x00"),
        (Channel.SMS, "020 7183 8750"),
        (Channel.PUSH, "two words"),
        (Channel.WEBHOOK, "ftp://example.org"),
        (Channel.IN_APP, "anything"),
    ],
)
def test_a_wrong_address_is_told_without_repeating_it(channel: Channel, address: str) -> None:
    [error] = address_errors(channel, address)
    assert error.pointer == ""
    assert address not in error.message
