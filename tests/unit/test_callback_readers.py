"""Signatures of callbacks: what is signed as its documentation says is read, everything else is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr
from werkzeug.exceptions import BadRequest

from api.callbacks import generic, sendgrid, twilio
from api.callbacks.port import CallbackRequest, NotAuthentic, Reader
from api.callbacks.sns import SnsReader
from scheduler.domain.delivery_event import DeliveryEventKind
from scheduler.domain.message import MessageKey
from scheduler.errors import ConfigurationError, InvalidInput
from scheduler.provider_settings import ProviderEntry
from scheduler.standard_webhooks import sign

NOW = datetime(2027, 3, 1, 9, 0, 30, tzinfo=UTC)
MESSAGE = "1.42.20270301.0.email"
KEY = MessageKey.parse(MESSAGE)


def entry(kind: str, **options: object) -> ProviderEntry:
    return ProviderEntry("mail", kind, options)


def request(
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    url: str = "https://daybreak.example/callbacks/mail",
    query: Mapping[str, str] | None = None,
) -> CallbackRequest:
    return CallbackRequest(url, query or {}, headers or {}, body, NOW)


# SendGrid

SENDGRID_KEY = ec.generate_private_key(ec.SECP256R1())
SENDGRID = entry(
    "sendgrid",
    callback_public_key=base64.b64encode(
        SENDGRID_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode(),
)


def sendgrid_request(*events: Any, key: ec.EllipticCurvePrivateKey = SENDGRID_KEY) -> CallbackRequest:
    body = json.dumps(events).encode()
    signature = key.sign(b"1803891630" + body, ec.ECDSA(SHA256()))
    return request(
        body, {sendgrid.SIGNATURE: base64.b64encode(signature).decode(), sendgrid.TIMESTAMP: "1803891630"}
    )


def sendgrid_event(event: str, **more: object) -> dict[str, object]:
    return {
        "email": "ann@example.org",
        "timestamp": 1803891625,
        "event": event,
        "sg_event_id": f"id-of-{event}",
        "daybreak_id": MESSAGE,
        "reason": "550 <ann@example.org> unknown",
        **more,
    }


def test_sendgrid_events_are_read() -> None:
    told = [
        sendgrid_event("delivered"),
        sendgrid_event("bounce", type="bounce", status="5.1.1"),
        sendgrid_event("bounce", type="blocked", sg_event_id="blocked"),
        sendgrid_event("spamreport"),
        sendgrid_event("group_unsubscribe"),
        sendgrid_event("open"),
        sendgrid_event("delivered", daybreak_id="somebody else's"),
        "no event",
    ]
    events = sendgrid.read(SENDGRID, sendgrid_request(*told))
    assert [(event.kind.value, event.is_permanent, event.detail) for event in events] == [
        ("delivered", False, "delivered"),
        ("bounced", True, "bounce bounce 5.1.1"),
        ("bounced", False, "bounce blocked"),
        ("complained", False, "spamreport"),
        ("unsubscribed", False, "group_unsubscribe"),
    ]
    assert {event.key for event in events} == {KEY}
    assert events[0].occurred_at == datetime.fromtimestamp(1803891625, UTC)
    assert (events[0].event_id, events[0].address) == ("id-of-delivered", "ann@example.org")
    assert "ann@" not in repr(events)


@pytest.mark.parametrize("timestamp", [None, True, -1, 1e300, "soon"])
def test_an_odd_time_of_an_event_is_the_time_it_came(timestamp: object) -> None:
    [event] = sendgrid.read(SENDGRID, sendgrid_request(sendgrid_event("delivered", timestamp=timestamp)))
    assert event.occurred_at == NOW or timestamp is True


def test_what_sendgrid_has_not_signed_is_refused() -> None:
    good = sendgrid_request(sendgrid_event("delivered"))
    forged = sendgrid_request(sendgrid_event("delivered"), key=ec.generate_private_key(ec.SECP256R1()))
    wrong: list[CallbackRequest] = [
        forged,
        replace(good, body=good.body + b" "),
        replace(good, headers={}),
        replace(good, headers={**good.headers, sendgrid.TIMESTAMP: "1803891631"}),
        replace(good, headers={**good.headers, sendgrid.SIGNATURE: "ünsigned"}),
    ]
    for each in wrong:
        with pytest.raises(NotAuthentic):
            sendgrid.read(SENDGRID, each)


def test_a_signed_body_that_is_no_array_is_a_bad_request() -> None:
    body = b'{"event": "delivered"}'
    signature = base64.b64encode(SENDGRID_KEY.sign(b"1" + body, ec.ECDSA(SHA256()))).decode()
    with pytest.raises(BadRequest):
        sendgrid.read(SENDGRID, request(body, {sendgrid.SIGNATURE: signature, sendgrid.TIMESTAMP: "1"}))


@pytest.mark.parametrize("key", ["", "nonsense", base64.b64encode(b"no key").decode()])
def test_a_missing_or_wrong_public_key_is_a_matter_of_the_settings(key: str) -> None:
    with pytest.raises(ConfigurationError, match="callback_public_key"):
        sendgrid.read(entry("sendgrid", callback_public_key=key), sendgrid_request())


# Twilio

TWILIO = entry("twilio", auth_token=SecretStr("12345"))


def twilio_request(status: str, error_code: str = "", token: str = "12345") -> CallbackRequest:
    url = f"https://daybreak.example/callbacks/sms?id={MESSAGE}"
    form = {"MessageSid": "SM1", "MessageStatus": status, "To": "+4930123456", "From": "+4930999999"}
    form |= {"ErrorCode": error_code} if error_code else {}
    signed = url + "".join(name + form[name] for name in sorted(form))
    digest = hmac.new(token.encode(), signed.encode(), hashlib.sha1).digest()
    headers = {twilio.SIGNATURE: base64.b64encode(digest).decode()}
    return request(urlencode(form).encode(), headers, url=url, query={"id": MESSAGE})


def test_the_example_of_twilios_documentation_is_authentic() -> None:
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+12349013030",
        "Digits": "1234",
        "From": "+12349013030",
        "To": "+18005551212",
    }
    called = request(
        urlencode(form).encode(),
        {twilio.SIGNATURE: "0/KCTR6DLpKmkAf8muzZqo1nDgQ="},
        url="https://mycompany.com/myapp.php?foo=1&bar=2",
    )
    assert twilio.read(TWILIO, called) == []
    with pytest.raises(NotAuthentic):
        twilio.read(TWILIO, replace(called, url="https://mycompany.com/myapp.php?foo=1&bar=3"))


@pytest.mark.parametrize(
    ("status", "error_code", "kind", "permanent"),
    [
        ("delivered", "", DeliveryEventKind.DELIVERED, False),
        ("undelivered", "30003", DeliveryEventKind.BOUNCED, False),
        ("failed", "30005", DeliveryEventKind.BOUNCED, True),
        ("failed", "21610", DeliveryEventKind.UNSUBSCRIBED, False),
    ],
)
def test_twilio_statuses_are_read(
    status: str, error_code: str, kind: DeliveryEventKind, *, permanent: bool
) -> None:
    [event] = twilio.read(TWILIO, twilio_request(status, error_code))
    assert (event.key, event.kind, event.is_permanent) == (KEY, kind, permanent)
    assert (event.event_id, event.occurred_at) == (f"SM1.{status}", NOW)


@pytest.mark.parametrize("status", ["queued", "sending", "sent", ""])
def test_twilio_statuses_on_the_way_say_nothing(status: str) -> None:
    assert twilio.read(TWILIO, twilio_request(status)) == []


def test_what_twilio_has_not_signed_is_refused() -> None:
    for wrong in (
        twilio_request("delivered", token="other"),
        replace(twilio_request("delivered"), headers={}),
        replace(twilio_request("delivered"), headers={twilio.SIGNATURE: "ü"}),
        replace(twilio_request("delivered"), body=b"MessageStatus=failed"),
    ):
        with pytest.raises(NotAuthentic):
            twilio.read(TWILIO, wrong)


# Amazon SES through SNS

TOPIC = "arn:aws:sns:eu-central-1:123456789012:daybreak"
SES = entry("ses", topic_arns=[TOPIC])
AMAZON_KEY = rsa.generate_private_key(65537, 2048)
CERTIFICATE_URL = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-1.pem"
SUBSCRIBE_URL = "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"


def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(AMAZON_KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(AMAZON_KEY, SHA256())
    )
    return made.public_bytes(Encoding.PEM)


CERTIFICATE = certificate()


class Amazon:
    """Answers what an SNS reader gets, and remembers it."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        return CERTIFICATE


