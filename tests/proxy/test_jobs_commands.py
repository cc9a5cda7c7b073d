"""What a person types about jobs, and what they read."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import keyring
import pytest
from aiohttp import web
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner, Result

from proxy.app import RunningProxy
from proxy.cli import app
from proxy.client import jobs as client
from proxy.jobs.keyring_keys import KeyringKeys
from proxy.jobs.vault import KeyFile, KeyRing
from proxy.jobs_options import JobsOptions
from tests.places import ROOT
from tests.proxy.conftest import StartProxy, url_of
from tests.proxy.dialects.own.test_api import refusing, verbose
from tests.proxy.fake_engine import FakeEngine, Script
from tests.proxy.jobs.keyrings import FILE, FileKeyring
from tests.proxy.jobs.sites import site
from tests.waiting import until


@pytest.fixture
def key(tmp_path: Path) -> Path:
    KeyFile.make(tmp_path / "jobs.key")
    return tmp_path / "jobs.key"


@pytest.fixture
def kept(tmp_path: Path, key: Path) -> list[str]:
    return ["--jobs-dir", str(tmp_path / "jobs"), "--jobs-key", str(key)]


@pytest.fixture
async def proxy(start_proxy: StartProxy, tmp_path: Path, key: Path) -> AsyncIterator[RunningProxy]:
    async with start_proxy(jobs=True, jobs_cut=False, jobs_dir=tmp_path / "jobs", jobs_key=key) as running:
        yield running


@dataclass(frozen=True)
class Typed:
    exit_code: int
    stdout: str
    output: str


async def typed(*words: str) -> Typed:
    """A command of its own process, beside a proxy that runs here."""
    program = Path(sys.executable).with_name("sottovoce")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, *words, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    return Typed(process.returncode or 0, out.decode(), (out + err).decode())


def app_commands(group: str) -> list[str]:
    (found,) = [each.typer_instance for each in app.registered_groups if each.name == group]
    assert found is not None
    return [str(each.name or getattr(each.callback, "__name__", "")) for each in found.registered_commands]


async def test_a_recording_is_submitted_shown_exported_and_deleted(
    proxy: RunningProxy, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.scripts.append(Script(play=verbose))
    (tmp_path / "morning.wav").write_bytes(b"RIFF sound")
    at = ("--url", url_of(proxy))
    job = (await typed("jobs", "submit", str(tmp_path / "morning.wav"), "--words", *at)).stdout.strip()

    async def completed() -> bool:
        return '"status": "completed"' in (await typed("jobs", "show", job, *at)).stdout

    await until(completed, give_up_s=60)
    listed = (await typed("jobs", "list", *at)).stdout.splitlines()[1].split()
    assert [listed[0], listed[1], listed[2], listed[-1]] == [job, "completed", "100", "morning.wav"]
    assert (await typed("jobs", "export", job, *at)).stdout == "Good morning.\n"
    target = tmp_path / "morning.srt"
    await typed("jobs", "export", job, "--format", "srt", "-o", str(target), *at)
    assert target.read_text().startswith("1\n00:00:00,000")
    refused = await typed("jobs", "cancel", job, *at)
    assert (refused.exit_code, "job_conflict" in refused.output) == (1, True)
    assert (await typed("jobs", "delete", job, *at)).exit_code == 0
    assert "job_not_found" in (await typed("jobs", "show", job, *at)).output


async def test_speakers_are_asked_for_and_refused_by_an_engine_that_tells_nobody_apart(
    proxy: RunningProxy, tmp_path: Path
) -> None:
    (tmp_path / "call.wav").write_bytes(b"RIFF sound")
    words = ("jobs", "submit", str(tmp_path / "call.wav"), "--diarize", "--speaker-count", "2", "--url", url_of(proxy))
    for known in ((), ("--speaker", f"Ada={tmp_path / 'call.wav'}")):
        refused = await typed(*words, *known)
        assert (refused.exit_code, "The engine has no diarize" in refused.output) == (1, True)


async def test_a_job_is_submitted_with_all_that_it_takes_and_waited_for(
    proxy: RunningProxy, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.scripts.append(Script(play=verbose))
    (tmp_path / "morning.wav").write_bytes(b"RIFF sound")
    at = ("--url", url_of(proxy))
    asked = ("--prompt", "Greetings", "--redact", "url", "--redact", "email_address", "--metadata", "order=7=8")
    more = ("--priority", "high", "--delete-after-s", "3600", "--words", "--wait")
    done = await typed("jobs", "submit", str(tmp_path / "morning.wav"), *asked, *more, *at)
    assert (done.exit_code, done.output.count("\n")) == (0, 1), done.output
    job = json.loads((await typed("jobs", "show", done.stdout.strip(), "--wait", *at)).stdout)
    assert (job["status"], job["metadata"], job["priority"]) == ("completed", {"order": "7=8"}, "high")
    captions = await typed("jobs", "export", job["id"], "--format", "srt", "--max-words", "1", *at)
    assert captions.stdout.startswith("1\n00:00:00,100 --> 00:00:00,500\nGood\n\n2\n")
    short = await typed("jobs", "export", job["id"], "--format", "json", "--output-mode", "agent", *at)
    assert json.loads(short.stdout)["text"] == "Good morning."


async def test_a_list_fits_a_terminal() -> None:
    job = {"id": "0" * 36, "status": "processing", "progress": 7, "created_at": "2026-11-30T14:37:28.845Z"}
    page = {"data": [{**job, "name": "a rather long name of a recording.flac"}]}
    written = StringIO()

    async def listing(_: web.Request) -> web.Response:
        return web.json_response({**page, "next_cursor": None})

    async with site(listing) as url:
        console = Console(file=written, width=80, force_terminal=True, color_system=None)
        await client.show_list(client.Caller(url, {}), {}, console)
    (_, line) = written.getvalue().splitlines()
    assert len(line) <= 80
    assert ("0" * 36 in line, "processing" in line, "a rather" in line) == (True, True, True)


async def test_whoever_waits_is_told_what_failed(proxy: RunningProxy, engine: FakeEngine, tmp_path: Path) -> None:
    engine.scripts.append(refusing(400, "unsupported_file"))
    (tmp_path / "noise.bin").write_bytes(b"noise")
    done = await typed("jobs", "submit", str(tmp_path / "noise.bin"), "--wait", "--url", url_of(proxy))
    assert (done.exit_code, "failed: Nothing can be heard in the file." in done.output) == (1, True)


async def test_a_link_is_submitted_as_one(proxy: RunningProxy) -> None:
    at = ("--url", url_of(proxy))
    job = (await typed("jobs", "submit", "https://127.0.0.1:9/a.wav", "--language", "en", *at)).stdout.strip()
    told = json.loads((await typed("jobs", "show", job, *at)).stdout)
    assert (told["source"], told["language"]) == ("link", "en")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.wav",), "no file"),
        (("https://a.example/", "--metadata", "order"), "NAME=TEXT"),
        (("https://a.example/", "--speaker", "Ada"), "NAME=FILE"),
        (("https://a.example/", "--speaker", "Ada=nowhere.wav"), "nowhere.wav: No such file"),
    ],
)
async def test_what_cannot_be_submitted_is_said_before_anything_is(words: tuple[str, ...], said: str) -> None:
    refused = await typed("jobs", "submit", *words)
    assert (refused.exit_code != 0, said in refused.output) == (True, True)


@pytest.mark.parametrize("job", ["../models", "a?b", "é"])
async def test_what_is_no_id_is_not_asked_for(job: str) -> None:
    assert "no id of a job" in (await typed("jobs", "show", job)).output


@pytest.mark.parametrize("group", ["jobs", "accounts", "keys", "plans", "balance"])
def test_every_command_has_help(group: str) -> None:
    commands = app_commands(group)
    assert len(commands) > 1
    for command in commands:
        result = CliRunner().invoke(app, [group, command, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0, command
        assert "Usage" in result.output


def test_accounts_keys_plans_and_balances(kept: list[str]) -> None:
    def type_(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*words, *kept])
        assert result.exit_code == code, result.output
        return result.output

    type_("plans", "set", "team", "--meter", "cents", "--price-per-hour", "20", "--max-active-keys", "1")
    assert "cents" in type_("plans", "list")
    type_("accounts", "add", "acme", "--plan", "team")
    assert "taken" in type_("accounts", "add", "acme", "--plan", "team", code=2)
    type_("accounts", "add", "other", "--plan", "no such plan", code=2)
    text = type_("keys", "add", "acme", "--name", "laptop").strip()
    assert text.startswith("sk_live_")
    assert "no more keys" in type_("keys", "add", "acme", code=2)
    listed = type_("keys", "list", "acme")
    assert text not in listed
    type_("keys", "revoke", "acme", next(word for word in listed.split() if word.count("-") == 4))
    assert "revoked" in type_("keys", "list", "acme")
    assert type_("balance", "add", "acme", "50.5").strip() == "50.5"
    type_("balance", "add", "acme", "-1", code=2)
    assert type_("balance", "show", "acme").startswith("50.5")
    assert "acme: 1 lines" in type_("balance", "check")
    assert "acme" in type_("accounts", "list")


def test_money_that_was_written_by_hand_is_found(kept: list[str], tmp_path: Path) -> None:
    def type_(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, *kept])

    for words in (
        ("plans", "set", "team", "--meter", "cents"),
        ("accounts", "add", "acme", "--plan", "team"),
        ("accounts", "add", "other", "--plan", "team"),
        ("balance", "add", "acme", "50"),
    ):
        assert type_(*words).exit_code == 0
    with closing(sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite")) as database:
        database.execute("DROP TRIGGER ledger_update")
        database.execute("UPDATE ledger SET amount_micro = 5000000000")
        database.commit()
    found = type_("balance", "check")
    assert found.exit_code == 1
    assert "acme: line 1 was altered" in found.output
    assert "other: 0 lines" in found.output
    assert type_("balance", "add", "acme", "1").exit_code == 1


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A keyring of this process and of commands."""
    monkeypatch.setenv(FILE, str(tmp_path / "keyring.json"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", f"{FileKeyring.__module__}.{FileKeyring.__name__}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = keyring.get_keyring()
    keyring.set_keyring(FileKeyring())
    yield "jobs"
    keyring.set_keyring(before)


async def test_keys_in_the_keyring_are_rotated_beside_a_running_proxy(
    start_proxy: StartProxy, engine: FakeEngine, entry: str, tmp_path: Path
) -> None:
    (tmp_path / "morning.wav").write_bytes(b"RIFF sound")
    place = ("--jobs-dir", str(tmp_path / "jobs"), "--jobs-keyring", entry)
    async with start_proxy(jobs=True, jobs_cut=False, jobs_dir=tmp_path / "jobs", jobs_keyring=entry) as proxy:
        at = ("--url", url_of(proxy))
        job = (await typed("jobs", "submit", str(tmp_path / "morning.wav"), *at)).stdout.strip()
        before = KeyringKeys(entry).read()
        result = await typed("jobs", "rotate-key", *place)
        assert result.exit_code == 0, result.output
        after = KeyringKeys(entry).read()
        assert (len(after.keys), after.current != before.current) == (1, True)
        later = (await typed("jobs", "submit", str(tmp_path / "morning.wav"), *at)).stdout.strip()
        for each in (job, later):
            assert each in (await typed("jobs", "show", each, *at)).stdout
    assert (await typed("accounts", "list", *place)).exit_code == 0


def test_keys_have_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="not both"):
        JobsOptions(jobs_key=tmp_path, jobs_keyring="jobs")


async def test_a_key_is_rotated_beside_a_running_proxy(
    proxy: RunningProxy, engine: FakeEngine, kept: list[str], key: Path, tmp_path: Path
) -> None:
    (tmp_path / "morning.wav").write_bytes(b"RIFF sound")
    at = ("--url", url_of(proxy))
    job = (await typed("jobs", "submit", str(tmp_path / "morning.wav"), *at)).stdout.strip()
    before = KeyRing.parse(key.read_text())
    result = await typed("jobs", "rotate-key", *kept)
    assert result.exit_code == 0, result.output
    after = KeyRing.parse(key.read_text())
    assert len(after.keys) == 1
    assert after.current != before.current
    assert job in (await typed("jobs", "show", job, *at)).stdout


def test_settings_say_where_jobs_are(tmp_path: Path) -> None:
    def faults(**given: Any) -> str:
        with pytest.raises(ValidationError) as caught:
            JobsOptions(**given)
        return str(caught.value)

    assert JobsOptions(jobs_database="postgresql://db/jobs").jobs_database is not None
    secret = tmp_path / "url"
    secret.write_text("postgresql://me:hunter2@db/jobs\n")
    found = JobsOptions(jobs_database=f"@{secret}").jobs_database
    assert found is not None
    assert found.get_secret_value() == "postgresql://me:hunter2@db/jobs"
    assert "@FILE" in faults(jobs_database="postgresql://me:hunter2@db/jobs")
    assert "hunter2" not in faults(jobs_database="postgresql://me:hunter2@db/jobs")
    assert "postgresql://" in faults(jobs_database="mysql://db/jobs")
    assert "cannot be read" in faults(jobs_database=f"@{tmp_path}/none")
    assert "s3://BUCKET" in faults(jobs_blobs="https://bucket")
    assert JobsOptions(jobs_blobs="s3://bucket/some/prefix").jobs_blobs == "s3://bucket/some/prefix"
