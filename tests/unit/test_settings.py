import os
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from scheduler.errors import ConfigurationError
from scheduler.setting_values import Takes
from scheduler.settings import MASK, Settings, describe_settings, load_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting from outside: neither variables nor an `.env` in the working directory."""
    for name in [name for name in os.environ if name.upper().startswith("DAYBREAK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def complaint(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """What `load_settings` says about `variables`, given without their prefix."""
    for name, value in variables.items():
        monkeypatch.setenv(f"DAYBREAK_{name}", value)
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_defaults_need_no_environment() -> None:
    settings = load_settings()
    assert settings.database_url is None
    assert settings.horizon == timedelta(hours=48)
    assert settings.lateness_limit == timedelta(hours=25)
    assert settings.outbox_file == settings.data_dir / "outbox.ndjson"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_settings().batch_size = 1  # type: ignore[misc]  # what is refused here


def test_building_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_BATCH_SIZE", "7")
    assert Settings().batch_size == 500
    assert load_settings().batch_size == 7


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("HORIZON", "PT36H", timedelta(hours=36)),
        ("HORIZON", "3600", timedelta(hours=1)),
        ("ENQUEUE_CRON", " */5  *  * * mon-fri ", "*/5 * * * mon-fri"),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("API_PORT", "65535", 65_535),
        ("HTTP_TOTAL_TIMEOUT_SECONDS", "0.5", 0.5),
        ("BREAKER_FAILURES", "10", 10),
        ("BREAKER_RESET_SECONDS", "0.5", 0.5),
        ("DATA_DIR", "/srv/daybreak", Path("/srv/daybreak")),
        ("BROKER_URL", "amqp://a,amqps://u:p@b:5671/v", SecretStr("amqp://a,amqps://u:p@b:5671/v")),
    ],
)
def test_values_are_read(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, expected: object) -> None:
    monkeypatch.setenv(f"DAYBREAK_{variable}", text)
    assert getattr(load_settings(), variable.lower()) == expected


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAYBREAK_DATA_DIR", "data")
    monkeypatch.setenv("DAYBREAK_OUTBOX_PATH", "sent.ndjson")
    settings = load_settings()
    assert settings.data_dir == tmp_path / "data"
    assert settings.outbox_file == tmp_path / "sent.ndjson"


def test_headers_are_secret_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_HTTP_HEADERS", '{"Authorization": "Bearer canary"}')
    settings = load_settings()
    assert settings.http_headers["Authorization"].get_secret_value() == "Bearer canary"
    assert "canary" not in repr(settings)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("API_PORT", "0"),
        ("API_PORT", "tcp://10.0.0.1:8080"),
        ("BATCH_SIZE", "501"),
        ("BATCH_SIZE", "12.5"),
        ("HORIZON", "P1M"),
        ("HORIZON", "0"),
        ("LATENESS_LIMIT", "a day"),
        ("LEASE_SECONDS", "-1"),
        ("RETRY_BASE_SECONDS", "nan"),
        ("RETRY_CAP_SECONDS", "inf"),
        ("ENQUEUE_CRON", """ '"""),
        ("ENQUEUE_CRON", "* * * *"),
        ("ENQUEUE_CRON", "61 * * * *"),
        ("RECOVER_CRON", "0 9 * * 1"),
        ("RECOVER_CRON", "0 9 * * mon-5"),
        ("RECOVER_CRON", "0 0 30 2 *"),
        ("PROVIDER", "smtp"),
        ("LOG_FORMAT", "xml"),
        ("HTTP_URL", "ftp://example.org"),
        ("HTTP_URL", "https://"),
        ("HTTP_URL", "https://example.org:port/"),
        ("HTTP_URL", "https://example.org/a b"),
        ("HTTP_BODY", "[]"),
        ("HTTP_BODY", "{"),
    ],
)
def test_a_wrong_value_is_answered_with_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    line = complaint(monkeypatch, **{variable: text})
    assert line.startswith(f"DAYBREAK_{variable}: got {text!r}; takes ")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DATABASE_URL", "mysql://u:canary@h/d"),
        ("BROKER_URL", "redis://:canary@h"),
        ("BROKER_URL", "amqp://u:canary@a,redis://b"),
        ("BROKER_URL", "amqp://u:canary@a, amqp://b"),
        ("BROKER_URL", "amqp://u:canary@a,"),
        ("HTTP_HEADERS", '{"X": "canary\\n"}'),
        ("HTTP_HEADERS", '{"X Y": "canary"}'),
        ("HTTP_HEADERS", '{"X": ["canary"]}'),
        ("HTTP_HEADERS", '["canary"]'),
        ("HTTP_HEADERS", "canary"),
        ("HTTP_URL", "https://user:canary@example.org/"),
        ("HTTP_URL", "https://example.org/?key=canary#x"),
    ],
)
def test_a_wrong_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    line = complaint(monkeypatch, **{variable: text})
    assert line.startswith(f"DAYBREAK_{variable}: got ")
    assert "canary" not in line


