"""The key that a data folder keeps for itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from deploy.data_folder import own_secret_key
from deploy.demo import with_links
from scheduler.settings import Settings


def test_a_folder_keeps_one_key_that_nobody_else_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key = own_secret_key(folder)
    assert len(key.get_secret_value()) == 64
    assert own_secret_key(folder) == key
    assert (folder / "secret.key").stat().st_mode & 0o077 == 0
    assert own_secret_key(tmp_path / "other") != key


def test_a_key_cut_short_is_made_anew(tmp_path: Path) -> None:
    own_secret_key(tmp_path)
    (tmp_path / "secret.key").write_text("abc")
    assert len(own_secret_key(tmp_path).get_secret_value()) == 64


def test_the_demonstration_sends_links_that_work_here(tmp_path: Path) -> None:
    settings = with_links(Settings(data_dir=tmp_path, api_host="0.0.0.0", api_port=8123))
    assert settings.public_url == "http://127.0.0.1:8123"
    assert settings.secret_key == own_secret_key(tmp_path)


def test_what_was_set_stays(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path, public_url="https://example.com", secret_key=SecretStr("k" * 32))
    assert with_links(given) == given
    assert not (tmp_path / "secret.key").exists()
