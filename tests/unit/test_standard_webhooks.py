"""Signatures by the Standard Webhooks specification, against the vector of its reference implementations."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.standard_webhooks import InvalidSignature, sign, signed_headers, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + b64encode(bytes(range(32))).decode()
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
NOW = datetime.fromtimestamp(TIMESTAMP, UTC)


def headers(signature: str = SIGNATURE, timestamp: str = str(TIMESTAMP)) -> dict[str, str]:
    """The headers of the known request."""
    return {"Webhook-Id": ID, "Webhook-Timestamp": timestamp, "webhook-signature": signature}


def test_the_known_vector() -> None:
    assert sign(SECRET, ID, TIMESTAMP, BODY) == SIGNATURE
    assert sign(SECRET.removeprefix("whsec_"), ID, TIMESTAMP, BODY) == SIGNATURE
    verify([SECRET], headers(), BODY, NOW)


def test_several_secrets_make_several_signatures_and_one_that_fits_is_enough() -> None:
    signed = signed_headers([OTHER, SECRET], ID, TIMESTAMP, BODY)
    assert signed["webhook-signature"].split(" ")[1] == SIGNATURE
    assert signed["webhook-id"] == ID
    assert signed["webhook-timestamp"] == str(TIMESTAMP)
    for secrets in ([SECRET], [OTHER], [OTHER, SECRET]):
        verify(secrets, signed, BODY, NOW)
    verify([SECRET], headers(f"v1a,abc v1,bm9uc2Vuc2U= {SIGNATURE} garbage"), BODY, NOW)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_five_minutes_either_way_are_tolerated(seconds: int) -> None:
    verify([SECRET], headers(), BODY, NOW + timedelta(seconds=seconds))
    with pytest.raises(InvalidSignature, match="too far"):
        verify([SECRET], headers(), BODY, NOW + timedelta(seconds=seconds + (1 if seconds > 0 else -1)))
    verify([SECRET], headers(), BODY, NOW + timedelta(hours=1), tolerance=timedelta(hours=1))


@pytest.mark.parametrize(
    "changed",
    [
        {"body": BODY + b" "},
        {"secrets": [OTHER]},
        {"secrets": []},
        {"headers": headers(SIGNATURE.removeprefix("v1,"))},
        {"headers": headers(SIGNATURE.replace("v1,", "v2,"))},
        {"headers": headers("")},
        {"headers": headers("v1,")},
        {"headers": headers("ü")},
        {"headers": headers(" ".join([*["v1,x"] * 30, SIGNATURE]))},
        {"headers": headers(timestamp=str(TIMESTAMP + 1))},
        {"headers": headers(timestamp="0" + str(TIMESTAMP))},
        {"headers": headers(timestamp="1614265330.0")},
        {"headers": headers(timestamp="١٦١٤٢٦٥٣٣٠")},
        {"headers": headers(timestamp="")},
        {"headers": headers(timestamp="9" * 5000)},
        {"headers": {**headers(), "Webhook-Id": "msg_other"}},
        {"headers": {name: value for name, value in headers().items() if name != "Webhook-Id"}},
        {"headers": {}},
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, object]) -> None:
    given: dict[str, object] = {"secrets": [SECRET], "headers": headers(), "body": BODY, **changed}
    with pytest.raises(InvalidSignature):
        verify(**given, now=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("secret", ["whsec_not base64", "whsec_", "whsec_c2hvcnQ=", "ключ"])
def test_a_secret_that_is_none_is_refused_without_being_repeated(secret: str) -> None:
    with pytest.raises(ValueError, match="a webhook secret") as refused:
        sign(secret, ID, TIMESTAMP, BODY)
    assert secret not in str(refused.value)
    assert refused.value.__cause__ is None
