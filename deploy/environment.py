"""Hands settings to a child process as the variables from which it reads them."""

from __future__ import annotations

import json
import os
from datetime import timedelta

from pydantic import SecretStr

from scheduler.domain.duration import format_duration
from scheduler.settings import PREFIX, Settings


def environment_for(settings: Settings) -> dict[str, str]:
    """This process's environment with the settings that are not defaults; secrets stand in it in the clear."""
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    for name in Settings.model_fields:
        if name in settings.model_fields_set:
            environment[f"{PREFIX}{name.upper()}"] = _text(getattr(settings, name))
    return environment


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case timedelta():
            return format_duration(value)
        case dict():
            return json.dumps({name: _text(content) for name, content in value.items()})
        case tuple():
            return ",".join(_text(each) for each in value)
        case _:
            return str(value)
