"""Providers that need no code: a file each in this folder says what they are asked and what they answer.

`build` fills in the options of one provider and hands the rest to the HTTP provider. The form of the files is in
`schema.py`; the options of all presets, and what their answers are taken for, in `deploy/providers.md`.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import Final

import orjson

from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from worker.channels.context import ProviderContext
from worker.channels.http import HttpProvider
from worker.channels.http_settings import MOST_CONCURRENCY, AnswerRule, BatchForm, HttpSettings
from worker.channels.outbox import OutboxProvider
from worker.channels.port import Provider
from worker.channels.presets.filling import Filling
from worker.channels.presets.options import read_options
from worker.channels.presets.provider import PresetProvider
from worker.channels.presets.schema import Form, Preset
from worker.channels.tokens import ServiceAccountTokens, read_service_account

PRESETS: Final = ("fcm", "sendgrid", "ses", "slack", "twilio", "two-field-email")
"""The kinds there is a preset for: the names of the files."""

DEFAULT_CONCURRENCY: Final = 64

# What a rule without statuses is about; an acceptance need not be read.
_ERRORS: Final = frozenset(range(400, 600))


@cache
def load(kind: str) -> Preset:
    """The preset of this kind, one of `PRESETS`. A file that is wrong is a bug: pydantic's or TOML's error."""
    return parse((resources.files(__name__) / f"{kind}.toml").read_text("utf-8"))


def parse(source: str) -> Preset:
    """A preset from the text of its file."""
    return Preset.model_validate(tomllib.loads(source))


def build(entry: ProviderEntry, context: ProviderContext) -> Provider:
    """The provider of a preset's kind; nothing is connected. For a sandbox: an outbox, which needs no options.

    Raises ConfigurationError: one line that names the provider and whatever is wrong or missing.
    """
    preset = load(entry.kind)
    values = read_options(preset, entry)
    if entry.sandbox:
        return OutboxProvider(context.outbox_file, context.clock, name=entry.name)
    try:
        return _provider(preset, values, entry, context)
    except ConfigurationError as error:
        raise ConfigurationError(f"provider {entry.name} ({entry.kind}): {error}") from None


def _provider(
    preset: Preset, values: dict[str, str], entry: ProviderEntry, context: ProviderContext
) -> Provider:
    request = preset.request
    tokens = _tokens(preset, values, context)
    filling = Filling(values)
    concurrency = min(entry.concurrency or DEFAULT_CONCURRENCY, MOST_CONCURRENCY)
    forms = []
    for form in request.forms:
        settings = HttpSettings(
            name=entry.name,
            url=filling.url(request.url),
            headers=filling.templates(request.headers),
            body=_body(preset, form, filling),
            body_form="json" if request.form is None else "form",
            batch=_batch(preset, form, filling),
            rules=_rules(preset, filling),
            basic_auth=filling.login(request.basic),
            aws_sigv4=filling.plain(request.sigv4) if request.sigv4 else None,
            token=tokens,
            concurrency=concurrency,
            connect_timeout_seconds=float(values["connect_timeout_seconds"]),
            total_timeout_seconds=float(values["total_timeout_seconds"]),
            batch_timeout_seconds=float(values["batch_timeout_seconds"]),
            certificate_authorities=values.get("certificate_authorities"),
        )
        forms.append((form.most_bytes, HttpProvider(settings, context.clock, context.slots)))
    addresses = _addresses(preset, filling)
    if addresses is None and tokens is None and len(forms) == 1 and not request.distinct_addresses:
        return forms[0][1]
    return PresetProvider(
        entry.name,
        forms,
        context.clock,
        batch_timeout_seconds=float(values["batch_timeout_seconds"]),
        addresses=addresses,
        distinct_addresses=request.distinct_addresses,
        when_refused=tokens.forget if tokens else None,
    )


def _tokens(preset: Preset, values: dict[str, str], context: ProviderContext) -> ServiceAccountTokens | None:
    token = preset.request.token
    if token is None:
        return None
    document = Filling(values).plain(token.service_account)
    try:
        account = read_service_account(document or "")
    except ValueError as error:
        raise ConfigurationError(
            f"option service_account is no service account's key file: {error}"
        ) from None
    values.setdefault("project_id", account.project_id)
    return ServiceAccountTokens(account, token.scope, context.clock)


def _body(preset: Preset, form: Form, filling: Filling) -> str:
    request = preset.request
    if request.form is not None:
        return orjson.dumps(filling.pairs(request.form)).decode()
    return _merged(filling, request.body or "{}", form.body)


def _batch(preset: Preset, form: Form, filling: Filling) -> BatchForm | None:
    batch = preset.request.batch
    if batch is None:
        return None
    return BatchForm(
        element=_merged(filling, batch.element, form.element), most=batch.most, most_bytes=batch.most_bytes
    )


def _merged(filling: Filling, *sources: str) -> str:
    """The members of several JSON objects as one."""
    members: dict[str, object] = {}
    for source in sources:
        document = filling.document(source)
        assert isinstance(document, dict)
        members |= document
    return orjson.dumps(members).decode()


def _rules(preset: Preset, filling: Filling) -> tuple[AnswerRule, ...]:
    return tuple(
        AnswerRule(
            verdict=rule.verdict,
            statuses=rule.statuses or _ERRORS,
            pointer=rule.pointer,
            header=rule.header,
            values=rule.values,
            category=rule.category,
            wait_header=rule.wait_header,
            wait_form=rule.wait_form,
        )
        for rule in preset.rules
        if rule.given is None or filling.has(rule.given)
    )


def _addresses(preset: Preset, filling: Filling) -> re.Pattern[str] | None:
    request = preset.request
    if request.addresses is None or (request.addresses_unless and filling.has(request.addresses_unless)):
        return None
    pattern = filling.pattern(request.addresses)
    return re.compile(pattern) if pattern is not None else None