def sns_message(version: str = "2", **changes: str) -> dict[str, str]:
    message = {
        "Type": "Notification",
        "MessageId": "sns-1",
        "TopicArn": TOPIC,
        "Timestamp": "2027-03-01T09:00:20.000Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE_URL,
        **changes,
    }
    names = ["Message", "MessageId", "SubscribeURL", "Subject", "Timestamp", "Token", "TopicArn", "Type"]
    if message["Type"] == "Notification":
        names = [name for name in names if name not in ("SubscribeURL", "Token")]
    signed = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
    hashed = SHA256() if version == "2" else SHA1()
    signature = AMAZON_KEY.sign(signed.encode(), padding.PKCS1v15(), hashed)
    return {**message, "Signature": base64.b64encode(signature).decode()}


def ses_event(kind: str, **about: object) -> str:
    mail = {"tags": {"daybreak_id": [MESSAGE.replace(".", "-")]}}
    return json.dumps(
        {"eventType": kind, "mail": mail, kind.lower(): {"timestamp": "2027-03-01T09:00:10Z", **about}}
    )


def read_sns(message: Mapping[str, str], amazon: Amazon | None = None) -> list[tuple[str, bool, str | None]]:
    events = SnsReader((amazon or Amazon()).fetch)(SES, request(json.dumps(message).encode()))
    assert {event.key for event in events} <= {KEY}
    return [(event.kind.value, event.is_permanent, event.address) for event in events]


