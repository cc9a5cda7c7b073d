"""What documents tell to type is typed.

Blocks marked `sh run` as they stand, one after the other, in an empty directory. Of all others the commands that ask
something: with an engine and a proxy of this machine where the documents name some of their reader's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from core.program.run import ExitCode
from docs.generate import DOCS
from tests.e2e.processes import CHECKPOINT, POLICY, RECORDING, engine, proxy, until_ready
from tests.places import ROOT
from tests.test_docs import OURS, TEXTS

WALKS = {
    str(path.relative_to(DOCS)): blocks
    for path in sorted(DOCS.rglob("*.md"))
    if (blocks := re.findall(r"^```sh run\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL))
}
PROGRAMS = Path(sys.executable).parent


def test_there_are_walks() -> None:
    assert len(WALKS) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_a_walk_can_be_walked(name: str, tmp_path: Path) -> None:
    programs = os.pathsep.join((str(PROGRAMS), os.environ["PATH"]))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SOTTOVOCE_", "XDG_"))}
    walked = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(WALKS[name])],
        cwd=tmp_path,
        env=kept | {"PATH": programs, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert walked.returncode == 0, walked.stdout + walked.stderr


ASKING = re.compile(
    r"(sottovoce (doctor|transcribe|status|config check)"
    r"|sottovoce-attest (show|verify|selftest)"
    r"|sottovoce-engine (config check|digest))\b"
)
QUESTIONS = sorted(
    {
        command
        for words in OURS
        if ASKING.match(command := " ".join((Path(words[0]).name, *words[1:]))) and not set(command) & set("$<>")
    }
)


def with_ours(text: str, theirs: Mapping[str, str]) -> str:
    for name, real in theirs.items():
        text = text.replace(name, real)
    return text


@dataclass(frozen=True, slots=True)
class Reader:
    """Where a reader types: a directory with what the documents speak of, and what they call theirs."""

    directory: Path
    theirs: Mapping[str, str]
    variables: Mapping[str, str]

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = with_ours(command, self.theirs).split()
        return subprocess.run(
            [str(PROGRAMS / program), *arguments],
            cwd=self.directory,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reader]:
    directory = tmp_path_factory.mktemp("reader")
    for name in ("examples", "tests"):
        (directory / name).symlink_to(ROOT / name)
    (directory / "policy.toml").write_bytes(POLICY.read_bytes())
    (directory / "recording.mp3").write_bytes(RECORDING.read_bytes())
    (directory / "key.txt").write_text("key")
    (directory / "keys.toml").write_text("version = 1\n")
    (directory / "strict.toml").write_text(
        f'version = 1\n[snp]\nmeasurements = ["{"0" * 96}"]\n[[snp.products]]\nname = "Genoa"\n'
        "min_tcb = { bootloader = 9, tee = 0, snp = 23, microcode = 72 }\n"
    )
    async with (
        engine(directory / "engine", "--alias", "whisper-1=nano") as behind,
        proxy(directory / "proxy", behind.url) as front,
    ):
        await until_ready(front)
        theirs = {
            "https://engine.example": behind.url,
            "http://engine.example:8800": behind.url,
            "http://127.0.0.1:8800": behind.url,
            "/etc/sottovoce": str(directory),
            "/models/faster-whisper-large-v3": str(CHECKPOINT),
            "/models/whisper-large-v3": str(CHECKPOINT),
            "/models/qwen2.5-7b-instruct": str(CHECKPOINT),
            "/models/whisper": str(CHECKPOINT),
            ".weights/whisper-base": str(CHECKPOINT),
            "examples/kennedy.flac": "examples/hello.wav",
        }
        files = re.findall(r"^```toml\n(.*?)^```", TEXTS[DOCS / "operate" / "systemd.md"], re.MULTILINE | re.DOTALL)
        for name, text in zip(("proxy.toml", "engine.toml"), files, strict=True):
            (directory / name).write_text(with_ours(text, theirs))
        theirs["sottovoce status"] = f"sottovoce status --status-url {front.status_url}"
        status = front.status_url.removeprefix("http://")
        here = Reader(directory, theirs, {"SOTTOVOCE_URL": front.url, "SOTTOVOCE_STATUS_LISTEN": status})
        saved = here.type("sottovoce-attest verify https://engine.example --policy policy.toml --save engine.json")
        assert saved.returncode == 0, saved.stdout + saved.stderr
        yield here


def test_there_are_questions() -> None:
    assert len(QUESTIONS) > 15


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("command", QUESTIONS)
async def test_what_a_document_tells_to_ask_is_answered(reader: Reader, command: str) -> None:
    told = reader.type(command)
    expected = ExitCode.REFUSED if "--strict" in command or "strict.toml" in command else ExitCode.ACCEPTED
    assert told.returncode == expected, told.stdout + told.stderr
