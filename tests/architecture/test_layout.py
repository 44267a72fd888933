"""The top level is as agreed, and no file knows the machine it was written on."""

import re

import pytest

from tests.architecture.sources import PACKAGES, ROOT, files

FOLDERS = {*PACKAGES, "tests", ".ci"}
TOP_FILES = {
    ".editorconfig",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "alembic.ini",
    "pyproject.toml",
    "requirements-dev.lock",
    "requirements-installer.lock",
    "requirements.lock",
}
MACHINE_PATH = re.compile(
    r"(?<![\w.~/-])/(?:work|root|Users)/[\w.-]|(?<![\w.~/-])/home/(?!user\b|daybreak\b)[\w.-]"
    r"|(?<![\w.~/-])/(?:private/)?(?:tmp|var/folders)/[\w-]{2,}"
)
REGISTRY_HOST = re.compile(
    r"(?:pypi|pythonhosted|npmjs|jfrog|artifactory|nexus|devpi)[\w-]*\.(?:org|com|io|net)"
    r"|--(?:extra-)?index-url[ =]\S*//",
    re.IGNORECASE,
)
# This file spells out what it forbids.
EXEMPT = {"tests/architecture/test_layout.py"}
DATA_SUFFIXES = {".csv", ".gz", ".ico", ".ndjson", ".png", ".svg", ".woff2", ".zip"}


def test_top_level_is_as_agreed() -> None:
    folders = {path.parts[0] for path in files() if len(path.parts) > 1}
    loose_files = {path.name for path in files() if len(path.parts) == 1}
    assert folders <= FOLDERS
    assert loose_files <= TOP_FILES


@pytest.mark.parametrize("forbidden", [MACHINE_PATH, REGISTRY_HOST], ids=["path", "registry"])
def test_no_file_names_a_machine(forbidden: re.Pattern[str]) -> None:
    found = [
        f"{path}: {match.group()}"
        for path in files()
        if path.as_posix() not in EXEMPT and path.suffix not in DATA_SUFFIXES
        for match in forbidden.finditer((ROOT / path).read_text("utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(
    "text", ["open('/root/x')", "cd /work/main", "/home/maria/data", "/Users/maria", "see /tmp/trial/x"]
)
def test_a_machine_path_is_found(text: str) -> None:
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize("text", ["/var/lib/daybreak", "https://a.example/root/x", "~/work/x", "./tmp/ab"])
def test_other_paths_are_allowed(text: str) -> None:
    assert not MACHINE_PATH.search(text)


@pytest.mark.parametrize(
    "text", ["https://files.pythonhosted.org/x", "--index-url https://a.example", "x.jfrog.io"]
)
def test_a_registry_host_is_found(text: str) -> None:
    assert REGISTRY_HOST.search(text)


def test_locks_pin_every_package_with_hashes() -> None:
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-installer.lock"):
        packages = re.split(r"\n(?=\S)", (ROOT / name).read_text("utf-8").strip())
        assert packages
        assert not [package for package in packages if "==" not in package or "--hash=sha256:" not in package]


def test_development_lock_holds_the_versions_that_run() -> None:
    runtime, development = (
        set(re.findall(r"^[\w.-]+==[\w.]+", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    )
    assert runtime <= development
