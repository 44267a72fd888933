"""The settings of a process: read once, checked as a whole, frozen.

`load_settings()` is for composition roots; nothing else reads the environment. Variables come first, then
`.env` in the working directory, then defaults. An empty variable counts as absent: compose files pass such.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

import platformdirs
from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from scheduler import setting_values as values
from scheduler.api_settings import ApiSettings
from scheduler.domain.duration import format_duration
from scheduler.domain.message import ENVELOPE_FIELDS, TEXT_FIELDS
from scheduler.domain.quiet_hours import QuietHours
from scheduler.errors import ConfigurationError
from scheduler.provider_file import load_provider_file, plan_for_all
from scheduler.provider_settings import ProviderEntry, ProviderPlan
from scheduler.setting_values import Count, CronExpression, HeaderMap, Seconds, Takes, WholeSeconds

PREFIX = "DAYBREAK_"
MASK = "********"

Source = Literal["environment", ".env", "default"]


class Settings(ApiSettings):
    """Every setting, with its default; the text below each is its meaning.

    Built from arguments alone: the environment is read by `load_settings` only.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_ignore_empty=True, use_attribute_docstrings=True
    )

    database_url: Annotated[
        SecretStr | None,
        BeforeValidator(values.database_url),
        Takes("postgresql://user:password@host:port/name"),
    ] = None
    """Address of the PostgreSQL database; absent: an embedded server, kept in the data folder."""

    broker_url: Annotated[
        SecretStr | None,
        BeforeValidator(values.broker_url),
        Takes("amqp://… or amqps://…, or several with commas between them"),
    ] = None
    """Address of RabbitMQ, or of the nodes of its cluster with commas between; absent: PostgreSQL is the broker."""

    data_dir: Annotated[
        Path, BeforeValidator(values.path), Takes("a folder; relative ones start at the working directory")
    ] = Field(default_factory=lambda: default_data_dir())
    """Folder of the embedded server's data and of the outbox file."""

    api_host: Annotated[str, Field(min_length=1), Takes("a host name or an IP address")] = "127.0.0.1"
    """Address the API listens on."""

    api_port: Annotated[int, Field(ge=1, le=65_535), Takes("a port from 1 to 65535")] = 8080
    """Port the API listens on."""

    api_workers: Count = 1
    """Processes that serve the API."""

    precalculate_cron: CronExpression = "0 0 * * *"
    """When the message log is planned ahead (cron, UTC)."""

    enqueue_cron: CronExpression = "* * * * *"
    """When the batches that fall due are enqueued (cron, UTC)."""

    recover_cron: CronExpression = "*/10 * * * *"
    """When what downtime swallowed is planned, enqueued again or expired (cron, UTC)."""

    horizon: Annotated[
        timedelta,
        BeforeValidator(values.duration),
        Field(ge=timedelta(hours=1), le=timedelta(days=366)),
        Takes("seconds or an ISO 8601 duration of at least an hour, at most 366 days: PT48H, P7D"),
    ] = timedelta(hours=48)
    """How far ahead of now messages are planned."""

    batch_size: Annotated[int, Field(ge=1, le=500), Takes("a whole number from 1 to 500")] = 500
    """Most messages in one batch."""

    planning_slices_at_once: Count = 2
    """Hours of an occasion that a job plans at the same time, each on a database connection and core of its own."""

    lease_seconds: WholeSeconds = 60
    """Seconds a worker has for a batch before another may take it."""

    enqueue_deadline_seconds: WholeSeconds = 300
    """Seconds an enqueued batch may wait for a worker before RabbitMQ is asked whether it has lost it."""

    lateness_limit: Annotated[
        timedelta,
        BeforeValidator(values.duration),
        Field(ge=timedelta(minutes=1), le=timedelta(days=366)),
        Takes("seconds or an ISO 8601 duration of at least a minute, at most 366 days: PT25H, P2D"),
    ] = timedelta(hours=25)
    """How late a message may be before it expires; the default makes up a whole day of downtime."""

    retry_max_attempts: Annotated[int, Field(ge=1, le=100), Takes("a whole number from 1 to 100")] = 5
    """Attempts at a message in all, before it is a dead letter."""

    retry_base_seconds: Seconds = 1.0
    """Longest wait in seconds before the second attempt; doubles with each further one."""

    retry_cap_seconds: Seconds = 3600.0
    """Longest wait in seconds before any attempt."""

    pool_size: Count = 5
    """Database connections of each process."""

    worker_processes: Count = 1
    """Worker processes that `daybreak up` starts."""

    worker_threads: Count = 2
    """Batches that one worker process delivers at the same time."""

    stop_deadline_seconds: WholeSeconds = 20
    """Seconds a process has to finish or hand back its work when told to stop."""

    provider: Annotated[Literal["outbox", "http"], Takes("outbox or http")] = "outbox"
    """Where messages go: a file (for development) or an HTTP service."""

    outbox_path: Annotated[Path | None, BeforeValidator(values.path), Takes("a file")] = None
    """File that the outbox provider appends to; absent: outbox.ndjson in the data folder."""

    http_url: Annotated[
        str | None,
        BeforeValidator(values.http_url),
        Takes("an http:// or https:// address without user, password or fragment"),
    ] = None
    """Address that the http provider posts each message to."""

    http_headers: HeaderMap = Field(default_factory=dict)
    """Headers that the http provider sends besides its own (JSON object, secret)."""

    http_body: Annotated[
        str,
        BeforeValidator(values.http_body),
        Takes(
            "a JSON object with fields in its texts, of "
            + ", ".join(f"{{{name}}}" for name in sorted(TEXT_FIELDS | ENVELOPE_FIELDS))
            + ': {"to": "{address}", "text": "{text}"}'
        ),
    ] = '{"id": "{id}", "channel": "{channel}", "to": "{address}", "subject": "{subject}", "text": "{text}"}'
    """Body that the http provider sends for each message (JSON with {fields})."""

    http_concurrency: Annotated[int, Field(ge=1, le=512), Takes("a whole number from 1 to 512")] = 64
    """Requests that the http provider of one worker process has under way at the same time."""

    http_connect_timeout_seconds: Seconds = 5.0
    """Seconds the http provider waits for a connection."""

    http_total_timeout_seconds: Seconds = 30.0
    """Seconds the http provider gives one request in all."""

    breaker_failures: Annotated[int, Field(ge=1, le=1000), Takes("a whole number from 1 to 1000")] = 5
    """Failures of a provider in a row after which its circuit opens and nothing is sent to it."""

    breaker_reset_seconds: Seconds = 30.0
    """Seconds a circuit stays open before one message is sent to see whether the provider is back."""

    providers_file: Annotated[Path | None, BeforeValidator(values.path), Takes("a TOML file")] = None
    """File that names the providers of each channel, in order; absent: the one of DAYBREAK_PROVIDER for all."""

    public_url: Annotated[
        str | None,
        BeforeValidator(values.http_url),
        Takes("an http:// or https:// address without user, password or fragment"),
    ] = None
    """Address at which recipients and providers reach the API: for links to unsubscribe and callbacks."""

    secret_key: Annotated[
        SecretStr | None, Field(min_length=32), Takes("a secret text of at least 32 characters")
    ] = None
    """Key that API keys are kept under and links to recipients are signed with; absent: no links, no API keys."""

    quiet_hours: Annotated[
        QuietHours | None, BeforeValidator(values.quiet_hours), Takes("a part of the day: 22:00-08:00")
    ] = None
    """Local hours in which no e-mail, SMS or push message goes out, unless its occasion says otherwise."""

    alert_url: Annotated[
        SecretStr | None, BeforeValidator(values.http_url), Takes("an http:// or https:// address")
    ] = None
    """Address that is told, as JSON {"text": …}, when a provider refuses us."""

    log_level: Annotated[
        Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"],
        BeforeValidator(values.upper_case),
        Takes("TRACE, DEBUG, INFO, WARNING or ERROR"),
    ] = "INFO"
    """Least severe log level that is written."""

    log_format: Annotated[Literal["human", "json"], Takes("human or json")] = "human"
    """Form of the log lines."""

    _sources: Mapping[str, Source] = PrivateAttr(default_factory=dict)
    _provider_plan: ProviderPlan | None = PrivateAttr(default=None)

    @property
    def outbox_file(self) -> Path:
        """The file the outbox provider appends to."""
        return self.outbox_path or self.data_dir / "outbox.ndjson"

    @property
    def provider_plan(self) -> ProviderPlan:
        """Which providers each channel uses: what the providers file says or, without one, one provider for all.

        A file is read once, by `load_settings`; where that did not build these settings, at each call, without
        variables.
        """
        if self._provider_plan is not None:
            return self._provider_plan
        if self.providers_file is not None:
            return load_provider_file(self.providers_file, {})
        return plan_for_all(self._only_provider())

    def _only_provider(self) -> ProviderEntry:
        if self.provider == "outbox":
            return ProviderEntry("outbox", "outbox")
        options = {
            "url": self.http_url,
            "headers": self.http_headers,
            "body": self.http_body,
            "connect_timeout_seconds": self.http_connect_timeout_seconds,
            "total_timeout_seconds": self.http_total_timeout_seconds,
        }
        return ProviderEntry("http", "http", options, concurrency=self.http_concurrency)

    def source_of(self, name: str) -> Source:
        """Where the value of the setting `name` comes from."""
        return self._sources.get(name, "default")

    def read_from(self, sources: Mapping[str, Source], variables: Mapping[str, str] | None = None) -> Self:
        """The same settings, knowing where each value was read, with the providers file read as well.

        `variables` are those that the file may name. Raises ConfigurationError for the file.
        """
        self._sources = dict(sources)
        if self.providers_file is not None:
            self._provider_plan = load_provider_file(self.providers_file, variables or {})
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: building settings reads neither the environment nor a file."""
        return (init_settings,)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.provider == "http" and self.http_url is None:
            takes = _takes("http_url")
            raise ValueError(f"{PREFIX}HTTP_URL: got nothing, but {PREFIX}PROVIDER is http; takes {takes}")
        if self.retry_cap_seconds < self.retry_base_seconds:
            raise ValueError(
                f"{PREFIX}RETRY_CAP_SECONDS: got {self.retry_cap_seconds:g}; "
                f"takes at least {PREFIX}RETRY_BASE_SECONDS, which is {self.retry_base_seconds:g}"
            )
        return self


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One setting as `daybreak settings` shows it; `value` is text, masked where it is secret."""

    name: str
    variable: str
    value: str
    source: Source
    meaning: str


