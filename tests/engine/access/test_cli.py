from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core.program.run import ExitCode
from engine.access.api_keys import PREFIX, digest
from engine.access.key_file import read_keys
from engine.commands import app

SECRET_LENGTH = len(PREFIX) + 43


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def invoke(path: Path | None, *arguments: str) -> Result:
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    if path is not None:
        environment["SOTTOVOCE_API_KEYS"] = str(path)
    return CliRunner().invoke(app, ["keys", *arguments], env=environment)


def added(path: Path, *arguments: str) -> str:
    result = invoke(path, "add", *arguments)
    assert result.exit_code == ExitCode.ACCEPTED, result.stderr
    return result.stdout.removesuffix("\n")


def test_a_key_is_shown_once_and_stored_as_its_digest_alone(path: Path) -> None:
    result = invoke(path, "add", "newsroom")
    secret = result.stdout.removesuffix("\n")
    assert secret.startswith(PREFIX)
    assert len(secret) == SECRET_LENGTH
    assert (result.stdout + result.stderr).count(secret) == 1
    (key,) = read_keys(path).keys
    assert (key.name, key.sha256) == ("newsroom", digest(secret))
    assert read_keys(path).find(f"Bearer {secret}", 0) == key
    for file in path.parent.iterdir():
        assert secret.encode() not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_two_keys_are_alike(path: Path) -> None:
    assert len({added(path, name) for name in "abc"}) == 3


def test_limits_and_an_end_can_be_given(path: Path) -> None:
    limits = ["--requests-per-minute", "60", "--concurrent-requests", "4", "--audio-seconds-per-day", "3600"]
    added(path, "a", *limits, "--expires", "2999-12-31")
    (key,) = read_keys(path).keys
    assert (key.requests_per_minute, key.concurrent_requests, key.audio_seconds_per_day) == (60, 4, 3600)
    assert key.expires
    assert key.expires.isoformat() == "2999-12-31T00:00:00+00:00"


def test_the_list_shows_names_and_limits_and_no_digest(path: Path) -> None:
    secrets = [added(path, "newsroom", "--requests-per-minute", "61", "--expires", "2999-12-31"), added(path, "b")]
    path.write_text(path.read_text() + f'[[keys]]\nname = "old"\nsha256 = "{"0" * 64}"\nexpires = 1999-01-01\n')
    result = invoke(path, "list")
    assert result.exit_code == ExitCode.ACCEPTED
    for told in ("newsroom", "61", "2999-12-31T00:00:00Z", "b", "old", "1999-01-01T00:00:00Z (expired)"):
        assert told in result.stdout
    for secret in secrets:
        assert secret[:12] not in result.output
        assert digest(secret)[:8] not in result.output


def test_a_revoked_key_is_gone_and_the_others_stay(path: Path) -> None:
    gone, kept = added(path, "a"), added(path, "b")
    assert invoke(path, "revoke", "a").exit_code == ExitCode.ACCEPTED
    keys = read_keys(path)
    assert keys.find(f"Bearer {gone}", 0) is None
    assert keys.find(f"Bearer {kept}", 0)


def test_the_last_key_can_be_revoked(path: Path) -> None:
    added(path, "a")
    assert invoke(path, "revoke", "a").exit_code == ExitCode.ACCEPTED
    assert read_keys(path).keys == ()


CANARY = "sk-sv-canary"


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "a"),
        ("add", "not a name"),
        ("add", CANARY),
        ("add", "b", "--requests-per-minute", "0"),
        ("add", "b", "--concurrent-requests", "-1"),
        ("add", "b", "--audio-seconds-per-day", "1.5"),
        ("add", "b", "--expires", "soon"),
        ("add", "b", "--expires", CANARY),
        ("add", "b", "--expires", "2999-12-31T00:00:00"),
        ("add", "b", "--expires", "1999-12-31"),
        ("revoke", "b"),
        ("revoke", CANARY),
        ("add",),
        ("revoke",),
    ],
)
def test_wrong_usage_changes_nothing_and_repeats_no_key(path: Path, arguments: tuple[str, ...]) -> None:
    added(path, "a")
    before = path.read_bytes()
    result = invoke(path, *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == ""
    assert "canary" not in result.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [("add", "a"), ("list",), ("revoke", "a")])
def test_a_file_must_be_named_and_usable(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    broken = tmp_path / "broken"
    broken.write_text(f'version = 2\nkeys = [{{name = "{CANARY}"}}]\n')
    for path in (None, broken, tmp_path / "nowhere" / "keys.toml"):
        result = invoke(path, *arguments)
        assert result.exit_code == ExitCode.USAGE
        assert "canary" not in result.stderr
    told = " ".join(invoke(broken, *arguments).stderr.split())
    for fault in ("version", "keys.0.name", "keys.0.sha256"):
        assert fault in told
    assert {file.name for file in tmp_path.iterdir()} <= {"broken", "broken.lock"}
