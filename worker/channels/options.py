"""The options of a provider, checked: one line that says what is wrong and what would be right."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from scheduler.domain.user import field_errors
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry


class ProviderOptions(BaseModel):
    """What an adapter takes; each kind has its own subclass. Unknown options are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Options = TypeVar("Options", bound=ProviderOptions)


def parse_options(model: type[Options], entry: ProviderEntry) -> Options:
    """The options of `entry` as its adapter reads them. Raises ConfigurationError: one line for all mistakes."""
    try:
        return model.model_validate(dict(entry.options))
    except ValidationError as error:
        problems = "; ".join(
            f"{problem.pointer.lstrip('/') or 'options'} {problem.message}" for problem in field_errors(error)
        )
        raise ConfigurationError(f"provider {entry.name} ({entry.kind}): {problems}") from None