@pytest.mark.parametrize("version", ["1", "2"])
def test_ses_events_are_read(version: str) -> None:
    bounced = ses_event(
        "Bounce", bounceType="Permanent", bouncedRecipients=[{"emailAddress": "ann@example.org"}]
    )
    assert read_sns(sns_message(version, Message=ses_event("Delivery"))) == [("delivered", False, None)]
    assert read_sns(sns_message(version, Message=bounced)) == [("bounced", True, "ann@example.org")]
    assert read_sns(sns_message(Message=ses_event("Complaint"), Subject="Hi")) == [
        ("complained", False, None)
    ]
    assert read_sns(sns_message(Message=ses_event("Open"))) == []
    assert read_sns(sns_message(Message='"text"')) == []
    assert (
        read_sns(sns_message(Message="Successfully validated SNS topic for Amazon SES event publishing."))
        == []
    )


def test_the_certificate_is_fetched_once() -> None:
    amazon = Amazon()
    reader = SnsReader(amazon.fetch)
    for _ in range(3):
        reader(SES, request(json.dumps(sns_message(Message=ses_event("Delivery"))).encode()))
    assert amazon.fetched == [CERTIFICATE_URL]


def test_the_subscription_to_a_listed_topic_is_confirmed() -> None:
    amazon = Amazon()
    message = sns_message(Type="SubscriptionConfirmation", Message="m", Token="t", SubscribeURL=SUBSCRIBE_URL)
    assert read_sns(message, amazon) == []
    assert amazon.fetched == [CERTIFICATE_URL, SUBSCRIBE_URL]


@pytest.mark.parametrize(
    "changes",
    [
        {"TopicArn": "arn:aws:sns:eu-central-1:123456789012:other"},
        {"Type": "Other"},
        {"SigningCertURL": "http://sns.eu-central-1.amazonaws.com/a.pem"},
        {"SigningCertURL": "https://sns.eu-central-1.amazonaws.com.evil.example/a.pem"},
        {"SigningCertURL": "https://sns.eu-central-1.amazonaws.com@evil.example/a.pem"},
        {"SigningCertURL": "https://sns.eu-central-1.amazonaws.com:8443/a.pem"},
        {"SigningCertURL": "https://[/a.pem"},
        {"SigningCertURL": "https://sns.eu-central-1.amazonaws.com/?Action=Publish&x=.pem"},
        {"SigningCertURL": f"{CERTIFICATE_URL}?x=1"},
    ],
)
def test_what_amazon_has_not_signed_for_our_topic_is_refused(changes: dict[str, str]) -> None:
    amazon = Amazon()
    with pytest.raises(NotAuthentic):
        read_sns(sns_message(Message=ses_event("Delivery"), **changes), amazon)
    assert amazon.fetched == []


