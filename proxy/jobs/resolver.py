"""How does a command of the operator's tell where the recording behind a link is?

It is started without arguments and with an environment of two variables, reads the link from its standard input, and
writes a link to the file, one line, on its standard output; it ends with 0, or with anything else when it knows none.
The link does not stand among its arguments, where every user of the machine could read it. What it names is fetched
like any other link: the command is trusted with links, and its answer is not.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from core.program.isolation import FIXED
from proxy.jobs.links import MAX_REDIRECT_CHARS, LinkError, Refusal

_log = structlog.get_logger(__name__)

RESOLVE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class CommandResolver:
    """A `proxy.jobs.fetch.Resolver`. command: an executable file."""

    command: Path
    timeout_s: float = RESOLVE_S

    async def resolve(self, url: str) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                self.command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=FIXED, cwd="/", start_new_session=True
            )
        except OSError as exc:
            _log.warning("resolver_not_started", error=type(exc).__name__)
            raise LinkError(Refusal.PAGE) from exc
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await _asked(process, url)
        except (TimeoutError, OSError, ValueError) as exc:
            _log.warning("resolver_failed", error=type(exc).__name__)
            raise LinkError(Refusal.PAGE) from exc
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it may have started others
            if process.stdout is not None:
                await process.stdout.read()  # of a process whose output is not read to its end asyncio tells no end
            await process.wait()
        return answer


async def _asked(process: Process, url: str) -> str:
    """Raises OSError, ValueError."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("a command without pipes")
    process.stdin.write(f"{url}\n".encode())
    process.stdin.close()
    answer = bytearray()
    while piece := await process.stdout.read(MAX_REDIRECT_CHARS):
        answer += piece
        if len(answer) > MAX_REDIRECT_CHARS:
            raise ValueError("an answer that is no link")
    if await process.wait() != 0:
        raise ValueError("it knows none")
    return answer.decode("ascii").strip()