def test_all_wrong_values_share_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = complaint(monkeypatch, API_PORT="x", BATCH_SIZE="y")
    assert "DAYBREAK_API_PORT: got 'x'" in line
    assert "DAYBREAK_BATCH_SIZE: got 'y'" in line


def test_a_long_value_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(complaint(monkeypatch, API_PORT="9" * 4000)) < 200


def test_http_needs_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(monkeypatch, PROVIDER="http").startswith("DAYBREAK_HTTP_URL: got nothing")


def test_the_cap_is_no_less_than_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    line = complaint(monkeypatch, RETRY_BASE_SECONDS="10", RETRY_CAP_SECONDS="5")
    assert line.startswith("DAYBREAK_RETRY_CAP_SECONDS: got 5;")


def test_a_slip_of_the_pen_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = complaint(monkeypatch, BATCHSIZE="canary")
    assert line == "DAYBREAK_BATCHSIZE is not a setting; did you mean DAYBREAK_BATCH_SIZE?"


def test_a_name_like_no_other_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "`daybreak settings` lists them all" in complaint(monkeypatch, QQQQ="x")


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_DATABASE_URL", "")
    monkeypatch.setenv("DAYBREAK_API_PORT", "")
    assert load_settings().database_url is None
    assert load_settings().api_port == 8080


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DAYBREAK_API_PORT=1\nDAYBREAK_BATCH_SIZE=2\nOTHER=3\n")
    monkeypatch.setenv("DAYBREAK_API_PORT", "4")
    settings = load_settings()
    assert (settings.api_port, settings.batch_size) == (4, 2)
    assert settings.source_of("api_port") == "environment"
    assert settings.source_of("batch_size") == ".env"
    assert settings.source_of("api_host") == "default"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"DAYBREAK_API_PORT=x\n", "DAYBREAK_API_PORT: got 'x'; takes a port from 1 to 65535"),
        (b"DAYBREAK_APIPORT=1\n", "did you mean DAYBREAK_API_PORT?"),
        (b"DAYBREAK_API_PORT=\xff\n", ".env cannot be read as UTF-8 text"),
    ],
)
def test_a_wrong_file_is_answered_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / ".env").write_bytes(content)
    assert said in complaint(monkeypatch)


@pytest.mark.parametrize(("user", "folder"), [(0, "/var/lib/daybreak"), (1000, "/home/user/data/daybreak")])
def test_the_data_folder_depends_on_the_user(monkeypatch: pytest.MonkeyPatch, user: int, folder: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: Path("/home/user/data") / name)
    assert load_settings().data_dir == Path(folder)


def test_every_setting_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_LEASE_SECONDS", "30")
    described = {setting.name: setting for setting in describe_settings(load_settings())}
    assert described.keys() == Settings.model_fields.keys()
    assert all(
        setting.meaning.endswith((".", ").")) and "\n" not in setting.meaning
        for setting in described.values()
    )
    lease = described["lease_seconds"]
    assert (lease.variable, lease.value, lease.source) == ("DAYBREAK_LEASE_SECONDS", "30", "environment")
    assert described["horizon"].value == "PT48H"


def test_every_setting_says_what_it_takes() -> None:
    for name, field in Settings.model_fields.items():
        assert any(isinstance(note, Takes) for note in field.metadata), name


def test_descriptions_mask_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBREAK_DATABASE_URL", "postgresql://u:canary@h/d")
    monkeypatch.setenv("DAYBREAK_BROKER_URL", "amqps://u:canary@h/v")
    monkeypatch.setenv("DAYBREAK_HTTP_HEADERS", '{"Authorization": "canary"}')
    monkeypatch.setenv("DAYBREAK_HTTP_URL", "https://example.org/send?key=canary")
    described = {setting.name: setting.value for setting in describe_settings(load_settings())}
    assert "canary" not in str(described)
    assert described["database_url"] == MASK
    assert described["http_headers"] == f"Authorization: {MASK}"
    assert described["http_url"] == "https://example.org/send?…"