def test_a_changed_message_of_sns_is_refused() -> None:
    message = sns_message(Message=ses_event("Delivery"))
    for changes in (
        {"Message": ses_event("Bounce")},
        {"Signature": "AAAA"},
        {"Signature": "?"},
        {"SignatureVersion": "3"},
    ):
        with pytest.raises(NotAuthentic):
            read_sns({**message, **changes})


def test_without_topics_nothing_of_sns_is_believed() -> None:
    with pytest.raises(ConfigurationError, match="topic_arns"):
        SnsReader(Amazon().fetch)(entry("ses"), request(json.dumps(sns_message(Message="m")).encode()))


# Any service of one's own

SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()
OWN = entry("http", callback_secret=SecretStr(SECRET))


def own_request(body: object, *, secret: str = SECRET, at: datetime = NOW) -> CallbackRequest:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    seconds = int(at.timestamp())
    headers = {
        "webhook-id": "call-7",
        "webhook-timestamp": str(seconds),
        "webhook-signature": sign(secret, "call-7", seconds, content),
    }
    return request(content, headers)


def test_events_of_ones_own_service_are_read() -> None:
    told = {
        "events": [
            {"message_id": MESSAGE, "event": "delivered", "at": "2027-03-01T10:00:05+01:00"},
            {"message_id": "of another system", "event": "delivered"},
            {"message_id": MESSAGE, "event": "bounced", "permanent": True, "detail": "mailbox unknown"},
        ]
    }
    first, second = generic.read(OWN, own_request(told))
    assert (first.event_id, first.key, first.kind) == ("call-7.0", KEY, DeliveryEventKind.DELIVERED)
    assert first.occurred_at == datetime(2027, 3, 1, 9, 0, 5, tzinfo=UTC)
    assert (second.event_id, second.is_permanent, second.occurred_at) == ("call-7.2", True, NOW)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_an_instant_beyond_all_years_is_the_time_it_came(at: str) -> None:
    [event] = generic.read(
        OWN, own_request({"events": [{"message_id": MESSAGE, "event": "delivered", "at": at}]})
    )
    assert event.occurred_at == NOW


def test_what_no_database_takes_is_left_out_of_an_event() -> None:
    told = sendgrid_event("bounce", sg_event_id="a\0b", type="bounce\ud800", email="ann\0@example.org")
    [event] = sendgrid.read(SENDGRID, sendgrid_request(told))
    assert (event.event_id, event.detail, event.address) == ("ab", "bounce bounce?", "ann@example.org")


@pytest.mark.parametrize(
    "body",
    [[], {}, {"events": [{"message_id": MESSAGE, "event": "opened"}]}, {"events": [{"event": "delivered"}]}],
)
def test_a_signed_body_that_breaks_rules_says_where(body: object) -> None:
    with pytest.raises(InvalidInput):
        generic.read(OWN, own_request(body))


def test_a_signed_body_that_is_no_json_is_a_bad_request() -> None:
    for body in (b"", b"{", b"[" * 100_000):
        with pytest.raises(BadRequest):
            generic.read(OWN, own_request(body))


def test_what_the_service_has_not_signed_is_refused() -> None:
    told = {"events": [{"message_id": MESSAGE, "event": "delivered"}]}
    other = "whsec_" + base64.b64encode(b"another key, as long as it").decode()
    for wrong in (
        own_request(told, secret=other),
        own_request(told, at=NOW - timedelta(minutes=6)),
        own_request(told, at=NOW + timedelta(minutes=6)),
        replace(own_request(told), headers={}),
        replace(own_request(told), body=b'{"events": []}'),
    ):
        with pytest.raises(NotAuthentic):
            generic.read(OWN, wrong)


@pytest.mark.parametrize(
    ("read", "kind"), [(twilio.read, "twilio"), (generic.read, "http"), (sendgrid.read, "sendgrid")]
)
def test_without_its_key_no_reader_believes_anything(read: Reader, kind: str) -> None:
    with pytest.raises(ConfigurationError, match="providers file"):
        read(entry(kind), request(b""))