def load_settings(env_file: Path | None = Path(".env")) -> Settings:
    """Read the settings from the environment and `env_file` (absent or missing: none).

    Raises ConfigurationError, one line for all that is wrong: each variable, what it got, what it takes.
    """
    environment = EnvSettingsSource(Settings)
    try:
        file = DotEnvSettingsSource(Settings, env_file=env_file, dotenv_filtering="only_existing")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{env_file} cannot be read as UTF-8 text: {error}") from error
    _refuse_unknown([*environment.env_vars, *file.env_vars])
    from_file, from_environment = file(), environment()
    try:
        settings = Settings(**from_file | from_environment)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_complaints(error))) from None
    sources: dict[str, Source] = dict.fromkeys(from_file, ".env")
    # Names in an `.env` come without their case.
    variables = {name.upper(): text for name, text in file.env_vars.items() if text is not None}
    return settings.read_from(
        sources | dict.fromkeys(from_environment, "environment"), variables | dict(os.environ)
    )


def describe_settings(settings: Settings) -> list[SettingDescription]:
    """Every setting, those of the API's conduct last; fit to be printed, since secrets are masked."""
    names = sorted(Settings.model_fields, key=lambda name: name in ApiSettings.model_fields)
    return [
        SettingDescription(
            name=name,
            variable=_variable(name),
            value=_shown(getattr(settings, name)),
            source=settings.source_of(name),
            meaning=Settings.model_fields[name].description or "",
        )
        for name in names
    ]


