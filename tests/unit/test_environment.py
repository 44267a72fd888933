"""What a process is told by variables, the processes that it starts are told as well."""

import os

import pytest

from deploy.environment import environment_for
from scheduler.settings import Settings, describe_settings, load_settings

SAMPLES = {
    "API_CORS_ORIGINS": "https://app.example,http://localhost:3000",
    "API_PORT": "8099",
    "DATABASE_URL": "postgresql://somebody:secret@127.0.0.1/somewhere",
    "HORIZON": "PT36H",
    "HTTP_HEADERS": '{"Authorization": "Bearer secret", "X-Team": "mail"}',
    "HTTP_TOTAL_TIMEOUT_SECONDS": "0.5",
    "OUTBOX_PATH": "/nowhere/outbox.ndjson",
    "QUIET_HOURS": "22:00-08:00",
    "SECRET_KEY": "k" * 40,
}
"""A setting of each kind of value, as it may stand in the environment."""


@pytest.fixture(autouse=True)
def sampled_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("DAYBREAK_")]:
        monkeypatch.delenv(name)
    for name, text in SAMPLES.items():
        monkeypatch.setenv(f"DAYBREAK_{name}", text)


def test_a_child_reads_the_settings_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(env_file=None)
    handed = environment_for(settings)
    for name in SAMPLES:
        monkeypatch.setenv(f"DAYBREAK_{name}", handed[f"DAYBREAK_{name}"])
    assert load_settings(env_file=None) == settings


def test_the_samples_are_of_every_kind() -> None:
    def kinds(settings: Settings) -> set[type]:
        return {type(getattr(settings, name)) for name in Settings.model_fields}

    assert kinds(Settings()) <= kinds(load_settings(env_file=None))


def test_a_list_is_shown_as_it_is_written() -> None:
    shown = {each.name: each.value for each in describe_settings(load_settings(env_file=None))}
    assert shown["api_cors_origins"] == SAMPLES["API_CORS_ORIGINS"]
