"""How does a person submit background jobs, and get their texts? A client of `/v1/jobs` of the local proxy."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from proxy.client.transcribe import (
    ClientError,
    printable,
    refusal_of,
    session_of_client,
    unreachable,
    upload_pieces,
    upload_progress,
)

_REFUSED: Final = 400

OVER: Final = ("completed", "failed", "cancelled")
POLL_S: Final = 1.0
Nap = Callable[[float], Awaitable[None]]

PIPED_WIDTH: Final = 400
"""Of lines that no terminal breaks."""

ID_WIDTH: Final = 36
"""Nobody can use half an id."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where the proxy is, and what is shown to it."""

    url: str
    headers: dict[str, str] = field(repr=False)

    @asynccontextmanager
    async def asking(self, method: str, path: str, **sent: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is not an error. Raises ClientError."""
        try:
            async with (
                session_of_client() as session,
                session.request(
                    method, f"{self.url}/v1/jobs{path}", headers=self.headers, allow_redirects=False, **sent
                ) as response,
            ):
                if response.status >= _REFUSED:
                    raise refusal_of(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, OSError) as exc:
            raise unreachable(exc) from exc


Fields = Mapping[str, str | list[str] | dict[str, str]]
"""What a job is submitted with, beside its recording."""


def links_in(recordings: tuple[str, ...]) -> Mapping[str, bool]:
    """Which of them are links. Raises ClientError for one that is neither a link nor a file."""
    found = {recording: recording.startswith(("http://", "https://")) for recording in recordings}
    if missing := [name for name, is_link in found.items() if not is_link and not Path(name).is_file()]:
        raise ClientError(f"{printable(missing[0])} is no file, and no link")
    return found


def data_url(recording: Path) -> str:
    """A file as a data URL. Raises ClientError."""
    try:
        content = recording.read_bytes()
    except OSError as exc:
        raise ClientError(f"{printable(str(recording))}: {exc.strerror}") from exc
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"


async def submit(caller: Caller, recordings: tuple[str, ...], fields: Fields, *, shown: bool) -> AsyncIterator[str]:
    """The ids of the jobs, one for each file or link. shown: with a bar on standard error. Raises ClientError."""
    for recording, is_link in links_in(recordings).items():
        if is_link:
            async with caller.asking("POST", "", json={"url": recording, **fields}) as response:
                job = await response.json()
        else:
            with upload_progress(Path(recording), shown=shown, then_stop=False) as advance:
                async with caller.asking("POST", "", data=_form(Path(recording), fields, advance)) as response:
                    job = await response.json()
        yield str(job["id"])


def _form(path: Path, fields: Fields, advance: Callable[[int], None]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            form.add_field(name, json.dumps(each) if isinstance(each, dict) else each)
    pieces = upload_pieces(path, advance)
    form.add_field("file", pieces, filename=path.name, content_type="application/octet-stream")
    return form


async def wait(caller: Caller, job: str, *, shown: bool, nap: Nap = asyncio.sleep) -> dict[str, Any]:
    """The job, once it is over. shown: with a bar on standard error. Raises ClientError."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task("", total=None)  # the bar pulses
        while True:
            async with caller.asking("GET", f"/{_id(job)}") as response:
                found: dict[str, Any] = await response.json()
            if found["status"] in OVER:
                return found
            told = printable(f"{found['name'] or job}: {found['status']}")
            total = 100 if found["progress"] else None
            progress.update(task, description=told, completed=found["progress"], total=total)
            await nap(POLL_S)


async def show_list(caller: Caller, query: Mapping[str, str], console: Console) -> None:
    """Print a page of jobs, newest first, and how to get the next. Raises ClientError."""
    async with caller.asking("GET", "", params=query) as response:
        page = await response.json()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    columns = (
        Column("id", min_width=ID_WIDTH),
        "status",
        Column("%", justify="right"),
        Column("submitted", no_wrap=True),
    )
    table = Table(*columns, Column("name", no_wrap=True, overflow="ellipsis"), box=None, pad_edge=False)
    for job in page["data"]:
        name = Text(printable(job["name"] or ""))
        submitted = datetime.fromisoformat(job["created_at"]).astimezone().strftime("%m-%d %H:%M")
        table.add_row(job["id"], job["status"], str(job["progress"]), submitted, name)
    console.print(table)
    if page["next_cursor"]:
        console.print(Text(f"more: --cursor {page['next_cursor']}"), soft_wrap=True)


async def show(caller: Caller, job: str) -> dict[str, Any]:
    """Raises ClientError."""
    async with caller.asking("GET", f"/{_id(job)}") as response:
        found: dict[str, Any] = await response.json()
        return found


def shown(job: Mapping[str, Any]) -> str:
    """A job as JSON, for people."""
    return json.dumps(job, indent=2, ensure_ascii=False)


async def cancel(caller: Caller, job: str) -> str:
    """Its status. Raises ClientError."""
    async with caller.asking("POST", f"/{_id(job)}/cancel") as response:
        return str((await response.json())["status"])


async def delete(caller: Caller, job: str) -> None:
    """Raises ClientError."""
    async with caller.asking("DELETE", f"/{_id(job)}"):
        pass


async def export(caller: Caller, job: str, query: Mapping[str, str]) -> bytes:
    """What was heard. Raises ClientError."""
    async with caller.asking("GET", f"/{_id(job)}/result", params=query) as response:
        return await response.read()


async def receipts(caller: Caller, job: str) -> bytes:
    """What engines signed of its parts, as JSON. Raises ClientError."""
    async with caller.asking("GET", f"/{_id(job)}/receipts") as response:
        return await response.read()


def _id(job: str) -> str:
    """Raises ClientError for what would be another path."""
    if not job.replace("-", "").isalnum() or not job.isascii():
        raise ClientError("that is no id of a job")
    return job