def default_data_dir() -> Path:
    """Where data is kept unless told otherwise: the system's folder for root, the user's for anyone else.

    Not root's home: the embedded server opens every folder above its data to other users.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/daybreak")
    return platformdirs.user_data_path("daybreak")


def _refuse_unknown(variables: list[str]) -> None:
    """Raise ConfigurationError for a `DAYBREAK_` variable that is no setting: most likely a slip."""
    known = [name.upper() for name in Settings.model_fields]
    for variable in map(str.upper, variables):
        name = variable.removeprefix(PREFIX)
        if variable != name and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {_variable(near[0])}?" if near else "`daybreak settings` lists them all"
            raise ConfigurationError(f"{variable} is not a setting; {advice}")


def _complaints(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        if not problem["loc"]:
            yield str(problem["ctx"]["error"])
            continue
        name = str(problem["loc"][0])
        yield f"{_variable(name)}: got {_got(name, problem['input'])}; takes {_takes(name)}"


def _got(name: str, value: object) -> str:
    if "SecretStr" in str(Settings.model_fields[name].annotation):
        return "a value that is not shown"
    text = values.without_credentials(str(value))
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _takes(name: str) -> str:
    return next(note.words for note in Settings.model_fields[name].metadata if isinstance(note, Takes))


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return MASK
        case dict():
            return ", ".join(f"{name}: {_shown(content)}" for name, content in value.items())
        case tuple():
            return ",".join(_shown(each) for each in value)
        case timedelta():
            return format_duration(value)
        case _:
            return values.without_credentials(str(value))
