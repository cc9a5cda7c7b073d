"""How does a person transcribe a file, and see what the proxy has verified? A client of the local proxy.

It speaks OpenAI's HTTP like any other app, and so it is a plain test of what apps meet. Text goes to standard output;
progress and colour go to standard error, and only on a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from core.program.http.client import open_session
from core.program.run import ExitCode

UPLOAD_PIECE_BYTES: Final = 65_536
_SUFFIX: Final = {"text": "txt", "json": "json", "verbose_json": "json", "srt": "srt", "vtt": "vtt"}
_COLOUR: Final = {"pass": "green", "fail": "bold red", "skip": "yellow"}


class ClientError(Exception):
    """The proxy cannot be reached, or answered with an error; the message is for the person."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.INTERNAL) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Job:
    """Recordings to transcribe. output: a file, a directory, or None for standard output."""

    url: str
    files: tuple[Path, ...]
    model: str | None
    language: str | None
    response_format: str
    stream: bool
    output: Path | None
    headers: dict[str, str] = field(repr=False)


async def transcribe_all(job: Job, *, terminal: bool, out: TextIO = sys.stdout) -> None:
    """Transcribe the recordings one after the other. Raises ClientError."""
    async with session_of_client() as session:
        model = job.model or await _first_model(session, job)
        for path in job.files:
            with _sink(job, path, out) as write, upload_progress(path, shown=terminal, then_stop=job.stream) as advance:
                async for text in _transcribe(session, job, model, path, advance):
                    write(text)


def session_of_client() -> aiohttp.ClientSession:
    # The answer to a long recording is silent until it is whole; the proxy watches the engine, and it is next door.
    return open_session(tls=None, loopback_only=False, connect_timeout_s=10.0, idle_timeout_s=0.0)


async def _first_model(session: aiohttp.ClientSession, job: Job) -> str:
    answer = await _get_json(session, f"{job.url}/v1/models", job.headers)
    try:
        return str(answer["data"][0]["id"])
    except (LookupError, TypeError):
        raise ClientError("the engine serves no model") from None


async def _transcribe(
    session: aiohttp.ClientSession, job: Job, model: str, path: Path, advance: Callable[[int], None]
) -> AsyncIterator[str]:
    """The text of one recording, as it comes."""
    try:
        async with session.post(
            f"{job.url}/v1/audio/transcriptions",
            data=_form(job, model, path, advance),
            headers=job.headers,
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                raise refusal_of(response.status, await response.read())
            if not job.stream:
                yield await response.text("utf-8")
                return
            async for text in _deltas(response.content):
                yield text
            yield "\n"
    except (aiohttp.ClientError, OSError) as exc:
        raise unreachable(exc) from exc


def _form(job: Job, model: str, path: Path, advance: Callable[[int], None]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("model", model)
    form.add_field("response_format", "json" if job.stream else job.response_format)
    if job.language:
        form.add_field("language", job.language)
    if job.stream:
        form.add_field("stream", "true")
    form.add_field("file", upload_pieces(path, advance), filename=path.name, content_type="application/octet-stream")
    return form


async def upload_pieces(path: Path, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    """A file as it is sent, and told of."""
    with path.open("rb") as file:
        while piece := file.read(UPLOAD_PIECE_BYTES):
            yield piece
            advance(len(piece))


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; aiohttp's own reader gives up at 128 KiB, and the last event repeats the whole text."""
    begun = bytearray()
    async for piece in content.iter_any():
        begun += piece
        *whole, rest = begun.split(b"\n")
        for line in whole:
            yield bytes(line)
        begun = rest


async def _deltas(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    """The text of a stream of events. Raises ClientError when it ends without saying that it is complete."""
    async for line in _lines(content):
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if error := event.get("error"):
            raise ClientError(f"{error['code']}: {error['message']}")
        if event.get("type") == "transcript.text.delta":
            yield event["delta"]
    raise ClientError("the answer is incomplete")


def refusal_of(status: int, body: bytes) -> ClientError:
    """What the proxy or the engine said, if it said it in OpenAI's form."""
    try:
        error = json.loads(body)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        return ClientError(f"the proxy answered {status}")
    refused = code == "attestation_refused"
    return ClientError(f"{code}: {message}", ExitCode.REFUSED if refused else ExitCode.INTERNAL)


def unreachable(error: Exception) -> ClientError:
    return ClientError(f"the proxy cannot be reached ({type(error).__name__}); is `sottovoce proxy` running?")


@contextmanager
def _sink(job: Job, path: Path, out: TextIO) -> Iterator[Callable[[str], None]]:
    """Where the text of one recording goes; standard output is flushed at every piece."""
    if job.output is None:
        yield lambda text: print(text, end="", file=out, flush=True)
        return
    target = job.output
    if target.is_dir():
        target = target / f"{path.stem}.{_SUFFIX[job.response_format]}"
    with target.open("w", encoding="utf-8") as file:
        yield lambda text: print(text, end="", file=file)


@contextmanager
def upload_progress(path: Path, *, shown: bool, then_stop: bool) -> Iterator[Callable[[int], None]]:
    """A bar that disappears: bytes of the upload, then the wait; or just the upload, where text follows at once."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task(printable(path.name), total=path.stat().st_size)

        def advance(size: int) -> None:
            progress.advance(task, size)
            if progress.finished and then_stop:
                progress.stop()
            elif progress.finished:
                progress.update(task, total=None)  # the bar pulses

        yield advance


async def _get_json(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> Any:
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            body = await response.read()
    except (aiohttp.ClientError, OSError) as exc:
        raise unreachable(exc) from exc
    if response.status != 200:
        raise refusal_of(response.status, body)
    with suppress(ValueError):
        return json.loads(body)
    raise ClientError("the proxy answered something else than JSON")


async def show_status(url: str, status_url: str, headers: dict[str, str], console: Console | None = None) -> ExitCode:
    """Print what the proxy verified: 0 when it is ready, 10 when the engine was refused, else 1. Raises ClientError."""
    console = console or Console()
    async with session_of_client() as session:
        report = await _get_json(session, f"{url}/attestation", headers)
        ready = await _is_ready(session, status_url)
    _print_report(console, report, ready=ready)
    if report["state"] == "refused":
        return ExitCode.REFUSED
    return ExitCode.ACCEPTED if ready else ExitCode.INTERNAL


async def _is_ready(session: aiohttp.ClientSession, status_url: str) -> bool:
    try:
        async with session.get(f"{status_url}/readyz", allow_redirects=False) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError) as exc:
        raise unreachable(exc) from exc


def _print_report(console: Console, report: dict[str, Any], *, ready: bool) -> None:
    engine, last = report["engine"], report["last_attempt"]
    if report["insecure"]:
        console.print(Text(report["warning"], "bold white on red"))
    console.print(Text(f"engine {report['state']}; the proxy is {'ready' if ready else 'not ready'}"))
    if engine:
        console.print(Text(f"verified {engine['verified_at']}, expires {engine['expires_at']}"))
    checks = (engine or last or {}).get("checks", ())
    table = Table("check", "result", "detail", box=None)
    for check in checks:
        table.add_row(
            check["name"],
            Text(check["status"], _COLOUR.get(check["status"], "")),
            Text(printable(check["detail"])),
        )
    console.print(table)
    if last and last["outcome"] != "accepted":
        console.print(Text(f"last attempt {last['at']}: {last['outcome']}: {printable(last['detail'])}", "red"))


def printable(text: str) -> str:
    """Words that a refused engine may have chosen: no control characters of it reach the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
